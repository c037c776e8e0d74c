import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlbook.lm.policy import Policy
from rlbook.lm.tokenizers import character_tokenizer
from rlbook.show.transformer import (
    attention_sliders,
    attention_weights,
    draw_attention,
    draw_masks,
    draw_parameters,
    parameter_parts,
)

TEXT = "ab ca"


@pytest.fixture(scope="module")
def policy() -> Policy:
    tokenizer = character_tokenizer("abc ", context=16)
    config = GPT2Config(
        n_layer=3, n_head=2, n_embd=8, n_positions=16, vocab_size=len(tokenizer),
        bos_token_id=0, eos_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return Policy(model, tokenizer)


def test_the_weights_are_those_of_transformers(policy: Policy) -> None:
    weights, tokens = attention_weights(policy, TEXT)
    assert tokens == ["a", "b", "␣", "c", "a"]
    with torch.no_grad():
        ids = torch.tensor(policy.encode([TEXT]))
        theirs = policy.model(ids, output_attentions=True).attentions
    np.testing.assert_allclose(weights, torch.cat(theirs).numpy(), atol=1e-5)
    assert weights.shape == (3, 2, 5, 5)
    assert not np.allclose(weights[0, 0], weights[2, 1], atol=0.01)


def test_weights_are_causal_and_sum_to_one(policy: Policy) -> None:
    weights, _ = attention_weights(policy, TEXT)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
    assert (np.triu(weights, 1) == 0).all()


def test_the_picture_shows_one_head_and_the_words_name_the_maximum() -> None:
    weights = np.zeros((2, 2, 3, 3))
    weights[1, 0] = [[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.6, 0.3, 0.1]]
    fig, words = draw_attention(weights, ["a", "b", "c"], layer=2, head=1)
    assert words == "layer 2, head 1: position 2 ('c') looks most at position 0 ('a'), weight 0.60"
    np.testing.assert_array_equal(fig.axes[0].images[0].get_array(), weights[1, 0])
    plt.close(fig)
    fig, words = draw_attention(weights, ["a", "b", "c"], layer=2, head=1, row=1)
    assert words == "layer 2, head 1: position 1 ('b') looks most at position 1 ('b'), weight 0.75"
    assert fig.axes[0].patches[0].get_xy() == (-0.5, 0.5)
    plt.close(fig)


def test_the_masks() -> None:
    fig = draw_masks(4)
    causal, full = (np.asarray(ax.images[0].get_array()) for ax in fig.axes)
    np.testing.assert_array_equal(causal, np.tril(np.ones((4, 4))))
    np.testing.assert_array_equal(full, np.ones((4, 4)))
    plt.close(fig)


def test_every_parameter_is_in_one_part(policy: Policy) -> None:
    parts = parameter_parts(policy.model)
    d, V = 8, policy.vocab_size
    assert parts == {
        "token embedding": V * d,
        "positions": 16 * d,
        "attention": 3 * (4 * d * d + 4 * d),
        "MLP": 3 * (8 * d * d + 5 * d),
        "layer norms": (3 * 2 + 1) * 2 * d,
    }
    assert sum(parts.values()) == sum(p.numel() for p in policy.model.parameters())


def test_bars_are_shares() -> None:
    parts = {"token embedding": 1, "positions": 1, "attention": 2, "MLP": 4, "layer norms": 2}
    fig = draw_parameters({"a": parts, "b": parts})
    widths = [bar.get_width() for bar in fig.axes[0].patches]
    np.testing.assert_allclose(widths, [0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.4, 0.4])
    plt.close(fig)


def test_the_sliders_draw(policy: Policy) -> None:
    box = attention_sliders(policy, TEXT)
    layer, head, row, text, image = box.children
    assert (layer.value, head.value, row.value) == (3, 1, 4)
    before = image.value
    layer.value = 1
    assert image.value != before and text.value.startswith("layer 1, head 1: position 4")
    head.value = 2
    assert text.value.startswith("layer 1, head 2")
    row.value = 0
    assert text.value.startswith("layer 1, head 2: position 0 ('a') looks most at position 0")

"""Chapter 10's exercises: first cases by hand, references against PyTorch and the package."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from rlbook.checks.harness import RIGHT, SEED, judge
from rlbook.checks.transformer import EXERCISES
from rlbook.lm import gpt2
from rlbook.loop import cosine_schedule

BY_HAND = {
    # (1, 3) to (-1, 1) / √(1 + 3), times (2, 4), plus (1, 0)
    "layer_norm": [[0.0, 2.0]],
    # row 1: a quarter of (1, 0) and three quarters of (5, 4)
    "causal_attention": [[1.0, 0.0, 0.0, 0.0], [4.0, 3.0, 0.0, 0.0]],
    "split_heads": [[[0.0, 1.0], [4.0, 5.0]], [[2.0, 3.0], [6.0, 7.0]]],
    # 24 + 42 + 8 in the block, 14 in the embeddings, 4 in the last norm
    "count_parameters": [92],
    # -(log 1/2 + log 3/4) / 2
    "next_token_loss": np.log(8 / 3) / 2,
    "learning_rate": [4.0, 8.0, 8.0, 4.0, 0.0],
}


def cases(name: str) -> list[dict]:
    return EXERCISES[name].cases(np.random.default_rng(SEED))


@pytest.mark.parametrize("name", EXERCISES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    found = np.asarray(EXERCISES[name].reference(**cases(name)[0]))
    np.testing.assert_allclose(found, BY_HAND[name], atol=1e-6)  # float32


def by_torch_norm(x, scale, shift, eps):
    return F.layer_norm(x, scale.shape, scale, shift, eps)


def by_torch_attention(query, key, value):
    return F.scaled_dot_product_attention(query[None], key[None], value[None], is_causal=True)[0]


def by_columns(x, n_head):
    return torch.stack(x.chunk(n_head, dim=1))


def by_the_package(n_layer, d, vocab_size, context):
    sizes = zip(n_layer.tolist(), d.tolist(), strict=True)
    return [gpt2.Size(n, 1, width).parameters(vocab_size, context) for n, width in sizes]


def by_cross_entropy(logits, ids):
    return F.cross_entropy(logits[:-1], ids[1:])


def by_the_loop(step, steps, warmup, peak):
    return [peak * cosine_schedule(int(t), steps, warmup=warmup) for t in step]


OTHERS = {
    "layer_norm": by_torch_norm,
    "causal_attention": by_torch_attention,
    "split_heads": by_columns,
    "count_parameters": by_the_package,
    "next_token_loss": by_cross_entropy,
    "learning_rate": by_the_loop,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_another_program_gives_the_same(name: str) -> None:
    """PyTorch's own functions and the package's share no line with the references."""
    assert judge(name, EXERCISES[name], OTHERS[name]).status == RIGHT


def test_the_count_is_that_of_a_real_network() -> None:
    config = GPT2Config(n_layer=3, n_head=2, n_embd=12, vocab_size=31, n_positions=17)
    real = sum(p.numel() for p in GPT2LMHeadModel(config).parameters())
    counted = EXERCISES["count_parameters"].reference(np.array([3]), np.array([12]), 31, 17)
    assert counted.tolist() == [real]

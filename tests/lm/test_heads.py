"""Values before tokens, scores at the last, and what a head starts as."""

import pytest
import torch
from ragged import ANSWERS, EXACT, PROMPTS, SINGLE, batch
from safetensors.torch import load_file
from small_models import ARCHITECTURES, EOS, VOCAB, char_tokenizer, tiny_gpt2, tiny_llama
from transformers import AutoModelForCausalLM

from rlbook.lm.batch import Responses
from rlbook.lm.heads import ScalarModel, load_scalar_model, sequence_scores, token_values
from rlbook.lm.policy import Policy
from rlbook.lm.tabular_lm import TabularLM


def scalar(architecture="gpt2", dtype=torch.float64, **how):
    """A scalar model with random weights, its bias too."""
    policy = Policy(ARCHITECTURES[architecture]().to(dtype), char_tokenizer())
    model = ScalarModel(policy, init="reward", generator=torch.Generator().manual_seed(0), **how)
    model.head.bias.data.fill_(0.25)
    return model


def naive(model, prompts=PROMPTS, answers=ANSWERS):
    """w · h + b at every token of each text, one text at a time, by transformers itself."""
    w, b = model.head.weight[0], model.head.bias[0]
    for prompt, answer in zip(prompts, answers, strict=True):
        body = model.model.base_model(input_ids=torch.tensor([prompt + answer]))
        yield len(prompt), len(answer), body.last_hidden_state[0] @ w + b


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_values_and_scores_equal_a_naive_loop(architecture):
    model, responses = scalar(architecture), batch()
    values, scores = token_values(model, responses), sequence_scores(model, responses)
    rows = list(naive(model))
    for row, (P, T, numbers) in enumerate(rows):
        # a_0 is chosen after the last prompt token, P-1; the last token, P+T-1, is nobody's state
        torch.testing.assert_close(values[row, :T], numbers[P - 1 : P + T - 1], **EXACT)
        assert (values[row, T:] == 0).all()
        torch.testing.assert_close(scores[row], numbers[P + T - 1], **EXACT)
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected = sum(numbers[P - 1 : -1].square().sum() + numbers[-1] for P, _, numbers in rows)
    ours = torch.autograd.grad(
        values.square().sum() + scores.sum(), parameters, allow_unused=True, materialize_grads=True
    )
    theirs = torch.autograd.grad(expected, parameters, allow_unused=True, materialize_grads=True)
    # RMSNorm of transformers rounds to float32 on its way, GPT-2's LayerNorm does not
    tolerance = EXACT if architecture == "gpt2" else {"rtol": 1e-4, "atol": 1e-5}
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def test_padding_and_what_stands_in_it_change_nothing():
    model, plain, wide = scalar(dtype=torch.float32), batch(), batch(extra=(7, 4))
    T = plain.response_ids.shape[1]
    junk = Responses(
        wide.prompt_ids.masked_fill(~wide.prompt_mask, VOCAB - 1),
        wide.prompt_mask,
        wide.response_ids.masked_fill(~wide.response_mask, VOCAB - 2),
        wide.response_mask,
        wide.sampler_logprobs,
        wide.texts,
    )
    values = token_values(model, junk)
    torch.testing.assert_close(values[:, :T], token_values(model, plain), **SINGLE)
    assert (values[:, T:] == 0).all()
    expected = sequence_scores(model, plain)
    torch.testing.assert_close(sequence_scores(model, junk), expected, **SINGLE)
    order = [3, 1, 0, 2]
    torch.testing.assert_close(
        sequence_scores(model, plain.select(order)), expected[order], **SINGLE
    )


def test_a_value_sees_what_came_before_its_token_and_a_score_sees_all():
    model = scalar()
    ends = [[20, 21, 22], [20, 21, EOS]]  # two texts that differ in their last token
    values = token_values(model, batch([[5, 6]] * 2, ends))
    scores = sequence_scores(model, batch([[5, 6]] * 2, ends))
    torch.testing.assert_close(values[0], values[1], **EXACT)
    assert abs(scores[0] - scores[1]) > 1e-3


# --- how it starts ---------------------------------------------------------------------------


def test_zero_starts_at_0():
    model = ScalarModel(Policy(tiny_gpt2(), char_tokenizer()), init="zero")
    assert (token_values(model, batch()) == 0).all()
    token_values(model, batch()).sum().backward()
    assert model.head.weight.grad.abs().sum() > 0  # and yet it learns


def test_reward_starts_at_std_one_over_root_d_plus_1():
    """128 heads of 32 weights: the standard deviation of all 4096 is within 8% of σ except with
    probability below 1e-11 (its own is σ/√(2·4096) = 1.1%, and 8% is seven of these)."""
    policy = Policy(tiny_gpt2(), None)
    global_state = torch.random.get_rng_state()
    generator = torch.Generator().manual_seed(1)
    models = [
        ScalarModel(policy, init="reward", share=True, generator=generator) for _ in range(128)
    ]
    weights = torch.cat([model.head.weight for model in models])
    assert weights.std().item() == pytest.approx(33**-0.5, rel=0.08)
    assert all(model.head.bias.item() == 0 for model in models)
    assert torch.equal(torch.random.get_rng_state(), global_state)
    again = ScalarModel(
        policy, init="reward", share=True, generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(again.head.weight, weights[:1])


def test_a_copy_learns_by_itself_and_a_shared_body_does_not():
    policy = Policy(tiny_gpt2(), char_tokenizer())
    theirs = policy.model.transformer.wte.weight
    copied, shared = (ScalarModel(policy, init="zero", share=share) for share in (False, True))
    assert shared.model is policy.model
    assert any(parameter is theirs for parameter in shared.parameters())
    assert not any(parameter is theirs for parameter in copied.parameters())
    torch.testing.assert_close(copied.model.transformer.wte.weight, theirs, rtol=0, atol=0)
    assert policy.model is not copied.model
    assert copied.policy.model is copied.model


def test_a_bfloat16_model_keeps_its_head_in_float32():
    model = scalar(dtype=torch.bfloat16)
    assert model.head.weight.dtype == torch.float32
    assert sequence_scores(model, batch()).dtype == torch.float32


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_a_folder_gives_the_same_model_back(architecture, tmp_path):
    model = scalar(architecture, dtype=torch.float32)
    folder = model.save(tmp_path / "reward")
    loaded = load_scalar_model(folder, device="cpu")
    for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(sequence_scores(loaded, batch()), sequence_scores(model, batch()))
    assert loaded.policy.encode(["1+2"]) == model.policy.encode(["1+2"])
    AutoModelForCausalLM.from_pretrained(folder)  # a plain folder, with one more file
    assert set(load_file(folder / "scalar_head.safetensors")) == {"weight", "bias"}


def test_refusals(tmp_path):
    policy = Policy(tiny_llama(), char_tokenizer())
    with pytest.raises(ValueError, match="'ones' is neither 'zero' nor 'reward'"):
        ScalarModel(policy, init="ones")
    with pytest.raises(ValueError, match="pass generator="):
        ScalarModel(policy, init="reward")
    policy.save(tmp_path)
    with pytest.raises(ValueError, match=r"no scalar_head.safetensors in it; to put a new head"):
        load_scalar_model(tmp_path)
    empty = batch([[5], [6]], [[7], []])
    with pytest.raises(ValueError, match="response 1 has no tokens"):
        sequence_scores(ScalarModel(policy, init="zero"), empty)


def test_a_table_has_no_hidden_states():
    table = TabularLM.with_eos(torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="TabularLM has no hidden states"):
        ScalarModel(Policy(table, None), init="zero")

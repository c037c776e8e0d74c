"""Supervised fine-tuning: the loss by hand and against naive loops; micro-batches; resuming."""

import copy
import math
from dataclasses import replace
from itertools import islice

import pytest
import torch
from small_policies import ARCHITECTURES, small_policy
from torch import nn

from rlbook.lm.policy import Policy
from rlbook.lm.tabular_lm import TabularLM
from rlbook.loop import LoopState, cosine_schedule, warmup_stable_decay
from rlbook.posttrain.packing import encode_examples, micro_batches
from rlbook.posttrain.sft import PACKED, SFTConfig, sft, sft_loss

PAIRS = [
    ("1+2=", "3."), ("7-4-1=", "7-4=3;3-1=2."), ("9*9=", "1."), ("2+2+2+2=", "2+2=4;4+2=6;6+2=8."),
    ("0-1=", "9."), ("3*3*3=", "3*3=9;9*3=7."), ("5+5=", "0."), ("8=", "8"),
]  # fmt: skip
CONFIG = SFTConfig(steps=6, batch_size=4, learning_rate=1e-2, warmup=2)


def naive_loss(policy: Policy, pairs, *, mask_prompt: bool) -> torch.Tensor:
    """One text at a time through the model's own forward, one token at a time through log π."""
    terms = []
    for prompt, response in pairs:
        given = policy.encode([prompt])[0]
        ids = [*given, *policy.encode([response])[0], policy.eos_id]
        logits = policy.model(input_ids=torch.tensor([ids])).logits[0]
        for t in range(len(given) if mask_prompt else 1, len(ids)):
            terms.append(-torch.log_softmax(logits[t - 1], dim=0)[ids[t]])
    return torch.stack(terms).mean()


def gradient(model: nn.Module) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return found


def losses(policy: Policy, examples, *, capacity: int | None, cells: int = 10**6):
    """The loss and its gradient, summed over micro-batches."""
    pieces = list(micro_batches(examples, capacity=capacity, cells=cells, pad_id=policy.pad_id))
    count = sum(example.learnt for example in examples)
    total = 0.0
    for piece in pieces:
        loss = sft_loss(policy.model, piece, denominator=count)
        loss.backward()
        total += loss.item()
    return total, gradient(policy.model), len(pieces)


def uniform(policy: Policy) -> Policy:
    """The same policy with every weight 0: each token has probability 1/V."""
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.zero_()
    return policy


def test_a_model_that_knows_nothing_loses_log_v_per_token(policy):
    V = policy.vocab_size
    (report,) = islice(sft(uniform(policy), PAIRS, CONFIG), 1)
    assert report["loss"] == pytest.approx(math.log(V), abs=1e-5)


@pytest.mark.parametrize("mask_prompt", [True, False])
def test_the_loss_is_the_naive_one(exact_policy, mask_prompt):
    examples = encode_examples(exact_policy, PAIRS, mask_prompt=mask_prompt)
    loss, grad, _ = losses(exact_policy, examples, capacity=None)
    expected = naive_loss(exact_policy, PAIRS, mask_prompt=mask_prompt)
    assert loss == pytest.approx(expected.item(), abs=1e-9)
    expected.backward()
    torch.testing.assert_close(grad, gradient(exact_policy.model), rtol=0, atol=1e-9)


@pytest.mark.parametrize("mask_prompt", [True, False])
@pytest.mark.parametrize("capacity", [30, 64])
def test_packed_equals_unpacked(exact_policy, mask_prompt, capacity):
    examples = encode_examples(exact_policy, PAIRS, mask_prompt=mask_prompt)
    apart, together = (losses(exact_policy, examples, capacity=c) for c in (None, capacity))
    rows = next(micro_batches(examples, capacity=capacity, cells=10**6, pad_id=1))
    assert (rows.text > 0).any()
    assert together[0] == pytest.approx(apart[0], abs=1e-9)
    torch.testing.assert_close(together[1], apart[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_equals_unpacked_in_every_architecture_that_is_packed(architecture):
    """Loss and gradient, in float64."""
    policy = small_policy(architecture, dtype=torch.float64)
    assert policy.model.config.model_type in PACKED
    examples = encode_examples(policy, PAIRS)
    apart, together = (losses(policy, examples, capacity=c) for c in (None, 64))
    assert together[0] == pytest.approx(apart[0], abs=1e-9)
    torch.testing.assert_close(together[1], apart[1], rtol=0, atol=1e-9)


def test_every_packed_architecture_is_tested():
    assert {config.model_type for _, config, _ in ARCHITECTURES.values()} == PACKED


def test_without_reset_positions_or_the_mask_packing_is_another_loss(exact_policy):
    """So the equality above is one of both."""
    examples = encode_examples(exact_policy, PAIRS)
    rows = next(micro_batches(examples, capacity=64, cells=10**6, pad_id=1))
    right = sft_loss(exact_policy.model, rows).item()
    running = torch.arange(rows.ids.shape[1]).expand_as(rows.ids).where(rows.learnt, 0)
    joined = torch.zeros_like(rows.text)
    for changes in ({"position_ids": running}, {"text": joined}):
        assert abs(sft_loss(exact_policy.model, replace(rows, **changes)).item() - right) > 1e-3


@pytest.mark.parametrize("cells", [1, 40, 100])
def test_micro_batches_add_up_to_the_batch(exact_policy, cells):
    """However unequal their tokens."""
    examples = encode_examples(exact_policy, PAIRS)
    whole, pieces = (losses(exact_policy, examples, capacity=32, cells=c) for c in (10**6, cells))
    assert whole[2] == 1 and pieces[2] > 1
    assert pieces[0] == pytest.approx(whole[0], abs=1e-9)
    torch.testing.assert_close(pieces[1], whole[1], rtol=0, atol=1e-9)


def test_a_step_is_adamw_on_the_naive_loss(exact_policy):
    """One batch of all pairs: the weights after a step are those of a loop of one's own."""
    other = copy.deepcopy(exact_policy.model)
    config = replace(CONFIG, batch_size=len(PAIRS), weight_decay=0.1, max_grad_norm=0.5)
    (report,) = islice(sft(exact_policy, PAIRS, config), 1)

    naive = Policy(other, exact_policy.tokenizer)
    matrices = [p for p in other.parameters() if p.ndim >= 2]
    vectors = [p for p in other.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1e-2 / 2, betas=(0.9, 0.95), foreach=False)
    naive_loss(naive, PAIRS, mask_prompt=True).backward()
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in other.parameters()]))
    for parameter in other.parameters():
        parameter.grad *= 0.5 / norm
    optimiser.step()

    assert norm > 0.5
    assert report["grad_norm"] == pytest.approx(norm.item(), abs=1e-9)
    assert report["learning_rate"] == 1e-2 / 2  # the first of two steps of warm-up
    # clip_grad_norm_ divides by the norm plus 1e-6, which Adam's first step leaves nothing of.
    for ours, theirs in zip(exact_policy.model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_a_run_of_micro_batches_ends_where_whole_batches_do(exact_policy):
    other = Policy(copy.deepcopy(exact_policy.model), exact_policy.tokenizer)
    whole = list(sft(exact_policy, PAIRS, CONFIG))
    cut = list(sft(other, PAIRS, replace(CONFIG, micro_tokens=1, row_tokens=32)))
    for a, b in zip(whole, cut, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-9)


def test_every_example_comes_once_in_a_pass(policy):
    """Two passes of 8 examples in 4 batches: each pass counts all tokens."""
    total = sum(len(example.ids) for example in encode_examples(policy, PAIRS))
    reports = list(sft(policy, PAIRS, replace(CONFIG, steps=4)))
    assert [report.update for report in reports] == [1, 2, 3, 4]
    assert [reports[1].samples, reports[3].samples] == [total, 2 * total]
    assert sum(report["tokens"] for report in reports) == 2 * total
    assert len({report["tokens"] for report in reports}) > 2  # shuffled anew


def test_the_order_comes_from_the_seed(policy):
    def curve(seed: int) -> list[float]:
        fresh = Policy(copy.deepcopy(policy.model), policy.tokenizer)
        return [report["loss"] for report in sft(fresh, PAIRS, replace(CONFIG, seed=seed))]

    torch.manual_seed(1)
    first = curve(5)
    torch.manual_seed(2)
    assert curve(5) == first and curve(6) != first


def test_it_learns_by_heart(policy):
    reports = list(sft(policy, PAIRS, replace(CONFIG, steps=80, batch_size=8)))
    assert reports[-1]["loss"] < 0.05 < 1.0 < reports[0]["loss"]


def test_packing_saves_cells_and_is_not_needed(policy):
    config = replace(CONFIG, steps=1, batch_size=8, warmup=0)
    other = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    (packed,), (apart,) = sft(policy, PAIRS, config), sft(other, PAIRS, replace(config, pack=False))
    longest = max(len(example.ids) for example in encode_examples(policy, PAIRS))
    assert apart["cells"] == 8 * longest
    assert packed["tokens"] == apart["tokens"] <= packed["cells"] < apart["cells"]
    assert packed["loss"] == pytest.approx(apart["loss"], abs=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "warmup-stable-decay"])
def test_the_rate_follows_the_schedule(policy, schedule):
    config = replace(CONFIG, schedule=schedule, decay=3 if schedule != "cosine" else 0)
    rates = [report["learning_rate"] / 1e-2 for report in sft(policy, PAIRS, config)]
    if schedule == "cosine":
        assert rates == pytest.approx([cosine_schedule(t, 6, warmup=2) for t in range(6)])
    else:
        assert rates == pytest.approx([1 / 2, 1, 1, 1, 2 / 3, 1 / 3])
        assert rates[3] == warmup_stable_decay(3, 6, warmup=2, decay=3)


def test_going_on_is_bit_for_bit_the_same(policy, tmp_path):
    """Stopped in the middle of a pass, weights and state through files."""
    straight = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    config = replace(CONFIG, steps=7, batch_size=3)
    expected = list(sft(straight, PAIRS, config))

    state = LoopState()
    first = list(islice(sft(policy, PAIRS, config, state=state), 4))
    policy.save(tmp_path), state.save(tmp_path / "state.pt")
    again = Policy(type(policy.model).from_pretrained(tmp_path), policy.tokenizer)
    rest = list(sft(again, PAIRS, config, state=LoopState.load(tmp_path / "state.pt")))

    assert [report.update for report in rest] == [5, 6, 7]
    assert [*first, *rest] == expected
    for a, b in zip(again.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_table_learns_the_frequencies():
    """Token ids, and no tokenizer: answers 1∎ and 0∎ to the prompt 0, 3 to 1."""
    model = TabularLM([[0]], vocab_size=3, max_new_tokens=3, eos_id=2)
    policy = Policy(model, None)
    examples = [((0,), (1,))] * 3 + [((0,), (0, 2))]
    config = replace(CONFIG, steps=150, learning_rate=0.3, warmup=0)
    *_, last = sft(policy, examples, config)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    # Of two tokens per answer one is certain. Its logit is still rising, hence the tolerance.
    assert last["loss"] == pytest.approx(entropy / 2, abs=1e-3)
    assert last["tokens"] == last["cells"] == 12


def test_only_what_can_be_trained_is_trained(policy):
    for parameter in policy.model.transformer.h[0].parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(policy.model).state_dict()
    list(sft(policy, PAIRS, CONFIG))
    moved = {
        name: not torch.equal(before[name], parameter)
        for name, parameter in policy.model.named_parameters()
    }
    assert moved == {name: "h.0." not in name for name in moved}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "linear"}, "schedule='linear' is unknown: use one of 'cosine'"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"micro_tokens": 0}, "micro_tokens=0"),
        ({"warmup": 7}, "7 steps of warm-up and decay"),
    ],
)
def test_settings_that_mean_nothing_are_refused(policy, changes, message):
    with pytest.raises(ValueError, match=message):
        next(sft(policy, PAIRS, replace(CONFIG, **changes)))


def test_bfloat16_rounds_and_keeps_the_weights_in_float32():
    found = {}
    for on in (False, True):
        policy = small_policy("gpt2")
        found[on] = list(sft(policy, PAIRS, replace(CONFIG, bf16=on)))
        assert all(p.dtype == torch.float32 for p in policy.model.parameters())
    for plain, rounded in zip(found[False], found[True], strict=True):
        assert plain["loss"] != rounded["loss"]
        assert plain["loss"] == pytest.approx(rounded["loss"], rel=0.03)  # 8 bits of mantissa

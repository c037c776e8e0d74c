"""The estimate of memory against what autograd keeps, and against sums done by hand."""

import itertools

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlbook.lm import gpt2
from rlbook.lm.backbone import hidden_states, recomputed_blocks
from rlbook.lm.gpt2 import SIZES, Size
from rlbook.lm.sampling import _Choice
from rlbook.loop import bfloat16_forward
from rlbook.posttrain.memory import MODELS, RESERVE, memory_of, plan

CPU = torch.device("cpu")


def kept_bytes(size: Size, B: int, L: int, *, bf16: bool, recompute: bool = False) -> int:
    """Bytes that the forward pass of the body keeps for the backward pass, parameters apart."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=size.n_layer, n_head=size.n_head, n_embd=size.d, n_positions=128, vocab_size=50,
        bos_token_id=None, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).train(recompute)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    ids = torch.randint(0, 50, (B, L))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        bfloat16_forward(CPU, on=bf16),
        recomputed_blocks(model, on=recompute),
    ):
        hidden_states(
            model, ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(L).expand(B, L)
        )
    return sum(x.untyped_storage().nbytes() for at, x in kept.items() if at not in own)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("d, n_head, B, L", [(64, 4, 4, 32), (128, 2, 2, 96)])
def test_activations_are_what_autograd_keeps(d, n_head, B, L, bf16):
    few, many = Size(1, n_head, d), Size(4, n_head, d)
    per_block = (kept_bytes(many, B, L, bf16=bf16) - kept_bytes(few, B, L, bf16=bf16)) / 3
    tokens = B * L
    expected = tokens * (d * (36 if bf16 else 64) + 4 * n_head + 16)
    copies = 2 * 12 * d**2 if bf16 else 0  # its weights in 16 bits; biases are not copied
    assert per_block == pytest.approx(expected + copies, rel=0.01)

    def training(size: Size) -> float:
        return (
            1e9
            * memory_of(
                size, trained=1, frozen=0, micro_tokens=tokens, bf16=bf16, vocab_size=50
            ).training
        )

    own = 2 * (many.parameters(50) - few.parameters(50)) if bf16 else 0
    assert training(many) - training(few) == pytest.approx(3 * expected + own, rel=1e-9)


def test_recomputing_keeps_the_inputs_of_the_blocks():
    d, B, L = 64, 4, 32
    few, many = (kept_bytes(Size(n, 4, d), B, L, bf16=False, recompute=True) for n in (2, 6))
    assert (many - few) / 4 == pytest.approx(B * L * 4 * d, rel=0.01)
    less, more = (
        memory_of(
            Size(n, 4, d), trained=1, frozen=0, micro_tokens=B * L, bf16=False, recompute=True
        ).training
        for n in (2, 6)
    )
    assert more - less == pytest.approx(4 * B * L * 4 * d / 1e9)


@pytest.mark.parametrize("bf16", [False, True])
def test_keys_and_values_are_as_large_as_the_cache(bf16):
    size, B, L = Size(2, 4, 64), 3, 40
    config = GPT2Config(n_layer=2, n_head=4, n_embd=64, vocab_size=50, eos_token_id=0)
    with bfloat16_forward(CPU, on=bf16):
        cache = gpt2.Cache(GPT2LMHeadModel(config), B, L)
    own = sum(x.untyped_storage().nbytes() for x in (*cache.keys, *cache.values))
    ways = {"trained": 1, "frozen": 0, "micro_tokens": 1, "rows": B, "bf16": bf16, "vocab_size": 50}
    longer, shorter = (memory_of(size, length=length, **ways).sampling for length in (2 * L, L))
    assert longer - shorter == pytest.approx(own / 1e9)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_choice_takes_what_the_profiler_sees(bf16):
    rows, V = 40, 20_000
    logits = torch.zeros(rows, V, dtype=torch.bfloat16 if bf16 else torch.float32)
    choose = _Choice(1.0, None, None, torch.full((1, rows), 0.5, dtype=torch.float64))
    choose(logits, 0, None)  # what is made once only
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as seen:
        choose(logits, 0, None)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    most = max(itertools.accumulate(e.nbytes() for e in events))
    ways = {"trained": 1, "frozen": 0, "micro_tokens": 1, "length": 1, "bf16": bf16}
    more, fewer = (
        memory_of(Size(1, 4, 64), rows=rows, vocab_size=size, **ways).sampling
        - memory_of(Size(1, 4, 64), rows=0, vocab_size=size, **ways).sampling
        for size in (2 * V, V)
    )
    copies = 2 * V * 64 if bf16 else 0  # of the embedding, in 16 bits
    assert 1e9 * (more - fewer) - copies == pytest.approx(most + logits.nbytes, rel=0.01)


def test_what_is_fixed_by_hand():
    n = 124_439_808
    memory = memory_of(SIZES["124M"], trained=2, frozen=1, micro_tokens=1)
    assert memory.trained == pytest.approx(2 * (4 + 4 + 8) * n / 1e9)  # weight, gradient, Adam
    assert memory.frozen == pytest.approx(4 * n / 1e9)
    assert memory.peak == memory.trained + memory.frozen + memory.training
    sampled = memory_of(SIZES["124M"], trained=2, frozen=1, micro_tokens=1, rows=512)
    assert sampled.sampling > sampled.training
    assert sampled.peak == memory.trained + memory.frozen + sampled.sampling


def test_a_plan_fits_and_turns_down_micro_tokens_first_and_rows_last():
    asked = 256
    for method in MODELS:
        for size in ("124M", "355M"):
            before = None
            for gigabytes in (40, 24, 16, 12, 8):
                try:
                    found = plan(method, SIZES[size], gigabytes, rows=asked)
                except ValueError:
                    break
                assert found.memory.peak + RESERVE <= gigabytes
                order = (-found.rows, found.recompute, -found.micro_tokens)
                assert before is None or order >= before
                before = order
                if found.rows not in (0, asked):  # nothing but fewer rows was left
                    trained, frozen = MODELS[method]
                    frugal = memory_of(
                        SIZES[size], trained=trained, frozen=frozen, micro_tokens=1_024,
                        rows=2 * found.rows, recompute=True,
                    )  # fmt: skip
                    assert frugal.peak + RESERVE > gigabytes
    roomy = plan("GRPO", SIZES["124M"], 80)
    assert (roomy.micro_tokens, roomy.recompute, roomy.rows) == (16_384, False, 256)
    assert plan("GRPO", SIZES["124M"], roomy.memory.peak + RESERVE - 0.01).micro_tokens == 8_192
    assert plan("PPO", SIZES["124M"], 8).rows == 128


def test_dpo_on_pairs_draws_nothing():
    found = plan("DPO", SIZES["124M"], 24, rows=1_000_000)
    assert found.memory.sampling == 0 and found.rows == 0
    assert plan("GRPO", SIZES["124M"], 24, rows=10_000).rows == 1_250


def test_what_cannot_be_planned():
    with pytest.raises(ValueError, match="method='SFT' is not one of 'PPO'"):
        plan("SFT", SIZES["124M"], 24)
    with pytest.raises(ValueError, match=r"PPO of this size needs .* the card has 8: share one"):
        plan("PPO", SIZES["1.5B"], 8)

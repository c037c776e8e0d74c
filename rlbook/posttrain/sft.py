"""Supervised fine-tuning: make given responses likelier. With whole texts it is pretraining.

    L = - Σ log π(y_t | x, y_<t) / number of the tokens y_t that count

over the response tokens of a batch, EOS included (Ouyang et al. 2022, section 3.5, step 1); with
``mask_prompt=False`` over all tokens but the first of each text, as a language model is
pretrained.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlbook.functional.masked import aggregate
from rlbook.lm.backbone import unwrapped
from rlbook.lm.logprobs import token_logprobs
from rlbook.lm.policy import Policy
from rlbook.loop import (
    LoopState,
    accumulated_step,
    bfloat16_forward,
    cosine_schedule,
    set_learning_rate,
    warmup_stable_decay,
)
from rlbook.posttrain.packing import Example, Rows, encode_examples, micro_batches
from rlbook.report import StepReport

SCHEDULES = {"cosine": cosine_schedule, "warmup-stable-decay": warmup_stable_decay}
# Architectures whose attention takes a mask [R, 1, L, L]; others get one text per row.
PACKED = {"gpt2", "llama", "qwen2", "qwen3"}


@dataclass(frozen=True)
class SFTConfig:
    """Settings of supervised fine-tuning.

    Attributes:
        steps: optimiser steps. batch_size: examples in each; they come in shuffled passes.
        mask_prompt: learn the responses only; False learns prompts too: pretraining.
        pack: several texts in a row (GPT-2, Llama, Qwen 2 and 3; others take one in a row).
        row_tokens: capacity of a packed row in tokens; None is the model's context. Attention
            costs its square.
        micro_tokens: most cells, padding included, in one forward pass. Memory alone depends
            on it: the gradient is that of the whole batch.
        learning_rate: peak, of AdamW. About 1e-3 suits the book's small models, 2e-5 large ones.
        schedule: "cosine" or "warmup-stable-decay" (``rlbook.loop``).
        warmup, decay: steps of its lines; decay belongs to the second alone.
        betas, weight_decay: of AdamW; biases and layer norms do not decay.
        max_grad_norm: longest gradient of all parameters together; None does not clip.
        bf16: train in bfloat16, with weights in float32: for a GPU.
        seed: of the order of the examples.
    """

    steps: int = 300
    batch_size: int = 64
    mask_prompt: bool = True
    pack: bool = True
    row_tokens: int | None = None
    micro_tokens: int = 16_384
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup: int = 10
    decay: int = 0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    bf16: bool = False
    seed: int = 0


def sft(
    policy: Policy,
    examples: Sequence[tuple[str | Sequence[int], str | Sequence[int]]],
    config: SFTConfig,
    *,
    state: LoopState | None = None,
) -> Iterator[StepReport]:
    """Train ``policy`` in place on (prompt, response) pairs; yields a report after each step.

    Metrics: ``loss`` in nats per token that counts, before the step; ``grad_norm`` before
    clipping; ``learning_rate`` of the step; ``tokens`` in its texts, and ``cells`` in its rows,
    padding included. ``samples`` counts tokens.

    Args:
        examples: texts, or token ids; EOS is appended to each response. A prompt may be empty
            with ``mask_prompt=False``.
        state: to stop and go on (``rlbook.loop.LoopState``).

    Raises:
        ValueError: no examples; one that is longer than the context, or has nothing to learn
            (which); an unknown schedule; a loss that is not finite.

    Book: 13_sft; 10_gpt2 for pretraining.
    """
    _check(config)
    learnt = encode_examples(policy, examples, mask_prompt=config.mask_prompt)
    capacity = _row_capacity(policy, learnt, config)
    state = LoopState() if state is None else state
    optimiser = adamw(policy.model, config)
    state.start(optimiser, torch.Generator().manual_seed(config.seed))
    while state.step < config.steps:
        rate = config.learning_rate * _share_of_peak(config, state.step)
        set_learning_rate(optimiser, rate)
        batch = [learnt[i] for i in state.next_examples(len(learnt), config.batch_size)]
        rows = list(
            micro_batches(batch, capacity=capacity, cells=config.micro_tokens, pad_id=policy.pad_id)
        )
        count = sum(example.learnt for example in batch)
        losses = (_loss(policy, piece, config, denominator=count) for piece in rows)
        loss, norm = accumulated_step(optimiser, losses, max_grad_norm=config.max_grad_norm)
        tokens = sum(len(example.ids) for example in batch)
        state.step, state.samples = state.step + 1, state.samples + tokens
        metrics = {"loss": loss, "grad_norm": norm, "learning_rate": rate, "tokens": float(tokens)}
        metrics["cells"] = float(sum(piece.ids.numel() for piece in rows))
        yield StepReport(state.step, state.samples, metrics)


def sft_loss(model: nn.Module, rows: Rows, *, denominator: int | None = None) -> Float[Tensor, ""]:
    """Minus the mean log-probability of the tokens that count, in nats.

    Args:
        denominator: how many tokens count in the whole step; default: in these rows.

    Book: 13_sft.
    """
    logprobs = token_logprobs(model, rows.ids, rows.mask, rows.position_ids, rows.learnt)
    return aggregate(-logprobs, rows.learnt, "token-mean", denominator=denominator)


def _loss(policy: Policy, rows: Rows, config: SFTConfig, *, denominator: int) -> Float[Tensor, ""]:
    with bfloat16_forward(policy.device, on=config.bf16):
        return sft_loss(policy.model, rows.to(policy.device), denominator=denominator)


def adamw(model: nn.Module, config: SFTConfig) -> torch.optim.AdamW:
    """AdamW over what can be trained; only matrices decay, not biases and layer norms.

    Source: Loshchilov and Hutter (2019), algorithm 2; the exception: Brown et al. (2020) and
    common practice.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def _row_capacity(policy: Policy, examples: list[Example], config: SFTConfig) -> int | None:
    """Tokens of a packed row, or None for one text in a row."""
    kind = getattr(unwrapped(policy.model).config, "model_type", None)
    if not config.pack or kind not in PACKED:
        return None
    longest = max(len(example.ids) for example in examples)
    return max(min(config.row_tokens or policy.context, policy.context), longest)


def _share_of_peak(config: SFTConfig, step: int) -> float:
    lines = {"warmup": config.warmup}
    if config.schedule == "warmup-stable-decay":
        lines["decay"] = config.decay
    return SCHEDULES[config.schedule](step, config.steps, **lines)


def _check(config: SFTConfig) -> None:
    if config.schedule not in SCHEDULES:
        raise ValueError(
            f"schedule={config.schedule!r} is unknown: use one of {', '.join(map(repr, SCHEDULES))}"
        )
    for name in ("steps", "batch_size", "micro_tokens"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1")
    _share_of_peak(config, 0)

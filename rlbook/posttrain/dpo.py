"""DPO, IPO and KTO: learn from preferences without a reward model, as a classification of texts.

    r̂(y) = β log( π(y|x) / π_ref(y|x) ),    L = -log σ( r̂(y_w) - r̂(y_l) )

is Bradley-Terry's loss of the reward that the policy itself implies. The log-probabilities of
π_ref never change, so those of given pairs are computed once, before the first step.

    dpo(policy, preferences, config)          given pairs (offline)
    dpo(policy, task, config, ref=ref)        the policy's own, judged anew at each step (online)

Batches are named as in ppo.py; a micro-batch holds whole pairs. Letters: n pairs, b of a batch.

Deviations: the loss sums log-probabilities over a response, for IPO as well (its authors average:
``per_token=True``); KTO takes pairs apart into one desirable and one undesirable response.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlbook.functional.masked import aggregate
from rlbook.functional.preference_losses import (
    dpo_loss,
    ipo_loss,
    kto_loss,
    kto_reference_point,
)
from rlbook.lm.backbone import recomputed_blocks
from rlbook.lm.batch import Responses
from rlbook.lm.policy import Policy
from rlbook.lm.tasks.task import Task
from rlbook.loop import LoopState, accumulated_step, bfloat16_forward
from rlbook.posttrain.experience import check_same_vocabulary, gather_experience, scored
from rlbook.posttrain.pairs import (
    Pairs,
    best_and_worst,
    encode_pairs,
    pair_logprobs,
    pair_pieces,
    paired,
)
from rlbook.posttrain.reward_model import Preference
from rlbook.report import StepReport

LOSSES = ("dpo", "ipo", "kto")
METRICS = (
    "loss", "chosen", "rejected", "chosen_change", "rejected_change", "margin", "accuracy",
    "grad_norm",
)  # fmt: skip


@dataclass(frozen=True)
class DPOConfig:
    """Settings of DPO and its kin.

    Attributes:
        steps: optimiser steps.
        batch_size: pairs in each, in shuffled passes; of a task: prompts, of which not all may
            give a pair.
        micro_tokens: most cells of one forward pass, padding included; None: a whole batch.
            Memory alone depends on it.
        learning_rate: of AdamW, without weight decay; constant. 1e-4 suits the book's small
            models, 5e-7 large ones.
        loss: "dpo", "ipo" or "kto" (``rlbook.functional.preference_losses``).
        beta: β, the price of KL in units of reward per nat; for "ipo" the margin stops at 1/(2β).
        label_smoothing: share of labels believed to be flipped, for "dpo" alone.
        per_token: divide each log-ratio by its response's length first; for "dpo" and "ipo".
        desirable_weight, undesirable_weight: λ of the two kinds of response, for "kto" alone.
        samples_per_prompt: K, of which best and worst make a pair, where pairs come from a task.
        temperature: of their sampling; all log-probabilities are those of temperature 1.
        max_grad_norm: longest gradient; None does not clip.
        bf16, recompute: as in ``PPOConfig``.
        seed: of the order of the pairs, or of problems and samples.
    """

    steps: int = 100
    batch_size: int = 64
    micro_tokens: int | None = None
    learning_rate: float = 1e-4
    loss: str = "dpo"
    beta: float = 0.1
    label_smoothing: float = 0.0
    per_token: bool = False
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    samples_per_prompt: int = 2
    temperature: float | int = 1.0
    max_grad_norm: float | None = 1.0
    bf16: bool = False
    recompute: bool = False
    seed: int = 0


def dpo(
    policy: Policy,
    pairs: Sequence[Preference] | Task,
    config: DPOConfig,
    *,
    ref: Policy | None = None,
    state: LoopState | None = None,
) -> Iterator[StepReport]:
    """Train ``policy`` in place on preferences; yields a report after each step.

        h = log π(y_w)/π_ref(y_w) - log π(y_l)/π_ref(y_l)
        L = -log σ(β h)  (DPO),    (h - 1/(2β))²  (IPO);    KTO: ``kto_loss``

    Metrics, means over the pairs of the step, before it: ``loss`` (KTO: per response);
    ``chosen``, ``rejected`` log π of the whole response, in nats; ``chosen_change``,
    ``rejected_change`` the same less that of π_ref; ``margin`` β (their difference), in units of
    reward; ``accuracy`` share of pairs with margin above 0, a tie counts half; ``grad_norm``
    before clipping. With "kto" ``kl``, its reference point in nats. Of a task's samples:
    ``reward`` mean, and ``pairs``, how many they gave; where they gave none, no step is made, and
    the others are NaN. ``samples`` counts pairs.

    Args:
        pairs: preferences of two texts (``load_preferences``, ``preferences_of``); or a task: the
            policy answers, and best and worst answer to a prompt make a pair.
        ref: π_ref, frozen. Default: the policy as it is now; a task needs one.
        state: to stop and go on; it keeps the reference's log-probabilities of given pairs.

    Raises:
        ValueError: no pairs, or a ranking; a text that does not fit; settings out of range; a
            task without a reference.

    Book: 19_dpo. Source: Rafailov et al. (2023), section 4; Guo et al. (2024) for pairs of the
    policy's own.
    """
    _check(config, policy, pairs, ref)
    state = LoopState() if state is None else state
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(config.seed)
    state.start(optimiser, generator)
    if not isinstance(pairs, Task):
        data = encode_pairs(policy, pairs, with_other=config.loss == "kto")
        reference = _kept_reference(policy if ref is None else ref, data, config, state)
    while state.step < config.steps:
        drawn: dict[str, float] = {}
        if isinstance(pairs, Task):
            data, reward = sample_pairs(policy, pairs, config, generator)
            rows = torch.arange(0 if data is None else len(data.chosen))
            reference = reference_logprobs(ref, data, config) if len(rows) else None
            drawn = {"reward": reward, "pairs": float(len(rows))}
        else:
            rows = torch.tensor(state.next_examples(len(pairs), config.batch_size))
        metrics = dict.fromkeys(METRICS, math.nan)
        if len(rows):
            metrics |= step(policy, optimiser, data, reference, rows, config)
        state.step, state.samples = state.step + 1, state.samples + len(rows)
        yield StepReport(state.step, state.samples, metrics | drawn)


def sample_pairs(
    policy: Policy, task: Task, config: DPOConfig, generator: torch.Generator
) -> tuple[Pairs | None, float]:
    """One pair of each prompt whose samples differ in reward, and the mean reward of them all."""
    with bfloat16_forward(policy.device, on=config.bf16):
        batch = gather_experience(
            policy,
            task,
            prompts=config.batch_size,
            rollouts_per_prompt=config.samples_per_prompt,
            temperature=config.temperature,
            generator=generator,
        )
    best, worst = best_and_worst(batch)
    reward = batch.rewards.mean().item()
    if not len(best):
        return None, reward
    # The tokens as they were drawn, cut ones too: no text is read back.
    chosen, rejected = (batch.responses.select(rows) for rows in (best, worst))
    prompts = [batch.problems[row].prompt for row in best.tolist()]
    pairs = paired(policy, prompts, chosen, rejected, with_other=config.loss == "kto")
    return pairs, reward


def reference_logprobs(ref: Policy, pairs: Pairs, config: DPOConfig) -> Float[Tensor, "kinds n"]:
    """log π_ref of the chosen and the rejected responses; of ``other``, if given."""
    kinds = [responses for responses in pairs if responses is not None]
    with bfloat16_forward(ref.device, on=config.bf16):
        return torch.stack([_summed(ref.model, responses, config) for responses in kinds])


def step(
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    pairs: Pairs,
    reference: Float[Tensor, "kinds n"],
    rows: Int[Tensor, " b"],
    config: DPOConfig,
) -> dict[str, float]:
    """One optimiser step on the pairs ``rows``, in micro-batches; its metrics, from before it."""
    kl = 0.0
    if config.loss == "kto":
        with bfloat16_forward(policy.device, on=config.bf16):
            other = _summed(policy.model, pairs.other.select(rows), config)
        kl = kto_reference_point(other, reference[2, rows]).item()
    measured: list[dict[str, float]] = []

    def losses() -> Iterator[Float[Tensor, ""]]:
        for part in pair_pieces(pairs, rows, micro_tokens=config.micro_tokens):
            with bfloat16_forward(policy.device, on=config.bf16):
                logprobs = pair_logprobs(policy.model, pairs, part)
            lengths = pairs.lengths[:, part]
            loss, metrics = preference_objective(
                logprobs, reference[:2, part], lengths, config, kl=kl, denominator=len(rows)
            )
            measured.append(metrics)
            yield loss

    with recomputed_blocks(policy.model, on=config.recompute):
        loss, norm = accumulated_step(optimiser, losses(), max_grad_norm=config.max_grad_norm)
    totals = {name: sum(row[name] for row in measured) for name in measured[0]}
    return (
        {"loss": loss} | totals | {"grad_norm": norm} | ({"kl": kl} if config.loss == "kto" else {})
    )


def preference_objective(
    logprobs: Float[Tensor, "2 b"],
    reference: Float[Tensor, "2 b"],
    lengths: Int[Tensor, "2 b"],
    config: DPOConfig,
    *,
    kl: float = 0.0,
    denominator: int,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """The loss of a micro-batch, and its share of the step's metrics.

    Args:
        logprobs, reference: of whole responses, under π and π_ref: chosen, then rejected.
        kl: KTO's reference point. denominator: the pairs of the whole step.

    Book: 19_dpo.
    """
    own, base = logprobs, reference
    if config.per_token:
        own, base = own / lengths, base / lengths
    if config.loss == "dpo":
        losses = dpo_loss(*own, *base, beta=config.beta, label_smoothing=config.label_smoothing)
    elif config.loss == "ipo":
        losses = ipo_loss(*own, *base, beta=config.beta)
    else:
        weights = {
            "desirable_weight": config.desirable_weight,
            "undesirable_weight": config.undesirable_weight,
        }
        desirable = torch.ones_like(own[0], dtype=torch.bool)
        good, bad = (
            kto_loss(*x, beta=config.beta, reference_point=kl, **weights)
            for x in ((own[0], base[0], desirable), (own[1], base[1], ~desirable))
        )
        losses = (good + bad) / 2  # a mean over responses
    with torch.no_grad():
        change = logprobs - reference
        margin = config.beta * (own - base)[0] - config.beta * (own - base)[1]
        per_pair = {
            "chosen": logprobs[0], "rejected": logprobs[1],
            "chosen_change": change[0], "rejected_change": change[1], "margin": margin,
            "accuracy": (margin > 0).to(margin) + 0.5 * (margin == 0).to(margin),
        }  # fmt: skip
    shares = {name: _mean(x, denominator).item() for name, x in per_pair.items()}
    return _mean(losses, denominator), shares


def _mean(x: Float[Tensor, " b"], denominator: int) -> Float[Tensor, ""]:
    every = torch.ones_like(x, dtype=torch.bool)[:, None]
    return aggregate(x[:, None], every, "sequence-mean", denominator=denominator)


def _summed(model: nn.Module, responses: Responses, config: DPOConfig) -> Float[Tensor, " n"]:
    """log π of whole responses, without gradient."""
    return scored(model, responses, temperature=1.0, micro_tokens=config.micro_tokens).sum(dim=1)


def _kept_reference(
    ref: Policy, pairs: Pairs, config: DPOConfig, state: LoopState
) -> Float[Tensor, "kinds n"]:
    """The reference's log-probabilities: of a resumed state, or computed now and kept there."""
    kept = state.extra.get("reference")
    if kept is None:
        kept = state.extra["reference"] = reference_logprobs(ref, pairs, config)
    n, kinds = len(pairs.chosen), 3 if config.loss == "kto" else 2
    if kept.shape != (kinds, n):
        raise ValueError(
            f"the state holds references of {kept.shape[1]} pairs (loss of {kept.shape[0]} kinds), "
            f"but there are {n} (of {kinds}): go on with the pairs and the loss it began with"
        )
    return kept.to(ref.device)


def _check(
    config: DPOConfig, policy: Policy, pairs: Sequence[Preference] | Task, ref: Policy | None
) -> None:
    if config.loss not in LOSSES:
        known = ", ".join(map(repr, LOSSES))
        raise ValueError(f"loss={config.loss!r} is unknown: use one of {known}")
    for name in ("steps", "batch_size"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1")
    if config.label_smoothing and config.loss != "dpo":
        raise ValueError(f"label_smoothing belongs to loss='dpo', not to {config.loss!r}")
    if config.per_token and config.loss == "kto":
        raise ValueError("per_token belongs to 'dpo' and 'ipo': KTO's KL is of whole responses")
    if ref is not None:
        check_same_vocabulary(policy, ref)
    if isinstance(pairs, Task):
        if ref is None:
            raise ValueError("pairs of a task are drawn while the policy moves: pass ref=")
        if config.samples_per_prompt < 2:
            raise ValueError(
                f"samples_per_prompt={config.samples_per_prompt}: a pair needs at least 2"
            )
        return
    if not pairs:
        raise ValueError("there are no pairs: give at least one")
    for i, pair in enumerate(pairs):
        if len(pair.texts) != 2:
            raise ValueError(f"pair {i} is a ranking of {len(pair.texts)}: cut it into pairs")

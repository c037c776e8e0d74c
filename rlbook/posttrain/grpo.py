"""GRPO and its kin: K responses to one prompt judge each other, and no value network is needed.

Each update: sample K responses to each of N prompts; make one advantage per response of their
rewards; then clipped policy-gradient steps, one per mini-batch. The methods differ in a few
settings only, and ``VARIANTS`` is the whole list:

    config = GRPOConfig(**VARIANTS["DAPO"], updates=100)

Batches are cut as in rlbook.posttrain.experience, and named as in ppo.py. A response with
advantage 0 has no policy gradient: it is scored, for the log, and never differentiated; the
denominators go on counting it.

Deviations: DAPO cuts surplus informative groups off instead of keeping them for the next update.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlbook.functional.group_advantages import (
    dr_grpo_advantages,
    globally_normalised_advantages,
    grpo_advantages,
    informative_groups,
    overlong_penalty,
    rloo_advantages,
)
from rlbook.functional.kl import kl_k1, kl_k3
from rlbook.functional.masked import aggregate, unit_count
from rlbook.functional.policy_losses import cispo_loss, clip_active, ppo_clip_loss, sequence_level
from rlbook.lm.backbone import recomputed_blocks
from rlbook.lm.batch import Responses
from rlbook.lm.logprobs import response_logprobs_and_entropy
from rlbook.lm.policy import Policy
from rlbook.lm.tasks.task import Task
from rlbook.loop import LoopState, accumulated_step, bfloat16_forward, mean_metrics
from rlbook.posttrain.experience import (
    Experience,
    gather_experience,
    join,
    mini_batches,
    pieces,
    scored,
)
from rlbook.posttrain.variants import VARIANTS as VARIANTS
from rlbook.posttrain.variants import GRPOConfig, check_settings
from rlbook.report import StepReport

ADVANTAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "grpo": grpo_advantages,
    "dr_grpo": dr_grpo_advantages,
    "rloo": rloo_advantages,
    "global": globally_normalised_advantages,
}


class Fixed(NamedTuple):
    """What is fixed before the epochs of an update.

    Attributes:
        advantages: one per response [B], or one per token [B, T].
        learnt: the tokens that the loss counts [B, T].
        old_logprobs: of the policy that sampled; None where it is the one that learns, at every
            step: the ratio is then 1. ref_logprobs: of the reference, or None.
    """

    advantages: Float[Tensor, "B *T"]
    learnt: Bool[Tensor, "B T"]
    old_logprobs: Float[Tensor, "B T"] | None
    ref_logprobs: Float[Tensor, "B T"] | None

    def select(self, rows: Int[Tensor, " b"], T: int) -> "Fixed":
        """These rows, in the first T columns."""
        own = (None if x is None else x[rows] for x in self)
        return Fixed(*(x if x is None or x.dim() == 1 else x[:, :T] for x in own))


def grpo(
    policy: Policy,
    task: Task,
    config: GRPOConfig,
    *,
    ref: Policy | None = None,
    state: LoopState | None = None,
) -> Iterator[StepReport]:
    """Train ``policy`` in place on a task's rewards; yields a report after each update.

        A_k = (r_k - mean) / std over the K responses to a prompt
        L = mean over responses of the mean over tokens of -min( ρ_t A, clip(ρ_t, 1-ε, 1+ε) A )

    (with the defaults; ``VARIANTS`` has the others).

    Metrics of an update. Of all responses drawn, before it: ``reward`` mean; ``truncated`` share
    of cut ones; ``length`` tokens per response; ``informative`` share of groups whose rewards
    differ. ``kl_ref`` nats per response to the reference, by k1, of the responses learnt from; 0
    without a reference. Over the mini-batches, before each step, means over tokens: ``kl_old``
    nats to the policy that sampled, by k3; ``ratio`` to it, at the loss's level;
    ``clip_fraction`` share whose gradient the clip removes ("cispo": whose weight it changes);
    ``entropy`` in nats. ``grad_norm`` before clipping. ``samples`` counts generated tokens.

    Args:
        task: its rewards may come from a verifier, a function of your own or a reward model.
        ref: π_ref, frozen; needed where β > 0.
        state: to stop and go on; save the policy's weights beside it.

    Raises:
        ValueError: fewer than two rollouts per prompt; β > 0 without a reference, with one of
            another vocabulary, or in a variant without KL; settings out of range; what the task,
            the sampler and the optimiser refuse.

    Book: 18_grpo. Source: Shao et al. (2024), section 4.1.
    """
    check_settings(config, policy, ref)
    state = LoopState() if state is None else state
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(config.seed)
    state.start(optimiser, generator)
    sampler = policy
    while state.step < config.updates:
        sampler = _refreshed(sampler, policy, config, state)
        with bfloat16_forward(policy.device, on=config.bf16):
            batch, metrics, tokens = draw(sampler, task, config, generator)
            fixed, kl_ref = prepare(sampler, ref, batch, config, task.max_new_tokens)
        N, K = batch.grouped_rewards.shape
        steps = [
            step(policy, optimiser, batch, fixed, rows, config, task.max_new_tokens)
            for _ in range(config.epochs)
            for rows in mini_batches(N, K, config.mini_batch_size, generator=generator)
        ]
        state.step, state.samples = state.step + 1, state.samples + tokens
        metrics = metrics | {"kl_ref": kl_ref} | mean_metrics(steps)
        yield StepReport(state.step, state.samples, metrics)


def draw(
    sampler: Policy, task: Task, config: GRPOConfig, generator: torch.Generator
) -> tuple[Experience, dict[str, float], int]:
    """A train batch; metrics of all responses drawn for it; and how many tokens these have.

    With ``informative_only``: the first N groups whose rewards differ (all, where none do).
    """
    drawn: list[Experience] = []
    wanted, found = config.train_batch_size, 0
    for _ in range(config.max_draws if config.informative_only else 1):
        batch = gather_experience(
            sampler,
            task,
            prompts=wanted,
            rollouts_per_prompt=config.rollouts_per_prompt,
            temperature=config.temperature,
            generator=generator,
        )
        drawn.append(batch)
        found += int(informative_groups(batch.grouped_rewards).sum())
        if found >= wanted:
            break
    batch = join(drawn)
    spread = informative_groups(batch.grouped_rewards)
    metrics = {
        "reward": batch.rewards.mean().item(),
        "truncated": batch.responses.truncated.float().mean().item(),
        "length": batch.responses.lengths.float().mean().item(),
        "informative": spread.float().mean().item(),
    }
    tokens = int(batch.responses.response_mask.sum())
    if config.informative_only:
        kept = spread.nonzero()[:, 0] if found else torch.arange(len(spread))
        batch = batch.groups(kept[:wanted])
    return batch, metrics, tokens


@torch.no_grad()
def prepare(
    sampler: Policy, ref: Policy | None, batch: Experience, config: GRPOConfig, limit: int
) -> tuple[Fixed, float]:
    """Log-probabilities and advantages of a train batch, and its KL to the reference.

    Args:
        limit: most tokens of a response.
    """
    responses, mask = batch.responses, batch.responses.response_mask
    old, reference, kl = logprobs_of(sampler, ref, batch, config)
    rewards = batch.rewards
    if config.kl_in == "reward":
        rewards = rewards - config.beta * kl
    if config.overlong == "penalty":
        buffer = max(limit // 5, 1)
        rewards = rewards + overlong_penalty(responses.lengths, limit=limit, buffer=buffer)
    advantages = ADVANTAGES[config.advantage](rewards.view(-1, batch.K)).flatten()
    if config.overlong == "mask":
        mask = mask & ~responses.truncated[:, None]
        advantages = torch.where(responses.truncated, 0.0, advantages)
    return Fixed(advantages, mask, old, reference), kl.mean().item()


@torch.no_grad()
def logprobs_of(
    sampler: Policy, ref: Policy | None, batch: Experience, config: GRPOConfig
) -> tuple[Float[Tensor, "B T"] | None, Float[Tensor, "B T"] | None, Float[Tensor, " B"]]:
    """Log-probabilities of a train batch by the policy that sampled it and by the reference, each
    None where nobody needs it; and the KL to the reference by k1, per response."""
    ways = {"temperature": config.temperature, "micro_tokens": config.micro_tokens}
    one_step = config.epochs == 1 and config.mini_batch_size >= len(batch.grouped_rewards)
    old = reference = None
    if ref is not None or not one_step or config.refresh_every > 1:
        old = scored(sampler.model, batch.responses, **ways)
    kl = torch.zeros_like(batch.rewards)
    if ref is not None:
        reference = scored(ref.model, batch.responses, **ways)
        mask = batch.responses.response_mask
        kl = torch.where(mask, kl_k1(old, reference), 0.0).sum(dim=1)
    return old, reference, kl


def step(
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    batch: Experience,
    fixed: Fixed,
    rows: Int[Tensor, " rows"],
    config: GRPOConfig,
    limit: int,
) -> dict[str, float]:
    """One optimiser step on a mini-batch, in micro-batches; its metrics, from before the step."""
    units = max(unit_count(fixed.learnt[rows], config.aggregation), 1)
    count = int(batch.responses.response_mask[rows].sum())
    taught = torch.ones(len(rows), dtype=torch.bool)
    if not (config.beta and config.kl_in == "loss"):
        taught = (fixed.advantages[rows] != 0).view(len(rows), -1).any(dim=1).cpu()
        taught[0] |= not taught.any()  # a gradient of 0 is a step too: Adam's momentum goes on
    measured: list[dict[str, float]] = []

    def losses(chosen: Int[Tensor, " rows"]) -> Iterator[Float[Tensor, ""]]:
        for part_rows, part in pieces(batch.responses, chosen, micro_tokens=config.micro_tokens):
            own = fixed.select(part_rows, part.response_ids.shape[1])
            with bfloat16_forward(policy.device, on=config.bf16):
                loss, metrics = grpo_loss(
                    policy.model, part, own, config, units=units, tokens=count, limit=limit
                )
            measured.append(metrics)
            yield loss

    if not taught.all():
        with torch.no_grad():
            list(losses(rows[~taught]))  # for the log alone
    with recomputed_blocks(policy.model, on=config.recompute):
        _, norm = accumulated_step(
            optimiser, losses(rows[taught]), max_grad_norm=config.max_grad_norm
        )
    totals = {name: sum(row[name] for row in measured) for name in measured[0]}
    return totals | {"grad_norm": norm}


def grpo_loss(
    model: nn.Module,
    responses: Responses,
    fixed: Fixed,
    config: GRPOConfig,
    *,
    units: int,
    tokens: int,
    limit: int,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """The loss of a micro-batch, and its share of the mini-batch's metrics.

    Args:
        units, tokens: ``unit_count`` of what the mini-batch learns from, and all its tokens.
        limit: most tokens of a response.

    Book: 18_grpo.
    """
    mask = responses.response_mask
    logprobs, entropy = response_logprobs_and_entropy(
        model, responses, temperature=config.temperature
    )
    if fixed.old_logprobs is None:
        fixed = fixed._replace(old_logprobs=logprobs.detach())
    loss, ratio, clipped = objective(logprobs, mask, fixed, config, units=units, limit=limit)
    with torch.no_grad():
        kl_old = kl_k3(fixed.old_logprobs, logprobs)
        per_token = {"kl_old": kl_old, "ratio": ratio, "clip_fraction": clipped, "entropy": entropy}
        shares = {
            name: aggregate(x, mask, "token-mean", denominator=tokens).item()
            for name, x in per_token.items()
        }
    return loss, shares


def objective(
    logprobs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    fixed: Fixed,
    config: GRPOConfig,
    *,
    units: int,
    limit: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """The method itself: one loss of log-probabilities, without a model.

    Args:
        mask: the response's tokens. fixed: with its old_logprobs.
        units, limit: as for ``grpo_loss``.

    Returns:
        The loss; the ratio at its level; 1 where the clip is active ("ppo": and takes the
        gradient).

    Book: 18_grpo.
    """
    old, high = fixed.old_logprobs, config.clip_high
    level = logprobs
    if config.ratio != "token":
        level = sequence_level(logprobs, old, mask, per_token=config.ratio == "geometric-mean")
    advantages = fixed.advantages.view(len(old), -1).expand_as(old)
    if config.loss == "ppo":
        clip = {"clip": config.clip, "clip_high": high, "dual_clip": config.dual_clip}
        loss = ppo_clip_loss(level, old, advantages, **clip)
        clipped = clip_active(level, old, advantages, **clip)
    else:
        high = config.clip if high is None else high
        loss = cispo_loss(level, old, advantages, clip=config.clip, clip_high=high)
        low = 1.0 if config.clip is None else config.clip  # no ratio is below 1 - 1: never active
        clipped = clip_active(level, old, clip=low, clip_high=high)
    if config.beta and config.kl_in == "loss":
        loss = loss + config.beta * kl_k3(logprobs, fixed.ref_logprobs)
    length = limit if config.aggregation == "fixed-length" else None
    total = aggregate(loss, fixed.learnt, config.aggregation, length=length, denominator=units)
    return total, (level - old).detach().exp(), clipped


def _refreshed(sampler: Policy, policy: Policy, config: GRPOConfig, state: LoopState) -> Policy:
    """The policy that samples: the learner itself, or a copy that is renewed now and then.

    The copy's weights are in ``state.extra``, so that a resumed loop samples from the same one.
    """
    if config.refresh_every == 1:
        return policy
    if state.step % config.refresh_every == 0:
        weights = policy.model.state_dict()
        state.extra |= {f"sampler.{name}": x.detach().clone() for name, x in weights.items()}
    elif sampler is not policy:
        return sampler
    kept = {name: x for name, x in state.extra.items() if name.startswith("sampler.")}
    model = copy.deepcopy(policy.model)
    model.load_state_dict({name.removeprefix("sampler."): x for name, x in kept.items()})
    return replace(policy, model=model)

"""VinePPO: PPO whose values are not predicted but measured, by rolling the text out from there.

Each update: sample responses; cut them into steps; roll K fresh continuations out of the state
before every step, and take their mean reward as its value; a step's advantage is what it changed.
Then PPO's clipped steps (those of grpo.py, with an advantage per token). The rollouts are used
for values alone: no gradient comes from them.

    V̂(s_i) = mean reward of K continuations from s_i,    A_i = r_i + V̂(s_{i+1}) - V̂(s_i)

Deviations from Kazemnejad et al. (2024): the temperature is 1 (theirs 0.6); K, the batch and the
rates are those of small models.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlbook.functional.credit import step_advantages, token_advantages
from rlbook.functional.masked import masked_whiten
from rlbook.lm.decoding import prefilled_tokens
from rlbook.lm.policy import Policy
from rlbook.lm.tasks.task import Task
from rlbook.loop import LoopState, bfloat16_forward, mean_metrics
from rlbook.posttrain.experience import (
    Experience,
    check_same_vocabulary,
    gather_experience,
    mini_batches,
)
from rlbook.posttrain.grpo import Fixed, logprobs_of, step
from rlbook.posttrain.step_values import RolloutValues, rollout_values, states_of, steps_of
from rlbook.posttrain.variants import GRPOConfig
from rlbook.report import StepReport


@dataclass(frozen=True)
class VinePPOConfig:
    """Settings of VinePPO.

    Attributes:
        updates: train batches in all.
        train_batch_size: N, prompts per update. rollouts_per_prompt: responses to each, which are
            learnt from; 1 is enough.
        value_rollouts: K, continuations from each state, for its value alone.
        max_valued_steps: most states of a response that are valued, the prompt included;
            neighbouring steps are joined, evenly. None: the state before every step.
        lam: λ of GAE over steps. 0: differences of neighbouring values, as published; 1: the
            whole reward less the value of the state, REINFORCE with a baseline. Rollout values
            have no bias, so λ changes the noise alone.
        normalise: whiten the advantages over the tokens of the train batch.
        mini_batch_size: prompts per optimiser step. micro_tokens: most cells of one forward pass,
            padding included; None: a whole mini-batch. Memory alone depends on it.
        rollout_rows: continuations drawn at a time. Memory, and the random numbers, depend on it.
        epochs: passes over each train batch.
        learning_rate: of AdamW, without weight decay.
        clip, clip_high: ε of the ratio's clip, below and above (None: the same).
        beta: β, price of a nat of KL to the reference, in the loss (k3 per token). 0: none.
        temperature: of the sampling, and so of all log-probabilities and values.
        max_grad_norm: longest gradient; None does not clip.
        bf16, recompute: as in ``PPOConfig``.
        seed: of problems, samples and mini-batches.
    """

    updates: int = 50
    train_batch_size: int = 32
    rollouts_per_prompt: int = 4
    value_rollouts: int = 9
    max_valued_steps: int | None = None
    lam: float | int = 0.0
    normalise: bool = True
    mini_batch_size: int = 32
    micro_tokens: int | None = None
    rollout_rows: int = 2048
    epochs: int = 1
    learning_rate: float = 3e-4
    clip: float = 0.2
    clip_high: float | None = None
    beta: float = 0.0
    temperature: float | int = 1.0
    max_grad_norm: float | None = 1.0
    bf16: bool = False
    recompute: bool = False
    seed: int = 0

    @property
    def steps(self) -> GRPOConfig:
        """The same settings, as the optimiser steps of grpo.py read them."""
        same = (
            "train_batch_size", "rollouts_per_prompt", "mini_batch_size", "micro_tokens", "epochs",
            "clip", "clip_high", "beta", "temperature", "max_grad_norm", "bf16", "recompute",
        )  # fmt: skip
        shared = {name: getattr(self, name) for name in same}
        return GRPOConfig(**shared, ratio="token", loss="ppo", aggregation="token-mean")


def vineppo(
    policy: Policy,
    task: Task,
    config: VinePPOConfig,
    *,
    ref: Policy | None = None,
    state: LoopState | None = None,
) -> Iterator[StepReport]:
    """Train ``policy`` in place on a task's rewards; yields a report after each update.

        A_i = r_i + V̂(s_{i+1}) - V̂(s_i) for each token of step i,    V̂ by K fresh continuations
        L = mean over tokens of -min( ρ_t A, clip(ρ_t, 1-ε, 1+ε) A )  [+ β k3]

    Metrics of an update. Before it: ``reward``, ``truncated``, ``length`` and ``kl_ref`` as in
    ``grpo``; ``value`` mean V̂ of the prompts; ``states`` distinct states valued, of the
    ``steps`` in all; tokens ``generated``, and ``prefilled``: those of prompts and states that are
    read, not for themselves where a longer one begins with them; both include the rollouts;
    ``optimiser_steps``; seconds of the clock for ``seconds_sampling``, ``seconds_values`` and
    ``seconds_training``. Over its mini-batches: ``kl_old``, ``ratio``, ``clip_fraction``,
    ``entropy`` and ``grad_norm`` as in ``grpo``. ``samples`` counts generated tokens.

    Args:
        task: its ``step_boundaries`` say where steps end.
        ref: π_ref, frozen; needed where β > 0.
        state: to stop and go on; save the policy's weights beside it.

    Raises:
        ValueError: β > 0 without a reference, or with one of another vocabulary; settings out of
            range; boundaries that are none; what the task, the sampler and the optimiser refuse.

    Book: 20_vineppo. Source: Kazemnejad et al. (2024), section 4 and appendix.
    """
    _check(config, policy, ref)
    state = LoopState() if state is None else state
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(config.seed)
    state.start(optimiser, generator)
    N, K = config.train_batch_size, config.rollouts_per_prompt
    while state.step < config.updates:
        clock = [time.perf_counter()]
        with bfloat16_forward(policy.device, on=config.bf16):
            batch = gather_experience(
                policy,
                task,
                prompts=N,
                rollouts_per_prompt=K,
                temperature=config.temperature,
                generator=generator,
            )
            clock.append(time.perf_counter())
            advantages, values, found = vine_advantages(policy, task, batch, config, generator)
            clock.append(time.perf_counter())
            old, reference, kl = logprobs_of(policy, ref, batch, config.steps)
        fixed = Fixed(advantages, batch.responses.response_mask, old, reference)
        steps = [
            step(policy, optimiser, batch, fixed, rows, config.steps, task.max_new_tokens)
            for _ in range(config.epochs)
            for rows in mini_batches(N, K, config.mini_batch_size, generator=generator)
        ]
        clock.append(time.perf_counter())
        metrics = measure(policy, batch, values, found) | {"kl_ref": kl.mean().item()}
        parts = ("seconds_sampling", "seconds_values", "seconds_training")
        spent = (after - before for before, after in itertools.pairwise(clock))
        metrics |= dict(zip(parts, spent, strict=True)) | {"optimiser_steps": float(len(steps))}
        state.step, state.samples = state.step + 1, state.samples + int(metrics["generated"])
        yield StepReport(state.step, state.samples, metrics | mean_metrics(steps))


@torch.no_grad()
def vine_advantages(
    policy: Policy, task: Task, batch: Experience, config: VinePPOConfig, generator: torch.Generator
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B S"], RolloutValues]:
    """The advantage of each token; the values of the states before each step; what these cost.

    Where the responses have fewer steps than S, the values are NaN.

    Book: 20_vineppo.
    """
    index = steps_of(policy, task, batch, most=config.max_valued_steps)
    states, exists = states_of(batch, index)
    found = rollout_values(
        policy,
        task,
        states,
        rollouts=config.value_rollouts,
        temperature=config.temperature,
        generator=generator,
        most_rows=config.rollout_rows,
    )
    values = found.values.new_zeros(exists.shape).masked_scatter(exists, found.values)
    by_step = step_advantages(values, batch.rewards, exists, lam=config.lam)
    mask = batch.responses.response_mask
    advantages = token_advantages(by_step, index, mask)
    if config.normalise:
        advantages = masked_whiten(advantages, mask)
    return advantages, values.masked_fill(~exists, float("nan")), found


def measure(
    policy: Policy, batch: Experience, values: Float[Tensor, "B S"], found: RolloutValues
) -> dict[str, float]:
    """How the sampled responses are, and what was drawn to value them."""
    responses = batch.responses
    rows = zip(responses.prompt_ids[:: batch.K], responses.prompt_mask[:: batch.K], strict=True)
    prompts = [ids[mask].tolist() for ids, mask in rows]
    return {
        "reward": batch.rewards.mean().item(),
        "truncated": responses.truncated.float().mean().item(),
        "length": responses.lengths.float().mean().item(),
        "value": values[:, 0].mean().item(),
        "states": float(found.distinct),
        "steps": float(values.isfinite().sum()),
        "generated": float(responses.response_mask.sum() + found.generated),
        "prefilled": float(prefilled_tokens(policy.model, prompts) + found.prefilled),
    }


def _check(config: VinePPOConfig, policy: Policy, ref: Policy | None) -> None:
    for name in (
        "updates", "train_batch_size", "rollouts_per_prompt", "value_rollouts", "mini_batch_size",
        "epochs", "rollout_rows",
    ):  # fmt: skip
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1")
    if config.max_valued_steps is not None and config.max_valued_steps < 1:
        raise ValueError(f"max_valued_steps={config.max_valued_steps} must be at least 1, or None")
    if not 0 <= config.lam <= 1:
        raise ValueError(f"lam={config.lam} must lie in 0 to 1")
    if not config.beta >= 0:
        raise ValueError(
            f"beta={config.beta} must not be negative: it prices leaving the reference"
        )
    if ref is None and config.beta > 0:
        raise ValueError(f"beta={config.beta} needs a reference: pass ref=, or set beta=0")
    if ref is not None:
        check_same_vocabulary(policy, ref)

"""PPO for a language model, as in RLHF: a value network, and a price for leaving the reference.

Each update: sample responses; score them under the policy and the reference; turn reward and KL
into a reward per token; let GAE make advantages of these; then some epochs of PPO's clip. The
formulas are those of chapters 08 and 09, imported: only the environment has become text.

The value network may be

    a copy of the policy with a new head    value_model=None, the default
    one body with the policy                value_model=ScalarModel(policy, init="zero", share=True)
    the reward model's weights              value_model=copy.deepcopy(reward_model)

Deviations from Ouyang et al. (2022): no pretraining loss mixed in; a copy of the policy is the
default value network (theirs began as the reward model).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlbook.functional.kl import adapt_kl_coefficient, kl_k1, kl_k3, per_token_kl_reward
from rlbook.functional.masked import aggregate, masked_whiten
from rlbook.functional.policy_losses import clip_active, ppo_clip_loss
from rlbook.functional.returns import gae
from rlbook.functional.value_losses import clipped_value_loss, squared_loss
from rlbook.lm.backbone import recomputed_blocks
from rlbook.lm.batch import Responses
from rlbook.lm.heads import ScalarModel, token_values
from rlbook.lm.logprobs import response_logprobs_and_entropy
from rlbook.lm.policy import Policy
from rlbook.lm.tasks.task import Task
from rlbook.loop import LoopState, accumulated_step, bfloat16_forward, mean_metrics
from rlbook.posttrain.experience import (
    Experience,
    check_same_vocabulary,
    gather_experience,
    mini_batches,
    pieces,
    scored,
)
from rlbook.report import StepReport


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO for text.

    Attributes:
        updates: train batches in all.
        train_batch_size: N, prompts per update. rollouts_per_prompt: K, responses to each.
        mini_batch_size: prompts per optimiser step; K responses of each go with them.
        micro_tokens: most cells of one forward pass, padding included; None: a whole mini-batch.
            Memory alone depends on it.
        epochs: passes over each train batch.
        learning_rate, value_learning_rate: of AdamW, for policy and value network.
        clip, clip_high: ε of the ratio's clip, below and above (None: the same).
        lam: λ of GAE; γ is 1. normalise: whiten the advantages over the train batch. A KL in the
            loss is not divided by their spread, so the same β then weighs more or less.
        beta: β, price of a nat of KL, in units of reward. 0: none, and no reference is needed.
        kl_in: "reward" (k1 per token) or "loss" (k3 per token, beside the policy loss).
        target_kl: nats per response that an adaptive β should hold; None: β stays.
        kl_horizon: responses over which it may change by e^±0.2.
        value_clip: clip of the value loss in units of reward; None is off.
        value_coefficient: weight of the value loss. Where the value network is separate, Adam
            and the clipping of gradients make it nearly idle; with one body for both it decides
            whom the body serves.
        temperature: of the sampling, and so of all log-probabilities.
        max_grad_norm: longest gradient of both networks together; None does not clip.
        bf16: sample, score and train in bfloat16, with weights in float32: for a GPU.
        recompute: forget activations within a block and compute them again in the backward pass
            (gradient checkpointing): a third more time, far less memory, the same gradient.
        seed: of problems, samples and mini-batches.
    """

    updates: int = 50
    train_batch_size: int = 64
    rollouts_per_prompt: int = 4
    mini_batch_size: int = 32
    micro_tokens: int | None = None
    epochs: int = 2
    learning_rate: float = 1e-3
    value_learning_rate: float = 1e-3
    clip: float = 0.2
    clip_high: float | None = None
    lam: float = 1.0
    normalise: bool = True
    beta: float = 0.0
    kl_in: str = "reward"
    target_kl: float | None = None
    kl_horizon: float = 10_000.0
    value_clip: float | None = None
    value_coefficient: float = 1.0
    temperature: float | int = 1.0
    max_grad_norm: float | None = 1.0
    bf16: bool = False
    recompute: bool = False
    seed: int = 0


class Scores(NamedTuple):
    """What is fixed before the epochs of an update, all [B, T]."""

    old_logprobs: Float[Tensor, "B T"]
    ref_logprobs: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"]
    advantages: Float[Tensor, "B T"]
    targets: Float[Tensor, "B T"]


def ppo(
    policy: Policy,
    task: Task,
    config: PPOConfig,
    *,
    ref: Policy | None = None,
    value_model: ScalarModel | None = None,
    state: LoopState | None = None,
) -> Iterator[StepReport]:
    """Train ``policy`` in place on a task's rewards; yields a report after each update.

        r_t = -β (log π_old - log π_ref)(a_t|s_t) + [t is the last token] R
        A = GAE(r, V),    L = mean over tokens of [ PPO's clipped loss + c ½ (V - target)² ]

    Metrics of an update. Before it: ``reward`` mean of R; ``truncated`` share of cut responses;
    ``length`` tokens per response; ``kl_ref`` nats per response to the reference, by k1; ``beta``;
    ``explained_variance`` 1 - Var(target - V)/Var(target), NaN where all targets are equal. Over
    its mini-batches, before each step: ``kl_old`` nats per token to the sampling policy, by k3;
    ``clip_fraction`` share of tokens whose gradient the clip removes; ``ratio`` mean of π/π_old;
    ``entropy`` nats per token; ``value_loss``; ``grad_norm``. ``samples`` counts generated tokens.

    Args:
        task: its rewards may come from a verifier or from a reward model.
        ref: π_ref, frozen; needed where β > 0.
        value_model: default: a copy of the policy with a new head of zeros.
        state: to stop and go on; save the weights of policy and value model beside it.

    Raises:
        ValueError: β > 0 without a reference, or with one of another vocabulary; settings out of
            range; what the task, the sampler and the optimiser refuse.

    Book: 17_ppo_gpt2. Source: Ouyang et al. (2022), section 3.5; Ziegler et al. (2019).
    """
    _check(config, policy, ref)
    if value_model is None:
        value_model = ScalarModel(policy, init="zero")
    state = LoopState() if state is None else state
    optimiser = both_optimiser(policy, value_model, config)
    generator = torch.Generator().manual_seed(config.seed)
    state.start(optimiser, generator)
    while state.step < config.updates:
        beta = float(state.extra.get("beta", config.beta))
        with bfloat16_forward(policy.device, on=config.bf16):
            batch = gather_experience(
                policy,
                task,
                prompts=config.train_batch_size,
                rollouts_per_prompt=config.rollouts_per_prompt,
                temperature=config.temperature,
                generator=generator,
            )
            scores = score(policy, value_model, ref, batch, config, beta)
        metrics = measure(batch, scores) | {"beta": beta}
        steps = []
        for _ in range(config.epochs):
            for rows in mini_batches(
                config.train_batch_size,
                config.rollouts_per_prompt,
                config.mini_batch_size,
                generator=generator,
            ):
                steps.append(
                    step(policy, value_model, optimiser, batch, scores, rows, config, beta)
                )
        if config.target_kl is not None:
            state.extra["beta"] = adapt_kl_coefficient(
                beta,
                metrics["kl_ref"],
                target=config.target_kl,
                horizon=config.kl_horizon,
                steps=len(batch.responses),
            )
        state.step += 1
        state.samples += int(batch.responses.response_mask.sum())
        yield StepReport(state.step, state.samples, metrics | mean_metrics(steps))


def both_optimiser(
    policy: Policy, value_model: ScalarModel, config: PPOConfig
) -> torch.optim.AdamW:
    """AdamW over both networks; a body that they share is the policy's, and moves at its rate."""
    own = [p for p in policy.model.parameters() if p.requires_grad]
    shared = {id(p) for p in own}
    values = [p for p in value_model.parameters() if p.requires_grad and id(p) not in shared]
    groups = [
        {"params": own, "lr": config.learning_rate},
        {"params": values, "lr": config.value_learning_rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0, fused=True)


@torch.no_grad()
def score(
    policy: Policy,
    value_model: ScalarModel,
    ref: Policy | None,
    batch: Experience,
    config: PPOConfig,
    beta: float,
) -> Scores:
    """Log-probabilities, values, advantages and targets of a train batch.

    The length limit belongs to the task, so every response has ended at its last token: V of what
    follows is 0. Targets are made before the advantages are whitened.
    """
    responses, mask = batch.responses, batch.responses.response_mask
    ways = {"temperature": config.temperature, "micro_tokens": config.micro_tokens}
    old = scored(policy.model, responses, **ways)
    reference = old if ref is None else scored(ref.model, responses, **ways)
    values = torch.zeros_like(old)
    every = torch.arange(len(responses))
    for rows, part in pieces(responses, every, micro_tokens=config.micro_tokens):
        values[rows, : part.response_ids.shape[1]] = token_values(value_model, part)
    price = beta if config.kl_in == "reward" else 0.0
    rewards = per_token_kl_reward(batch.rewards, old, reference, mask, beta=price)
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    next_values = torch.where(last, 0.0, values.roll(-1, dims=1))
    advantages = gae(
        rewards, values, next_values, terminated=last, ended=last, gamma=1.0, lam=config.lam
    )
    advantages = torch.where(mask, advantages, 0.0)
    targets = advantages + values
    if config.normalise:
        advantages = masked_whiten(advantages, mask)
    return Scores(old, reference, values, advantages, targets)


def step(
    policy: Policy,
    value_model: ScalarModel,
    optimiser: torch.optim.Optimizer,
    batch: Experience,
    scores: Scores,
    rows: Int[Tensor, " rows"],
    config: PPOConfig,
    beta: float,
) -> dict[str, float]:
    """One optimiser step on a mini-batch, in micro-batches; its metrics, from before the step."""
    count = int(batch.responses.response_mask[rows].sum())
    measured: list[dict[str, float]] = []

    def losses() -> Iterator[Float[Tensor, ""]]:
        for part_rows, part in pieces(batch.responses, rows, micro_tokens=config.micro_tokens):
            fixed = Scores(*(x[part_rows, : part.response_ids.shape[1]] for x in scores))
            with bfloat16_forward(policy.device, on=config.bf16):
                loss, metrics = ppo_loss(
                    policy.model, value_model, part, fixed, config, beta, denominator=count
                )
            measured.append(metrics)
            yield loss

    with recomputed_blocks(policy.model, value_model.model, on=config.recompute):
        _, norm = accumulated_step(optimiser, losses(), max_grad_norm=config.max_grad_norm)
    totals = {name: sum(row[name] for row in measured) for name in measured[0]}
    return totals | {"grad_norm": norm}


def ppo_loss(
    model: nn.Module,
    value_model: ScalarModel,
    responses: Responses,
    fixed: Scores,
    config: PPOConfig,
    beta: float,
    *,
    denominator: int,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """The loss of a micro-batch, and its share of the mini-batch's metrics.

    Args:
        denominator: the tokens of the whole mini-batch.

    Book: 17_ppo_gpt2.
    """
    mask = responses.response_mask
    logprobs, entropy = response_logprobs_and_entropy(
        model, responses, temperature=config.temperature
    )
    clip = {"clip": config.clip, "clip_high": config.clip_high}
    loss = ppo_clip_loss(logprobs, fixed.old_logprobs, fixed.advantages, **clip)
    if beta and config.kl_in == "loss":
        loss = loss + beta * kl_k3(logprobs, fixed.ref_logprobs)
    values = token_values(value_model, responses)
    if config.value_clip is None:
        value_loss = squared_loss(values, fixed.targets)
    else:
        value_loss = clipped_value_loss(values, fixed.values, fixed.targets, clip=config.value_clip)
    loss = loss + config.value_coefficient * value_loss
    total = aggregate(loss, mask, "token-mean", denominator=denominator)
    with torch.no_grad():
        per_token = {
            "kl_old": kl_k3(fixed.old_logprobs, logprobs),
            "ratio": (logprobs - fixed.old_logprobs).exp(),
            "clip_fraction": clip_active(logprobs, fixed.old_logprobs, fixed.advantages, **clip),
            "entropy": entropy,
            "value_loss": value_loss,
        }
        shares = {
            name: aggregate(x, mask, "token-mean", denominator=denominator).item()
            for name, x in per_token.items()
        }
    return total, shares


def measure(batch: Experience, scores: Scores) -> dict[str, float]:
    """How the sampled responses are, before they are learnt from."""
    responses, mask = batch.responses, batch.responses.response_mask
    kl = torch.where(mask, kl_k1(scores.old_logprobs, scores.ref_logprobs), 0.0).sum(dim=1)
    error = (scores.targets - scores.values)[mask].var(correction=0)
    spread = scores.targets[mask].var(correction=0)
    return {
        "reward": batch.rewards.mean().item(),
        "truncated": responses.truncated.float().mean().item(),
        "length": responses.lengths.float().mean().item(),
        "kl_ref": kl.mean().item(),
        # Equal targets, but for rounding, leave nothing to explain.
        "explained_variance": float("nan") if spread < 1e-10 else (1 - error / spread).item(),
    }


def _check(config: PPOConfig, policy: Policy, ref: Policy | None) -> None:
    if config.kl_in not in ("reward", "loss"):
        raise ValueError(f'kl_in={config.kl_in!r} must be "reward" or "loss"')
    for name in ("updates", "train_batch_size", "rollouts_per_prompt", "mini_batch_size", "epochs"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1")
    if not config.beta >= 0:
        raise ValueError(
            f"beta={config.beta} must not be negative: it prices leaving the reference"
        )
    if config.target_kl is not None and not config.beta > 0:
        raise ValueError(f"an adaptive beta must begin above 0, but beta={config.beta}")
    if ref is None and config.beta > 0:
        raise ValueError(f"beta={config.beta} needs a reference: pass ref=, or set beta=0")
    if ref is not None:
        check_same_vocabulary(policy, ref)

"""Advantage actor-critic: one gradient step per rollout, for policy and value together.

A2C is the synchronous form of A3C (Mnih et al. 2016). Here its advantages are GAE: λ = 1 gives
the n-step advantages of the paper, smaller λ trades variance for bias.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from gymnasium.vector import VectorEnv

from rlbook.control.collect import rollouts
from rlbook.control.networks import ActorCritic
from rlbook.control.scoring import explained_variance, score
from rlbook.functional.masked import aggregate, masked_whiten
from rlbook.functional.policy_losses import action_logprobs, entropy, reinforce_loss
from rlbook.functional.value_losses import squared_loss
from rlbook.loop import optimiser_step, set_learning_rate
from rlbook.report import StepReport


@dataclass(frozen=True)
class A2CConfig:
    """Settings of A2C.

    Attributes:
        total_steps: environment steps in all, rounded up to whole rollouts.
        rollout_steps: T, steps of each environment between updates.
        gamma, lam: discount, and λ of the advantages.
        learning_rate: of Adam. anneal: let it fall linearly to 0.
        normalise: advantages to mean 0 and variance 1 over the rollout.
        value_weight, entropy_weight: of the value loss (with its factor ½) and the bonus.
        max_grad_norm: longest gradient of all parameters together; None is off.
    """

    total_steps: int = 100_000
    rollout_steps: int = 16
    gamma: float = 0.99
    lam: float = 1.0
    learning_rate: float = 1e-3
    anneal: bool = False
    normalise: bool = False
    value_weight: float = 1.0
    entropy_weight: float = 0.01
    max_grad_norm: float | None = 0.5


def a2c(
    envs: VectorEnv, network: ActorCritic, config: A2CConfig, *, seed: int
) -> Iterator[StepReport]:
    """Train ``network`` in place; yields a report after each rollout's single step.

        L = mean[ -A log π(a|s) ] + c₁ mean[ ½ (V - target)² ] - c₂ mean[ entropy ]

    Metrics: ``entropy`` in nats, ``value_loss``, ``grad_norm`` before clipping,
    ``explained_variance`` of the values before the update.

    Args:
        envs: B environments from ``collect.make_envs``.
        seed: of the environments and the actions.

    Book: 08_actor_critic. Source: Mnih et al. (2016), algorithm S3, made synchronous.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    size = envs.num_envs * config.rollout_steps
    updates = -(-config.total_steps // size)
    stream = rollouts(envs, network.policy, steps=config.rollout_steps, generator=generator)
    for update, rollout in enumerate(islice(stream, updates), start=1):
        if config.anneal:
            set_learning_rate(optimiser, config.learning_rate * (1 - (update - 1) / updates))
        scored = score(network, rollout, gamma=config.gamma, lam=config.lam)
        advantages = scored.advantages
        if config.normalise:
            advantages = masked_whiten(advantages, rollout.mask)

        logits = network.policy(rollout.observations)
        policy_loss = reinforce_loss(action_logprobs(logits, rollout.actions), advantages)
        value_loss = squared_loss(network.value(rollout.observations), scored.targets)
        bonus = entropy(logits)
        loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * bonus

        norm = optimiser_step(
            optimiser,
            aggregate(loss, rollout.mask, "token-mean"),
            max_grad_norm=config.max_grad_norm,
        )
        metrics = {
            "entropy": bonus.mean().item(),
            "value_loss": value_loss.mean().item(),
            "grad_norm": norm,
            "explained_variance": explained_variance(scored.values, scored.targets),
        }
        yield StepReport(update, update * size, metrics, rollout.returns)

"""Proximal policy optimisation: several epochs over one rollout, kept close by a clip.

Public code wins by details that the paper does not state (Engstrom et al. 2020; Andrychowicz et
al. 2021; Huang et al. 2022). Each is a field of ``PPOConfig`` with its default and source;
orthogonal initialisation and one or two bodies are arguments of ``networks.ActorCritic``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from torch import Tensor

from rlbook.control.collect import Rollout, rollouts
from rlbook.control.networks import ActorCritic
from rlbook.control.scoring import Score, explained_variance, score
from rlbook.functional.kl import kl_k3
from rlbook.functional.masked import aggregate, masked_whiten
from rlbook.functional.policy_losses import action_logprobs, clip_active, entropy, ppo_clip_loss
from rlbook.functional.value_losses import clipped_value_loss, squared_loss
from rlbook.loop import minibatches, optimiser_step, set_learning_rate
from rlbook.report import StepReport


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO. "Paper" is Schulman et al. (2017), "code" OpenAI Baselines' PPO2.

    Attributes:
        total_steps: environment steps in all, rounded up to whole rollouts.
        rollout_steps: T, steps of each environment between updates.
        gamma, lam: discount, and λ of the advantages (GAE); paper, table 3.
        epochs: passes over each rollout. minibatches: pieces of each pass; must divide B·T.
        clip: ε of the clip (paper: 0.2); inf switches it off.
        learning_rate: of Adam. anneal: let it fall linearly to 0 (code, and the paper on Atari).
        normalise: "minibatch" (code), "batch" or "none": which advantages get mean 0 and
            variance 1 together.
        value_clip: clip for the value loss, in units of the return (code: 0.2); None is off,
            as Andrychowicz et al. (2021) recommend.
        value_weight, entropy_weight: c₁ and c₂ of the paper's equation 9. The squared error
            carries a factor ½, so that value_weight 1 here is 0.5 in code without it.
        max_grad_norm: longest gradient of all parameters together (code: 0.5); None is off.
        adam_epsilon: code: 1e-5; PyTorch's default is 1e-8.
        target_kl: make no further epoch once the mean KL(π_old‖π) over the rollout exceeds it
            (Dossa et al. 2021); None is off.
    """

    total_steps: int = 100_000
    rollout_steps: int = 128
    gamma: float = 0.99
    lam: float = 0.95
    epochs: int = 4
    minibatches: int = 4
    clip: float = 0.2
    learning_rate: float = 2.5e-4
    anneal: bool = True
    normalise: str = "minibatch"
    value_clip: float | None = None
    value_weight: float = 1.0
    entropy_weight: float = 0.01
    max_grad_norm: float | None = 0.5
    adam_epsilon: float = 1e-5
    target_kl: float | None = None


def ppo(
    envs: VectorEnv, network: ActorCritic, config: PPOConfig, *, seed: int
) -> Iterator[StepReport]:
    """Train ``network`` in place; yields a report after each rollout's update.

        L = mean[ clipped policy loss ] + c₁ mean[ ½ (V - target)² ] - c₂ mean[ entropy ]

    Metrics, after the update and over its rollout: ``kl`` KL(π_old‖π) by k3; ``clip_fraction``
    share of actions whose gradient the clip now removes; ``entropy`` in nats; ``value_loss``
    ½ (V - target)². Also ``grad_norm`` before clipping, the mean over the minibatches;
    ``explained_variance`` of the values before the update; ``epochs`` made; ``learning_rate``.

    Args:
        envs: B environments from ``collect.make_envs``.
        seed: of the environments, the actions and the minibatches.

    Raises:
        ValueError: B·T cannot be cut into equal minibatches; ``normalise`` is unknown; no epochs;
            see also ``collect.rollouts``.

    Book: 09_ppo. Source: Schulman et al. (2017), algorithm 1.
    """
    size = envs.num_envs * config.rollout_steps
    _check(config, size)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(
        network.parameters(), lr=config.learning_rate, eps=config.adam_epsilon, fused=True
    )
    updates = -(-config.total_steps // size)
    stream = rollouts(envs, network.policy, steps=config.rollout_steps, generator=generator)
    for update, rollout in enumerate(islice(stream, updates), start=1):
        if config.anneal:
            set_learning_rate(optimiser, config.learning_rate * (1 - (update - 1) / updates))
        scored = score(network, rollout, gamma=config.gamma, lam=config.lam)
        norms, epoch = [], 0
        for epoch in range(1, config.epochs + 1):  # noqa: B007
            for batch in _pieces(rollout, scored, config, generator):
                loss = ppo_loss(network, *batch, config)
                norms.append(optimiser_step(optimiser, loss, max_grad_norm=config.max_grad_norm))
            if config.target_kl is not None:
                if measure(network, rollout, scored, config)["kl"] > config.target_kl:
                    break
        metrics = measure(network, rollout, scored, config) | {
            "grad_norm": sum(norms) / len(norms),
            "explained_variance": explained_variance(scored.values, scored.targets),
            "epochs": float(epoch),
            "learning_rate": optimiser.param_groups[0]["lr"],
        }
        yield StepReport(update, update * size, metrics, rollout.returns)


def ppo_loss(
    network: ActorCritic, observations: Tensor, actions: Tensor, old: Score, config: PPOConfig
) -> Float[Tensor, ""]:
    """The loss of one minibatch.

    A minibatch is a set of single actions, so its tensors are [M, 1]: M rows of one action.
    """
    logits = network.policy(observations)
    values = network.value(observations)
    mask = torch.ones_like(actions, dtype=torch.bool)

    advantages = old.advantages
    if config.normalise == "minibatch":
        advantages = masked_whiten(advantages, mask)
    logprobs = action_logprobs(logits, actions)
    policy_loss = ppo_clip_loss(logprobs, old.logprobs, advantages, clip=config.clip)
    if config.value_clip is None:
        value_loss = squared_loss(values, old.targets)
    else:
        value_loss = clipped_value_loss(values, old.values, old.targets, clip=config.value_clip)

    loss = policy_loss + config.value_weight * value_loss
    if config.entropy_weight:
        loss = loss - config.entropy_weight * entropy(logits)
    return aggregate(loss, mask, "token-mean")


@torch.no_grad()
def measure(
    network: ActorCritic, rollout: Rollout, old: Score, config: PPOConfig
) -> dict[str, float]:
    """How far the policy has moved from the one that acted, and how well V fits."""
    logits = network.policy(rollout.observations)
    logprobs = action_logprobs(logits, rollout.actions)
    advantages = old.advantages
    if config.normalise != "none":
        advantages = masked_whiten(advantages, rollout.mask)
    per_action = {
        "kl": kl_k3(old.logprobs, logprobs),
        "clip_fraction": clip_active(logprobs, old.logprobs, advantages, clip=config.clip),
        "entropy": entropy(logits),
        "value_loss": squared_loss(network.value(rollout.observations), old.targets),
    }
    return {name: x.mean().item() for name, x in per_action.items()}


def _pieces(
    rollout: Rollout, scored: Score, config: PPOConfig, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Score]]:
    """One epoch: the B·T actions shuffled and cut into minibatches of M rows."""
    if config.normalise == "batch":
        scored = scored._replace(advantages=masked_whiten(scored.advantages, rollout.mask))
    observations = rollout.observations.flatten(0, 1).unsqueeze(1)
    actions, *rest = (x.reshape(-1, 1) for x in (rollout.actions, *scored))
    for index in minibatches(len(actions), config.minibatches, generator=generator):
        yield observations[index], actions[index], Score(*(x[index] for x in rest))


def _check(config: PPOConfig, size: int) -> None:
    if config.normalise not in ("minibatch", "batch", "none"):
        raise ValueError(f'normalise={config.normalise!r} must be "minibatch", "batch" or "none"')
    if config.epochs < 1:
        raise ValueError(f"epochs={config.epochs} must be at least 1")
    if config.minibatches < 1 or size % config.minibatches:
        raise ValueError(
            f"a rollout of {size} actions (environments times rollout_steps="
            f"{config.rollout_steps}) cannot be cut into minibatches={config.minibatches} equal "
            "pieces: choose a number that divides it"
        )

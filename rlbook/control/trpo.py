"""Trust-region policy optimisation: the largest step of a KL ball, by linear algebra.

The contrast to PPO. Where PPO clips a loss and lets Adam run, TRPO solves, at every update,

    maximise  gᵀ x   subject to  ½ xᵀ F x ≤ δ,

with g the policy gradient and F the Hessian of KL(π_old‖π) at π_old (the Fisher matrix), and then
shortens the step until the true KL and the true surrogate agree. F is never formed: conjugate
gradient needs only products F v, and a product is two passes of automatic differentiation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rlbook.control.collect import Rollout, rollouts
from rlbook.control.networks import ActorCritic, check_separate
from rlbook.control.reinforce import fit_values
from rlbook.control.scoring import explained_variance, score
from rlbook.functional.kl import exact_kl
from rlbook.functional.masked import aggregate, masked_whiten
from rlbook.functional.off_policy import importance_ratios
from rlbook.functional.policy_losses import action_logprobs, entropy
from rlbook.report import StepReport


@dataclass(frozen=True)
class TRPOConfig:
    """Settings of TRPO.

    Attributes:
        total_steps: environment steps in all, rounded up to whole rollouts.
        rollout_steps: T, steps of each environment between updates.
        gamma, lam: discount, and λ of the advantages (GAE).
        max_kl: δ, the radius: mean KL(π_old‖π) over the states of the rollout.
        cg_steps: iterations of conjugate gradient. damping: added to F's diagonal.
        backtracks: how often the step may be halved before it is given up.
        value_learning_rate, value_steps: Adam's, for the regression of V on its targets.
    """

    total_steps: int = 100_000
    rollout_steps: int = 128
    gamma: float = 0.99
    lam: float = 0.95
    max_kl: float = 0.01
    cg_steps: int = 10
    damping: float = 0.1
    backtracks: int = 10
    value_learning_rate: float = 1e-3
    value_steps: int = 20


def trpo(
    envs: VectorEnv, network: ActorCritic, config: TRPOConfig, *, seed: int
) -> Iterator[StepReport]:
    """Train ``network`` in place; yields a report after each rollout's update.

    Metrics: ``kl`` the exact mean KL(π_old‖π) of the step taken; ``improvement`` of the
    surrogate mean[ρ A]; ``step_fraction`` 1, ½, ¼, ... or 0 if no step passed; ``entropy`` in
    nats; ``explained_variance`` of the values before their fit.

    Args:
        envs: B environments from ``collect.make_envs``.
        network: with separate bodies: policy and value are trained apart.
        seed: of the environments and the actions.

    Raises:
        ValueError: policy and value share a body; see also ``collect.rollouts``.

    Book: 09_ppo. Source: Schulman et al. (2015), appendix C.
    """
    check_separate(network, "trpo")
    generator = torch.Generator().manual_seed(seed)
    critic = torch.optim.Adam(
        network.critic.parameters(), lr=config.value_learning_rate, fused=True
    )
    size = envs.num_envs * config.rollout_steps
    updates = -(-config.total_steps // size)
    stream = rollouts(envs, network.policy, steps=config.rollout_steps, generator=generator)
    for update, rollout in enumerate(islice(stream, updates), start=1):
        scored = score(network, rollout, gamma=config.gamma, lam=config.lam)
        advantages = masked_whiten(scored.advantages, rollout.mask)
        metrics = trust_region_step(network.actor, rollout, advantages, config)
        fit_values(
            network, critic, rollout.observations, scored.targets, rollout.mask, config.value_steps
        )
        metrics["explained_variance"] = explained_variance(scored.values, scored.targets)
        yield StepReport(update, update * size, metrics, rollout.returns)


def trust_region_step(
    actor: torch.nn.Module,
    rollout: Rollout,
    advantages: Float[Tensor, "B T"],
    config: TRPOConfig,
) -> dict[str, float]:
    """Move the actor by one natural-gradient step with a line search; returns the metrics."""
    parameters = list(actor.parameters())
    old_logits = actor(rollout.observations).detach()
    old_logprobs = action_logprobs(old_logits, rollout.actions)

    def surrogate(logits: Tensor) -> Tensor:
        ratios = importance_ratios(action_logprobs(logits, rollout.actions), old_logprobs)
        return aggregate(ratios * advantages, rollout.mask, "token-mean")

    def mean_kl(logits: Tensor) -> Tensor:
        return aggregate(exact_kl(old_logits, logits), rollout.mask, "token-mean")

    logits = actor(rollout.observations)
    before = surrogate(logits)
    gradient = _flat_gradient(before, parameters, retain_graph=True)
    product = hessian_product(mean_kl(logits), parameters, damping=config.damping)
    direction = conjugate_gradient(product, gradient, steps=config.cg_steps)
    curvature = direction @ product(direction)
    step = direction * torch.sqrt(2.0 * config.max_kl / curvature.clamp(min=1e-12))

    start = parameters_to_vector(parameters).detach()
    metrics = {"kl": 0.0, "improvement": 0.0, "step_fraction": 0.0}
    with torch.no_grad():
        for fraction in 0.5 ** torch.arange(config.backtracks + 1):
            vector_to_parameters(start + fraction * step, parameters)
            logits = actor(rollout.observations)
            kl, improvement = mean_kl(logits), surrogate(logits) - before
            if kl <= config.max_kl and improvement > 0.0:
                metrics = {
                    "kl": kl.item(),
                    "improvement": improvement.item(),
                    "step_fraction": fraction.item(),
                }
                break
        else:
            vector_to_parameters(start, parameters)
            logits = old_logits
        return metrics | {"entropy": entropy(logits).mean().item()}


def hessian_product(
    scalar: Float[Tensor, ""], parameters: list[Tensor], *, damping: float
) -> Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]]:
    """The function v → (F + damping · I) v, with F the Hessian of ``scalar``, never formed.

        F v = ∇( (∇scalar)ᵀ v )

    For KL(π_old‖π) at π = π_old, F is the Fisher matrix of π.

    Book: 09_ppo. Source: Pearlmutter (1994); Schulman et al. (2015), appendix C.1.
    """
    gradient = _flat_gradient(scalar, parameters, create_graph=True)

    def product(v: Tensor) -> Tensor:
        return _flat_gradient(gradient @ v, parameters, retain_graph=True) + damping * v

    return product


def conjugate_gradient(
    product: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]],
    target: Float[Tensor, " n"],
    *,
    steps: int,
    tolerance: float = 1e-10,
) -> Float[Tensor, " n"]:
    """Solve F x = target for a symmetric positive F that is known only by its products F v.

    In exact arithmetic n steps suffice; a few give a useful direction. Stops early once the
    squared residual is at most ``tolerance`` times the squared target.

    Book: 09_ppo. Source: Hestenes and Stiefel (1952).
    """
    x = torch.zeros_like(target)
    residual = target.clone()
    direction = target.clone()
    error = residual @ residual
    for _ in range(steps):
        if error <= tolerance * (target @ target):
            break
        image = product(direction)
        length = error / (direction @ image)
        x = x + length * direction
        residual = residual - length * image
        previous, error = error, residual @ residual
        direction = residual + (error / previous) * direction
    return x


def _flat_gradient(
    scalar: Tensor,
    parameters: list[Tensor],
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> Float[Tensor, " n"]:
    gradients = torch.autograd.grad(
        scalar, parameters, retain_graph=retain_graph or create_graph, create_graph=create_graph
    )
    return torch.cat([g.reshape(-1) for g in gradients])

"""REINFORCE: whole episodes, and each action pushed by the return that followed it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float
from torch import Tensor

from rlbook.control.collect import Rollout, episodes
from rlbook.control.networks import ActorCritic, check_separate
from rlbook.control.scoring import explained_variance
from rlbook.functional.masked import aggregate, blank, masked_mean, masked_whiten
from rlbook.functional.policy_losses import action_logprobs, entropy, reinforce_loss
from rlbook.functional.returns import discounted_returns
from rlbook.functional.value_losses import squared_loss
from rlbook.loop import optimiser_step
from rlbook.report import StepReport

BASELINES = ("none", "mean", "value")


@dataclass(frozen=True)
class ReinforceConfig:
    """Settings of REINFORCE.

    Attributes:
        total_steps: environment steps in all; the last update may go beyond.
        gamma: discount.
        baseline: what is subtracted from the return of an action. "none": nothing. "mean": the
            mean return of the batch's other episodes at the same step t. "value": the value
            network's V(s_t), fitted to the returns by regression.
        whiten: scale the advantages to mean 0 and variance 1 over the batch.
        discount_state: multiply the advantage of step t by γ^t (after whitening), as the true
            gradient of the discounted objective asks for. Off by default, as in most code.
        learning_rate: of the policy. value_learning_rate, value_steps: of the value network, and
            how many full-batch gradient steps it makes per update.
        entropy_weight: of an entropy bonus. max_grad_norm: longest gradient; None is off.
    """

    total_steps: int = 100_000
    gamma: float = 0.99
    baseline: str = "value"
    whiten: bool = False
    discount_state: bool = False
    learning_rate: float = 3e-3
    value_learning_rate: float = 3e-3
    value_steps: int = 20
    entropy_weight: float = 0.0
    max_grad_norm: float | None = None


def reinforce(
    envs: VectorEnv, network: ActorCritic, config: ReinforceConfig, *, seed: int
) -> Iterator[StepReport]:
    """Train ``network`` in place; one update per batch of B whole episodes.

        ∇J ≈ mean over the steps of  (G_t - b) ∇ log π(a_t|s_t)

    The theorem has the sum over each episode, here is the mean over all steps of the batch: in one
    batch the same direction, at a length that does not grow with the episodes. (Over batches of
    unequal episodes, batches of short ones weigh more: a bias that vanishes as B grows.) An
    episode cut by a time limit is bootstrapped from V if the baseline is "value"; otherwise its
    return is that of the rewards seen.

    Metrics: ``entropy`` in nats; ``advantage_std`` of the advantages before whitening;
    ``grad_norm``; with a value network ``explained_variance`` before its fit.

    Args:
        envs: B environments from ``collect.make_envs``: B episodes per update.
        network: with separate bodies if the baseline is "value".
        seed: of the environments and the actions.

    Raises:
        ValueError: ``baseline`` is unknown; a shared body; see also ``collect.rollouts``.

    Book: 07_policy_gradient. Source: Williams (1992); Sutton and Barto (2018), section 13.4.
    """
    if config.baseline not in BASELINES:
        raise ValueError(f"baseline={config.baseline!r} must be one of {', '.join(BASELINES)}")
    if config.baseline == "value":
        check_separate(network, 'reinforce with baseline="value"')
    generator = torch.Generator().manual_seed(seed)
    actor = torch.optim.Adam(network.actor.parameters(), lr=config.learning_rate, fused=True)
    critic = torch.optim.Adam(
        network.critic.parameters(), lr=config.value_learning_rate, fused=True
    )
    samples, update = 0, 0
    while samples < config.total_steps:
        batch = episodes(envs, network.policy, generator=generator)
        samples, update = samples + int(batch.mask.sum()), update + 1
        advantages, returns, metrics = advantage(network, batch, config)
        logits = network.policy(batch.observations)
        bonus = entropy(logits)
        loss = reinforce_loss(action_logprobs(logits, batch.actions), advantages)
        norm = optimiser_step(
            actor,
            aggregate(loss - config.entropy_weight * bonus, batch.mask, "token-mean"),
            max_grad_norm=config.max_grad_norm,
        )
        if config.baseline == "value":
            fit_values(network, critic, batch.observations, returns, batch.mask, config.value_steps)
        metrics |= {"entropy": masked_mean(bonus.detach(), batch.mask).item(), "grad_norm": norm}
        yield StepReport(update, samples, metrics, batch.returns)


@torch.no_grad()
def advantage(
    network: ActorCritic, batch: Rollout, config: ReinforceConfig
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"], dict[str, float]]:
    """Return minus baseline [B, T], the returns themselves [B, T], and what there is to log."""
    metrics = {}
    next_values = values = torch.zeros_like(batch.rewards)
    if config.baseline == "value":
        values = network.value(batch.observations)
        next_values = network.value(batch.next_observations)
    returns = discounted_returns(
        batch.rewards,
        gamma=config.gamma,
        terminated=batch.terminated,
        ended=batch.ended,
        next_values=next_values,
    )
    if config.baseline == "mean":
        values = mean_return_at_step(returns, batch.mask)
    if config.baseline == "value":
        seen = batch.mask
        metrics["explained_variance"] = explained_variance(values[seen], returns[seen])
    advantages = blank(returns - values, batch.mask)
    metrics["advantage_std"] = advantages[batch.mask].std(correction=0).item()
    if config.whiten:
        advantages = masked_whiten(advantages, batch.mask)
    if config.discount_state:
        advantages = advantages * config.gamma ** torch.arange(advantages.shape[1])
    return advantages, returns, metrics


def mean_return_at_step(
    returns: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """The mean of the *other* episodes' returns at the same step, or 0 where there is none.

    Leaving an episode's own return out keeps the baseline independent of its actions, so that
    the gradient of the sum stays unbiased.
    """
    seen = blank(returns, mask)
    others = mask.sum(0, keepdim=True) - mask.long()
    total = seen.sum(0, keepdim=True) - seen
    return torch.where(others > 0, total / others.clamp(min=1), 0.0)


def fit_values(
    network: ActorCritic,
    optimiser: torch.optim.Optimizer,
    observations: Float[Tensor, "B T ..."],
    targets: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    steps: int,
) -> None:
    """Regression of V on targets: full-batch steps down mean ½ (V - target)²."""
    targets = blank(targets, mask)
    for _ in range(steps):
        loss = squared_loss(network.value(observations), targets)
        optimiser_step(optimiser, aggregate(loss, mask, "token-mean"))

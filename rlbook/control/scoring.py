"""What an actor-critic thinks of a rollout: the constants that one update is made from."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlbook.control.collect import Rollout
from rlbook.control.networks import ActorCritic
from rlbook.functional.policy_losses import action_logprobs
from rlbook.functional.returns import gae


class Score(NamedTuple):
    """All [B, T], without gradient.

    Attributes:
        logprobs: log π of the actions taken. values: V(s_t).
        advantages: GAE. targets: advantages + values, what V should have been.
    """

    logprobs: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"]
    advantages: Float[Tensor, "B T"]
    targets: Float[Tensor, "B T"]


@torch.no_grad()
def score(network: ActorCritic, rollout: Rollout, *, gamma: float, lam: float) -> Score:
    """Log-probabilities, values, advantages and value targets of a rollout.

    The value after an action is that of the observation it led to, before any reset; a
    truncated episode is bootstrapped from it, a terminated one is not.

    Book: 08_actor_critic. Source: Schulman et al. (2016).
    """
    logprobs = action_logprobs(network.policy(rollout.observations), rollout.actions)
    values = network.value(rollout.observations)
    advantages = gae(
        rollout.rewards,
        values,
        network.value(rollout.next_observations),
        terminated=rollout.terminated,
        ended=rollout.ended,
        gamma=gamma,
        lam=lam,
    )
    return Score(logprobs, values, advantages, advantages + values)


def explained_variance(predictions: Float[Tensor, "..."], targets: Float[Tensor, "..."]) -> float:
    """1 - Var(targets - predictions) / Var(targets): 1 is perfect, 0 no better than a constant."""
    spread = targets.var(correction=0)
    if spread == 0.0:
        return 0.0
    return float(1.0 - (targets - predictions).var(correction=0) / spread)

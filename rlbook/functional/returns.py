"""Returns and advantages: what the actions of a batch of rollouts were worth.

Batch first; column t is the t-th action. ``next_values[t]`` is the value of the state that
action t led to, *before any reset*. ``terminated`` stops the bootstrap (nothing follows),
``ended`` (terminated or truncated) stops the recursion (another episode follows, or padding).
A terminated step counts as ended, whatever ``ended`` says there. The last column is cut off
like a truncated step: it bootstraps unless it terminated.

Whatever stands after an end (NaN included) changes nothing before it. Gradients flow through all
of these formulas; a training loop that wants constants calls them under ``torch.no_grad()``.

GAE and the λ-return agree, gae + values = lambda_returns, if values[t + 1] = next_values[t]
inside each episode, as they are when one network gives both.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlbook.functional.arguments import (
    check_batch_time,
    check_bool,
    check_same_shape,
    check_unit,
)
from rlbook.functional.scan import reverse_linear_scan
from rlbook.functional.value_losses import td_error


def discounted_returns(
    rewards: Float[Tensor, "B T"],
    *,
    gamma: float,
    terminated: Bool[Tensor, "B T"] | None = None,
    ended: Bool[Tensor, "B T"] | None = None,
    next_values: Float[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T"]:
    """Reward-to-go: the discounted sum of the rewards from each action on.

        G_t = r_t + γ G_{t+1};    at an end or in the last column  G_t = r_t + γ V(s_{t+1}),
        V(s_{t+1}) = 0 where terminated

    Args:
        rewards: [B, T].
        gamma: discount in [0, 1].
        terminated, ended: bool [B, T]; default: no step terminated, no episode ends inside a row.
        next_values: [B, T], read only where a sum is cut off without having terminated; default
            0, so that the sum stops there.

    Raises ValueError for a gamma outside [0, 1], flags that are not bools, shapes that differ.

    Book: 07_policy_gradient. Source: Sutton and Barto (2018), equation 3.9.
    """
    check_unit(gamma=gamma)
    if next_values is None:
        next_values = torch.zeros_like(rewards)
    if terminated is None:
        terminated = torch.zeros_like(rewards, dtype=torch.bool)
    ended = terminated if ended is None else ended
    bootstrap, ended = _cut(rewards, next_values, terminated, ended)
    increment = rewards + gamma * torch.where(ended, bootstrap, 0.0)
    return reverse_linear_scan(torch.full_like(increment, gamma), increment, ended=ended)


def n_step_returns(
    rewards: Float[Tensor, "B T"],
    next_values: Float[Tensor, "B T"],
    *,
    n: int,
    terminated: Bool[Tensor, "B T"],
    ended: Bool[Tensor, "B T"],
    gamma: float,
) -> Float[Tensor, "B T"]:
    """n rewards, then the value of where they led; fewer where an episode or the row ends first.

        G_t^(n) = r_t + γ r_{t+1} + ... + γ^{n-1} r_{t+n-1} + γ^n V(s_{t+n})

    n = 1 is the TD target; n ≥ T gives ``discounted_returns``. The loop runs over n, not over
    time: G^(k+1)_t = r_t + γ G^(k)_{t+1}.

    Args: as for ``discounted_returns``; n at least 1, else ValueError.

    Book: 08_actor_critic. Source: Sutton and Barto (2018), equation 7.1.
    """
    check_unit(gamma=gamma)
    if n < 1:
        raise ValueError(f"n={n} must be at least 1 step")
    check_batch_time(rewards=rewards)
    T = rewards.shape[1]
    if n >= T:
        return discounted_returns(
            rewards, gamma=gamma, terminated=terminated, ended=ended, next_values=next_values
        )
    bootstrap, ended = _cut(rewards, next_values, terminated, ended)
    one_step = rewards + gamma * bootstrap
    returns = one_step
    for _ in range(n - 1):
        longer = rewards[:, :-1] + gamma * returns[:, 1:]
        inside = torch.where(ended[:, :-1], one_step[:, :-1], longer)
        returns = torch.cat([inside, one_step[:, -1:]], dim=1)
    return returns


def lambda_returns(
    rewards: Float[Tensor, "B T"],
    next_values: Float[Tensor, "B T"],
    *,
    terminated: Bool[Tensor, "B T"],
    ended: Bool[Tensor, "B T"],
    gamma: float,
    lam: float,
) -> Float[Tensor, "B T"]:
    """The mean of all n-step returns with weights (1-λ) λ^{n-1}, the longest taking the rest.

        G_t = r_t + γ [ (1-λ) V(s_{t+1}) + λ G_{t+1} ];    at an end  G_t = r_t + γ V(s_{t+1}),
        V(s_{t+1}) = 0 where terminated

    λ = 0 is the TD target, λ = 1 is ``discounted_returns``.

    Args: as for ``gae``, which uses the same λ.

    Book: 08_actor_critic. Source: Sutton and Barto (2018), equations 12.2 and 12.3.
    """
    check_unit(gamma=gamma, lam=lam)
    bootstrap, ended = _cut(rewards, next_values, terminated, ended)
    increment = rewards + gamma * torch.where(ended, bootstrap, (1.0 - lam) * bootstrap)
    return reverse_linear_scan(torch.full_like(increment, gamma * lam), increment, ended=ended)


def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    next_values: Float[Tensor, "B T"],
    *,
    terminated: Bool[Tensor, "B T"],
    ended: Bool[Tensor, "B T"],
    gamma: float,
    lam: float,
) -> Float[Tensor, "B T"]:
    """Generalised advantage estimation: how much better each action was than the policy's average.

        A_t = δ_t + γ λ A_{t+1} (0 after an end),    δ_t = r_t + γ V(s_{t+1}) - V(s_t)

    λ = 0 gives the TD error, λ = 1 the return minus the value. Targets for the value network are
    advantages + values: compute them before the advantages are whitened.

    Args:
        rewards: [B, T].
        values: [B, T], V(s_t) of the state in which action t was taken.
        next_values: [B, T], V of the state that action t led to, before any reset; not read
            where terminated.
        terminated: bool [B, T]: no bootstrap after this action.
        ended: bool [B, T], terminated or truncated: the next column is another episode.
        gamma, lam: in [0, 1].

    Raises ValueError for numbers outside [0, 1], flags that are not bools, shapes that differ.

    Book: 08_actor_critic, 17_ppo_gpt2. Source: Schulman et al. (2016), equation 16.
    """
    check_unit(gamma=gamma, lam=lam)
    check_batch_time(rewards=rewards)
    check_bool(ended=ended)
    check_same_shape(rewards=rewards, ended=ended)
    delta = td_error(rewards, values, next_values, terminated=terminated, gamma=gamma)
    return reverse_linear_scan(torch.full_like(delta, gamma * lam), delta, ended=ended | terminated)


def _cut(
    rewards: Tensor, next_values: Tensor, terminated: Tensor, ended: Tensor
) -> tuple[Tensor, Tensor]:
    """The values to bootstrap from (0 where terminated), and where a sum is cut off: at every
    end, and in the last column."""
    check_batch_time(rewards=rewards)
    check_bool(terminated=terminated, ended=ended)
    check_same_shape(rewards=rewards, next_values=next_values, terminated=terminated, ended=ended)
    last = torch.arange(rewards.shape[1], device=rewards.device) == rewards.shape[1] - 1
    return torch.where(terminated, 0.0, next_values), ended | terminated | last

"""Rollouts for the tests of rlbook.functional: random ones, plain loops over time, and every
episode of a small MDP, so that an expectation is a sum."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jaxtyping
import numpy as np
import torch
from scripted import trajectories
from torch import Tensor

from rlbook.tabular.mdp import MDP, uniform_policy

NAN = float("nan")


@contextmanager
def jaxtyping_off() -> Iterator[None]:
    """What a user has: annotations that nobody checks."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def naive_scan(decay: Tensor, increment: Tensor, ended: Tensor) -> Tensor:
    """x_t = b_t + a_t x_{t+1}, one column after the other; differentiable."""
    columns: list[Tensor] = []
    x = torch.zeros_like(increment[:, 0])
    for t in reversed(range(increment.shape[1])):
        follows = torch.where(ended[:, t], 0.0, x)
        x = increment[:, t] + torch.where(ended[:, t], 0.0, decay[:, t]) * follows
        columns.insert(0, x)
    return torch.stack(columns, dim=1)


@dataclass
class Rollouts:
    """Random numbers of the right shapes [B, T]; about a quarter of the steps end an episode."""

    rewards: Tensor
    values: Tensor
    next_values: Tensor
    terminated: Tensor
    ended: Tensor

    @classmethod
    def random(cls, B: int, T: int, *, seed: int, dtype: torch.dtype = torch.float64):
        g = torch.Generator().manual_seed(seed)
        rewards, values, next_values = torch.randn(3, B, T, generator=g, dtype=dtype)
        terminated = torch.rand(B, T, generator=g) < 0.15
        truncated = torch.rand(B, T, generator=g) < 0.15
        return cls(rewards, values, next_values, terminated, terminated | truncated)

    @property
    def flags(self) -> dict[str, Tensor]:
        return {"terminated": self.terminated, "ended": self.ended}


def per_step(rollouts: Rollouts, b: int, t: int) -> tuple[float, float, bool]:
    """Reward, bootstrap and whether the sum is cut off after step t of row b, as numbers."""
    terminated, ended = bool(rollouts.terminated[b, t]), bool(rollouts.ended[b, t])
    bootstrap = 0.0 if terminated else float(rollouts.next_values[b, t])
    return (
        float(rollouts.rewards[b, t]),
        bootstrap,
        ended or t == rollouts.rewards.shape[1] - 1,
    )


def naive_n_step(rollouts: Rollouts, n: int, gamma: float) -> Tensor:
    """n-step returns straight from the definition: a forward sum from every step."""
    B, T = rollouts.rewards.shape
    out = torch.zeros(B, T, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            total = 0.0
            for k in range(n):
                reward, bootstrap, cut = per_step(rollouts, b, t + k)
                total += gamma**k * reward
                if cut or k == n - 1:
                    total += gamma ** (k + 1) * bootstrap
                    break
            out[b, t] = total
    return out


def naive_gae(rollouts: Rollouts, gamma: float, lam: float) -> Tensor:
    """GAE as its definition: Σ_k (γλ)^k δ_{t+k} up to the end, a forward sum from every step."""
    B, T = rollouts.rewards.shape
    out = torch.zeros(B, T, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            for k in range(t, T):
                reward, bootstrap, cut = per_step(rollouts, b, k)
                delta = reward + gamma * bootstrap - float(rollouts.values[b, k])
                out[b, t] += (gamma * lam) ** (k - t) * delta
                if cut:
                    break
    return out


# --- every episode of a small MDP ------------------------------------------------------------


def small_mdp() -> MDP:
    """Five states, the last terminal; two actions; one to three per episode, from state 0."""
    P, R = np.zeros((5, 2, 5)), np.zeros((5, 2))
    P[0, 0, [1, 2]] = 0.6, 0.4
    P[0, 1, [1, 2, 4]] = 0.2, 0.5, 0.3
    P[1, 0, [3, 4]] = 0.9, 0.1
    P[1, 1, [3, 4]] = 0.3, 0.7
    P[2, 0, [3, 4]] = 0.5, 0.5
    P[2, 1, 3] = 1.0
    P[3, :, 4] = 1.0
    P[4, :, 4] = 1.0
    R[:4] = [[0.5, -1.0], [2.0, 1.0], [-0.5, 0.3], [1.5, -2.0]]
    return MDP(P, R, np.arange(5) == 4, np.eye(5)[0])


class Episodes:
    """Every episode of ``small_mdp`` as rows [N, 3], with NaN where an episode is over.

    Attributes:
        dynamics: [N], the probability of the environment's draws; times the policy's, the
            probability of the episode.
        states, actions: int [N, 3]. rewards: [N, 3]. terminated, mask: bool [N, 3].
    """

    def __init__(self) -> None:
        self.mdp = small_mdp()
        found = list(trajectories(self.mdp, uniform_policy(self.mdp), 0))
        N, T = len(found), 3
        self.dynamics = torch.tensor(
            [chance * self.mdp.A ** len(steps) for chance, steps in found], dtype=torch.float64
        )
        self.states = torch.zeros(N, T, dtype=torch.long)
        self.actions = torch.zeros(N, T, dtype=torch.long)
        self.rewards = torch.full((N, T), NAN, dtype=torch.float64)
        self.terminated = torch.zeros(N, T, dtype=torch.bool)
        self.mask = torch.zeros(N, T, dtype=torch.bool)
        for n, (_, steps) in enumerate(found):
            for t, (state, action, reward) in enumerate(steps):
                self.states[n, t], self.actions[n, t], self.rewards[n, t] = state, action, reward
                self.mask[n, t] = True
            self.terminated[n, len(steps) - 1] = True

    def logprobs(self, theta: Tensor) -> Tensor:
        """log π_θ(a_t|s_t) [N, 3] of the softmax policy with logits theta; 0 after the end."""
        logprobs = torch.log_softmax(theta, dim=1)[self.states, self.actions]
        return torch.where(self.mask, logprobs, 0.0)

    def weights(self, theta: Tensor) -> Tensor:
        """The probability of each episode [N]; differentiable."""
        return self.dynamics * self.logprobs(theta).sum(1).exp()

    def returns(self, gamma: float) -> Tensor:
        """Discounted return of each episode [N]."""
        discounts = gamma ** torch.arange(3, dtype=torch.float64)
        return torch.where(self.mask, self.rewards * discounts, 0.0).sum(1)

    def objective(self, theta: Tensor, gamma: float) -> Tensor:
        """J(θ) = Σ over episodes of probability times return."""
        return (self.weights(theta) * self.returns(gamma)).sum()

    def expected_gradient(self, theta: Tensor, loss: Tensor, drawn_by: Tensor | None = None):
        """E[ Σ_t ∇loss_t ] over the episodes that ``drawn_by`` (default theta) draws."""
        weights = self.weights(theta if drawn_by is None else drawn_by).detach()
        total = (weights[:, None] * torch.where(self.mask, loss, 0.0)).sum()
        return torch.autograd.grad(total, theta)[0]

    def values(self, V: Tensor) -> tuple[Tensor, Tensor]:
        """V(s_t) and V(s_{t+1}) along each episode [N, 3], NaN where there is no such state."""
        values = torch.where(self.mask, V[self.states], NAN)
        nothing = torch.full((len(values), 1), NAN, dtype=V.dtype)
        return values, torch.cat([values[:, 1:], nothing], dim=1)

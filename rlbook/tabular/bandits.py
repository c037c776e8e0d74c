"""Bandits: one state, A arms, many independent runs side by side.

An agent keeps one row of numbers per run, so that thousands of runs move in one numpy step. It
offers two methods: ``choose(generator)`` gives an arm per run, ``learn(arms, rewards)`` takes the
rewards in. ``play`` joins an agent to a bandit.

Letters: N runs, A arms, T pulls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from rlbook.tabular.bellman import optimal_actions


@dataclass(frozen=True)
class Bandit:
    """N bandits of A arms each.

    Attributes:
        means: expected reward of each arm [N, A].
        noise: standard deviation of Gaussian rewards; None means rewards are 0 or 1 and the
            means are probabilities.
    """

    means: Any
    noise: float | None = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "means", np.array(self.means, float))
        if self.means.ndim != 2 or not np.isfinite(self.means).all():
            raise ValueError("means must be finite numbers of shape [N, A], one row per run")
        if self.noise is None and not ((self.means >= 0.0) & (self.means <= 1.0)).all():
            raise ValueError("with noise=None the means are probabilities: they must lie in [0, 1]")
        if self.noise is not None and not self.noise >= 0.0:
            raise ValueError(f"noise={self.noise} is a standard deviation: it must be >= 0")

    def pull(
        self, arms: Int[np.ndarray, " N"], generator: np.random.Generator
    ) -> Float[np.ndarray, " N"]:
        """Draw one reward per run."""
        mean = self.means[np.arange(len(arms)), arms]
        if self.noise is None:
            return (generator.random(len(arms)) < mean).astype(float)
        return mean + self.noise * generator.standard_normal(len(arms))


def gaussian_testbed(runs: int, arms: int, *, generator: np.random.Generator) -> Bandit:
    """The testbed of Sutton and Barto (2018), section 2.3: means N(0, 1), rewards N(mean, 1)."""
    return Bandit(generator.standard_normal((runs, arms)))


@runtime_checkable
class Agent(Protocol):
    """What ``play`` needs of an agent."""

    def choose(self, generator: np.random.Generator) -> Int[np.ndarray, " N"]: ...
    def learn(self, arms: Int[np.ndarray, " N"], rewards: Float[np.ndarray, " N"]) -> None: ...


@dataclass(frozen=True)
class Play:
    """What happened, averaged over the N runs [T each].

    Attributes:
        reward: mean reward of pull t.
        optimal: share of runs that pulled a best arm.
        regret: mean cumulative regret, Σ_{i ≤ t} (best mean - mean of the arm pulled).
    """

    reward: Float[np.ndarray, " T"]
    optimal: Float[np.ndarray, " T"]
    regret: Float[np.ndarray, " T"]


def play(bandit: Bandit, agent: Agent, *, pulls: int, generator: np.random.Generator) -> Play:
    """Let an agent pull arms for ``pulls`` steps in all runs at once.

    Book: 01_bandits. Source: Sutton and Barto (2018), section 2.3; regret: Auer, Cesa-Bianchi
    and Fischer (2002), section 1.
    """
    rows = np.arange(len(bandit.means))
    gaps = bandit.means.max(axis=1, keepdims=True) - bandit.means
    is_best = optimal_actions(bandit.means)
    reward, optimal, lost = np.zeros((3, pulls))
    for t in range(pulls):
        arms = agent.choose(generator)
        rewards = bandit.pull(arms, generator)
        agent.learn(arms, rewards)
        reward[t] = rewards.mean()
        optimal[t] = is_best[rows, arms].mean()
        lost[t] = gaps[rows, arms].mean()
    return Play(reward, optimal, lost.cumsum())


class _Averages:
    """Estimates Q [N, A] and counts [N, A]: Q ← Q + α (reward - Q), α = 1/count by default."""

    def __init__(self, runs: int, arms: int, initial: float, step_size: float | None) -> None:
        if step_size is not None and not 0.0 < step_size <= 1.0:
            raise ValueError(f"step_size={step_size} must lie in (0, 1], or be None for 1/n")
        self.Q = np.full((runs, arms), float(initial))
        self.counts = np.zeros((runs, arms))
        self.step_size = step_size
        self.rows = np.arange(runs)

    def learn(self, arms: Int[np.ndarray, " N"], rewards: Float[np.ndarray, " N"]) -> None:
        self.counts[self.rows, arms] += 1.0
        alpha = self.step_size or 1.0 / self.counts[self.rows, arms]
        self.Q[self.rows, arms] += alpha * (rewards - self.Q[self.rows, arms])


def argmax_random_ties(
    scores: Float[np.ndarray, "N A"], generator: np.random.Generator
) -> Int[np.ndarray, " N"]:
    """The column of the largest entry of each row; equal entries win equally often."""
    best = scores == scores.max(axis=1, keepdims=True)
    return np.where(best, generator.random(scores.shape), -1.0).argmax(axis=1)


class EpsilonGreedy(_Averages):
    """With probability ε any arm, otherwise the one that looks best.

    Args:
        runs, arms: N and A.
        epsilon: a number, or a function of the pull t = 0, 1, ... for a decaying ε.
        initial: first estimate of every arm; high values are the optimistic start (with α = 1/n
            the first reward of an arm wipes it out; with a constant α it fades).
        step_size: constant α for rewards that drift; None averages all rewards (α = 1/n).

    Book: 01_bandits. Source: Sutton and Barto (2018), sections 2.2-2.6.
    """

    def __init__(
        self,
        runs: int,
        arms: int,
        *,
        epsilon: float | Callable[[int], float],
        initial: float = 0.0,
        step_size: float | None = None,
    ) -> None:
        super().__init__(runs, arms, initial, step_size)
        self.epsilon = epsilon if callable(epsilon) else lambda t: epsilon
        self.t = 0

    def choose(self, generator: np.random.Generator) -> Int[np.ndarray, " N"]:
        epsilon, self.t = self.epsilon(self.t), self.t + 1
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"epsilon={epsilon} at pull {self.t - 1}: it must lie in [0, 1]")
        runs, arms = self.Q.shape
        explore = generator.random(runs) < epsilon
        anything = generator.integers(arms, size=runs)
        return np.where(explore, anything, argmax_random_ties(self.Q, generator))


class UCB(_Averages):
    """Upper confidence bounds: optimism in the face of uncertainty.

        argmax_a  Q(a) + c √(ln t / n(a)),     each arm once first

    UCB1 is c = √2 (for rewards in [0, 1]); Sutton and Barto use c = 2 on the testbed.

    Book: 01_bandits. Source: Auer, Cesa-Bianchi and Fischer (2002), figure 1; Sutton and Barto
    (2018), equation 2.10.
    """

    def __init__(self, runs: int, arms: int, *, c: float = 2.0**0.5) -> None:
        if not c >= 0.0:
            raise ValueError(f"c={c} is a width of optimism: it must be >= 0")
        super().__init__(runs, arms, 0.0, None)
        self.c = c

    def choose(self, generator: np.random.Generator) -> Int[np.ndarray, " N"]:
        pulls = max(1.0, self.counts[0].sum())
        counts = np.maximum(self.counts, 1.0)
        bound = self.Q + self.c * np.sqrt(np.log(pulls) / counts)
        return argmax_random_ties(np.where(self.counts == 0, np.inf, bound), generator)


class ThompsonBeta:
    """Thompson sampling for rewards 0 or 1, with a Beta(1, 1) prior on each arm.

    Draw θ(a) ~ Beta(1 + successes, 1 + failures) for every arm; pull the arm of the largest θ.

    Book: 01_bandits. Source: Thompson (1933); Chapelle and Li (2011), algorithm 2.
    """

    def __init__(self, runs: int, arms: int) -> None:
        self.successes, self.failures = np.ones((runs, arms)), np.ones((runs, arms))
        self.rows = np.arange(runs)

    def choose(self, generator: np.random.Generator) -> Int[np.ndarray, " N"]:
        return generator.beta(self.successes, self.failures).argmax(axis=1)

    def learn(self, arms: Int[np.ndarray, " N"], rewards: Float[np.ndarray, " N"]) -> None:
        if not np.isin(rewards, (0.0, 1.0)).all():
            raise ValueError("ThompsonBeta takes rewards 0 or 1: use ThompsonGaussian for others")
        self.successes[self.rows, arms] += rewards
        self.failures[self.rows, arms] += 1.0 - rewards


class ThompsonGaussian:
    """Thompson sampling for Gaussian rewards of known noise, with an N(0, prior²) prior.

    After n rewards of sum s:  precision = 1/prior² + n/noise²,  mean = (s/noise²) / precision.

    Book: 01_bandits. Source: Russo et al. (2018), "A tutorial on Thompson sampling", section 4.
    """

    def __init__(self, runs: int, arms: int, *, prior: float = 1.0, noise: float = 1.0) -> None:
        if not (prior > 0.0 and noise > 0.0):
            raise ValueError(f"prior={prior} and noise={noise} are standard deviations: both > 0")
        self.precision = np.full((runs, arms), prior**-2.0)
        self.weighted_sum = np.zeros((runs, arms))
        self.noise_precision = noise**-2.0
        self.rows = np.arange(runs)

    def choose(self, generator: np.random.Generator) -> Int[np.ndarray, " N"]:
        draws = generator.standard_normal(self.precision.shape) / np.sqrt(self.precision)
        return (self.weighted_sum / self.precision + draws).argmax(axis=1)

    def learn(self, arms: Int[np.ndarray, " N"], rewards: Float[np.ndarray, " N"]) -> None:
        self.precision[self.rows, arms] += self.noise_precision
        self.weighted_sum[self.rows, arms] += self.noise_precision * rewards


class GradientBandit:
    """Preferences H, a softmax policy, and stochastic gradient ascent on the expected reward.

        π = softmax(H);     H(a) ← H(a) + α (reward - baseline) (1[a pulled] - π(a))

    The baseline is the mean of the earlier rewards (the first pull has none and takes no step),
    or 0. As it does not depend on the arm pulled now, it leaves the expected step as it is and
    usually lowers its variance. Chapter 07 generalises this to REINFORCE.

    Book: 01_bandits. Source: Sutton and Barto (2018), equation 2.12.
    """

    def __init__(self, runs: int, arms: int, *, alpha: float, baseline: bool = True) -> None:
        if not alpha > 0.0:
            raise ValueError(f"alpha={alpha} is a step size: it must be > 0")
        self.H = np.zeros((runs, arms))
        self.alpha, self.baseline = alpha, baseline
        self.mean_reward, self.pulls = np.zeros(runs), 0
        self.rows = np.arange(runs)

    def policy(self) -> Float[np.ndarray, "N A"]:
        """π = softmax(H), row by row."""
        weights = np.exp(self.H - self.H.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def choose(self, generator: np.random.Generator) -> Int[np.ndarray, " N"]:
        cumulative = self.policy().cumsum(axis=1)
        draws = generator.random((len(self.H), 1)) * cumulative[:, -1:]
        return (draws >= cumulative).sum(axis=1)

    def learn(self, arms: Int[np.ndarray, " N"], rewards: Float[np.ndarray, " N"]) -> None:
        earlier = self.mean_reward if self.pulls else rewards
        centred = rewards - earlier if self.baseline else rewards
        self.pulls += 1
        self.mean_reward = self.mean_reward + (rewards - self.mean_reward) / self.pulls
        step = -self.policy()
        step[self.rows, arms] += 1.0
        self.H += self.alpha * centred[:, None] * step

"""The 10-armed testbed: nine bandit algorithms over 2,000 bandits.

A seed is 200 bandits of 1,000 pulls, so that a band over 10 seeds says how sure the mean over
2,000 bandits is. All algorithms of a seed meet the same 200 bandits. Curves are averaged over
windows of pulls: the first 20 pulls one by one, windows of 5 up to pull 100, then of 20; x is
the middle of the window. Regret is cumulative; `total` measures are over all 1,000 pulls.

`shifted` measures repeat Sutton and Barto's figure 2.5: means are N(4, 1) instead of N(0, 1),
and gradient bandits with and without a baseline face them.

Source: Sutton and Barto (2018), sections 2.3 to 2.8.
"""

import itertools
from typing import Any

import numpy as np

from rlbook.tabular.bandits import (
    UCB,
    Agent,
    Bandit,
    EpsilonGreedy,
    GradientBandit,
    ThompsonGaussian,
    gaussian_testbed,
    play,
)

SEEDS = 10
EDGES = [*range(20), *range(20, 100, 5), *range(100, 1001, 20)]  # a window is [edge, next edge)
SETTINGS: dict[str, Any] = {
    "runs": 200,
    "arms": 10,
    "pulls": 1000,
    "windows": EDGES,
    "x": [(low + 1 + high) / 2 for low, high in itertools.pairwise(EDGES)],
    "agents": {
        "ε = 0": {"epsilon": 0.0},
        "ε = 0.01": {"epsilon": 0.01},
        "ε = 0.1": {"epsilon": 0.1},
        "ε = min(1, 10/t)": {"decay": 10.0},
        "optimistic, Q₁ = 5": {"epsilon": 0.0, "initial": 5.0, "step_size": 0.1},
        "UCB, c = 2": {"c": 2.0},
        "Thompson": {"prior": 1.0, "noise": 1.0},
        "gradient, α = 0.1": {"alpha": 0.1},
        "gradient, no baseline": {"alpha": 0.1, "baseline": False},
    },
    "shift": 4.0,
    "shifted_agents": {
        "α = 0.1": {"alpha": 0.1},
        "α = 0.4": {"alpha": 0.4},
        "α = 0.1, no baseline": {"alpha": 0.1, "baseline": False},
        "α = 0.4, no baseline": {"alpha": 0.4, "baseline": False},
    },
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Play 200 bandits with every agent."""
    streams = np.random.SeedSequence(seed).spawn(3)
    bandit = gaussian_testbed(
        SETTINGS["runs"], SETTINGS["arms"], generator=np.random.default_rng(streams[0])
    )
    shifted = Bandit(bandit.means + SETTINGS["shift"])
    plays = _plays(bandit, SETTINGS["agents"], streams[1])
    shifted_plays = _plays(shifted, SETTINGS["shifted_agents"], streams[2])
    return {
        "reward": {arm: windowed(p.reward) for arm, p in plays.items()},
        "optimal": {arm: windowed(p.optimal) for arm, p in plays.items()},
        "regret": {arm: windowed(p.regret) for arm, p in plays.items()},
        "total reward": {arm: p.reward.sum() for arm, p in plays.items()},
        "total regret": {arm: p.regret[-1] for arm, p in plays.items()},
        "shifted optimal": {arm: windowed(p.optimal) for arm, p in shifted_plays.items()},
    }


def windowed(values: np.ndarray) -> np.ndarray:
    """The mean of each window of pulls."""
    edges = np.array(SETTINGS["windows"])
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def agent(runs: int, arms: int, options: dict[str, Any]) -> Agent:
    """The agent that an entry of the settings describes."""
    if "decay" in options:
        return EpsilonGreedy(runs, arms, epsilon=lambda t: min(1.0, options["decay"] / (t + 1)))
    kinds = {"epsilon": EpsilonGreedy, "c": UCB, "prior": ThompsonGaussian, "alpha": GradientBandit}
    return next(kind for key, kind in kinds.items() if key in options)(runs, arms, **options)


def _plays(bandit: Bandit, agents: dict[str, Any], stream: np.random.SeedSequence) -> dict:
    runs, arms = bandit.means.shape
    streams = stream.spawn(len(agents))
    return {
        name: play(
            bandit,
            agent(runs, arms, options),
            pulls=SETTINGS["pulls"],
            generator=np.random.default_rng(own),
        )
        for (name, options), own in zip(agents.items(), streams, strict=True)
    }

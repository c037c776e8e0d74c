"""The 10-armed testbed, parameter by parameter.

The reward per pull over the first 1,000 pulls, against the one parameter of each algorithm. A
seed is 200 bandits, the same for every algorithm and parameter. `x` lists each curve's
parameters: they differ in range.

Source: Sutton and Barto (2018), figure 2.6 (there: 2,000 bandits).
"""

from typing import Any

import numpy as np

from rlbook.tabular.bandits import UCB, Agent, EpsilonGreedy, GradientBandit, gaussian_testbed, play

SEEDS = 10
SETTINGS: dict[str, Any] = {
    "runs": 200,
    "arms": 10,
    "pulls": 1000,
    "step_size": 0.1,  # of the optimistic agents
    "x": {
        "ε-greedy, ε": [2.0**k for k in range(-7, -1)],
        "gradient, α": [2.0**k for k in range(-5, 3)],
        "UCB, c": [2.0**k for k in range(-4, 3)],
        "optimistic, Q₁": [2.0**k for k in range(-2, 3)],
    },
}


def run(seed: int) -> dict[str, dict[str, list[float]]]:
    """Play 200 bandits with every algorithm at every parameter."""
    streams = np.random.SeedSequence(seed).spawn(2)
    runs, arms = SETTINGS["runs"], SETTINGS["arms"]
    bandit = gaussian_testbed(runs, arms, generator=np.random.default_rng(streams[0]))

    def mean_reward(agent: Agent) -> float:
        generator = np.random.default_rng(streams[1])  # the same luck for all
        return float(
            play(bandit, agent, pulls=SETTINGS["pulls"], generator=generator).reward.mean()
        )

    build = {
        "ε-greedy, ε": lambda value: EpsilonGreedy(runs, arms, epsilon=value),
        "gradient, α": lambda value: GradientBandit(runs, arms, alpha=value),
        "UCB, c": lambda value: UCB(runs, arms, c=value),
        "optimistic, Q₁": lambda value: EpsilonGreedy(
            runs, arms, epsilon=0.0, initial=value, step_size=SETTINGS["step_size"]
        ),
    }
    return {
        "reward": {
            arm: [mean_reward(build[arm](value)) for value in values]
            for arm, values in SETTINGS["x"].items()
        }
    }

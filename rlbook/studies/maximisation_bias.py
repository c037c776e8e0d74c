"""Maximisation bias: how often Q-learning goes left.

The share of runs that choose left at the fork of ``NoisyChoice``, episode by episode; left is
worth -0.1 and right 0, so the best ε-greedy policy goes left in ε/2 = 5% of episodes. A seed is
500 runs. `left` is averaged over windows of 3 episodes (x is the middle of the window); `value`
is the mean estimate of going left after each window, whose true value is -0.1.

Source: Sutton and Barto (2018), example 6.7 and figure 6.5 (there: 10,000 runs).
"""

from typing import Any

import numpy as np

from rlbook.tabular.noisy_choice import FORK, LEFT, NoisyChoice
from rlbook.tabular.td import double_q_learning, expected_sarsa, q_learning

SEEDS = 20
SETTINGS: dict[str, Any] = {
    "runs": 500,
    "arms": 10,
    "mean": -0.1,
    "noise": 1.0,
    "gamma": 1.0,
    "alpha": 0.1,
    "epsilon": 0.1,
    "episodes": 300,
    "window": 3,
    "x": [2 + 3 * k for k in range(100)],
}
LEARNERS = {
    "Q-learning": q_learning,
    "double Q-learning": double_q_learning,
    "expected SARSA": expected_sarsa,
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Learn 500 times with each method."""
    learned = {name: learn(name, seed) for name in LEARNERS}
    window = SETTINGS["window"]
    return {
        "left": {
            name: left.reshape(-1, window).mean(axis=1) for name, (left, _) in learned.items()
        },
        "value": {name: value[window - 1 :: window] for name, (_, value) in learned.items()},
    }


def learn(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The share of runs that went left, and their mean Q(fork, left), after each episode."""
    env = NoisyChoice(SETTINGS["arms"], mean=SETTINGS["mean"], noise=SETTINGS["noise"])
    left, value = np.zeros((2, SETTINGS["episodes"]))
    for stream in np.random.SeedSequence(seed).spawn(SETTINGS["runs"]):
        for report in LEARNERS[name](
            env,
            gamma=SETTINGS["gamma"],
            alpha=SETTINGS["alpha"],
            epsilon=SETTINGS["epsilon"],
            episodes=SETTINGS["episodes"],
            generator=np.random.default_rng(stream),
            Q=env.first_guess(),
        ):
            left[report.episode] += report.steps == 2  # right ends the episode after one step
            value[report.episode] += report.Q[FORK, LEFT]
    return left / SETTINGS["runs"], value / SETTINGS["runs"]

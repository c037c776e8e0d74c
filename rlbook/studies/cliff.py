"""Walking along the cliff: SARSA, Q-learning and expected SARSA.

Gymnasium's CliffWalking, γ = 1, ε = 0.1. `return` is the online return per episode at α = 0.5,
averaged over windows of 10 episodes (x is the middle of the window). `greedy return` is what the
greedy policy earns after the last episode from one walk without exploring, cut after 200 steps
at -200: -13 is the shortest path, along the edge. `first 100` and `last 100` are the mean online
returns of the first and the last 100 of the 500 episodes, against α.

Source: Sutton and Barto (2018), example 6.6 and figure 6.3 (there the asymptote is taken over
100,000 episodes).
"""

from typing import Any

import gymnasium as gym
import numpy as np

from rlbook.tabular.episodes import play
from rlbook.tabular.td import Explorer, expected_sarsa, q_learning, sarsa

SEEDS = 30
SETTINGS: dict[str, Any] = {
    "environment": "CliffWalking-v1",
    "gamma": 1.0,
    "epsilon": 0.1,
    "episodes": 500,
    "alpha": 0.5,
    "window": 10,
    "x": [5.5 + 10 * k for k in range(50)],
    "greedy_steps": 200,
    "alphas": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    "ends": 100,
}
LEARNERS = {"SARSA": sarsa, "Q-learning": q_learning, "expected SARSA": expected_sarsa}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Learn with the three methods at every step size."""
    env = gym.make(SETTINGS["environment"]).unwrapped  # no time limit: every episode ends
    measures: dict[str, dict[str, Any]] = {
        name: {} for name in ("return", "greedy return", "first 100", "last 100")
    }
    for name in LEARNERS:
        learned = {alpha: learn(env, name, alpha, seed) for alpha in SETTINGS["alphas"]}
        returns, Q = learned[SETTINGS["alpha"]]
        ends = SETTINGS["ends"]
        measures["return"][name] = returns.reshape(-1, SETTINGS["window"]).mean(axis=1)
        measures["greedy return"][name] = greedy_return(env, Q, seed)
        measures["first 100"][name] = [r[:ends].mean() for r, _ in learned.values()]
        measures["last 100"][name] = [r[-ends:].mean() for r, _ in learned.values()]
    return measures


def learn(env: Any, name: str, alpha: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The return of each episode, and the last Q."""
    reports = LEARNERS[name](
        env,
        gamma=SETTINGS["gamma"],
        alpha=alpha,
        epsilon=SETTINGS["epsilon"],
        episodes=SETTINGS["episodes"],
        generator=np.random.default_rng(seed),
    )
    returns = np.zeros(SETTINGS["episodes"])
    for report in reports:
        returns[report.episode] = report.episode_return
    return returns, report.Q


def greedy_return(env: Any, Q: np.ndarray, seed: int) -> float:
    """The return of one greedy walk; ties are broken at random."""
    explorer = Explorer(np.random.default_rng(seed))
    state, _ = env.reset(seed=seed)
    limit = SETTINGS["greedy_steps"]
    walk = play(env, int(state), lambda s: explorer.draw(Q[s], 0.0), max_steps=limit)
    return float(max(walk.rewards.sum(), -limit))

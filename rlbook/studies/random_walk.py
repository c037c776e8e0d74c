"""The random walk: TD, n-step TD and Monte Carlo.

`19 states` is the walk of Sutton and Barto's figure 7.2: from the middle of 19 states, -1 at the
left end and +1 at the right one, first guess 0. The number is the root-mean-square error over
the states, averaged over the first 10 episodes, against α (`alphas`); one curve per n.

`5 states` is the walk of example 6.2: 0 at the left end and 1 at the right one, first guess 0.5;
the error over the states after 0, 1, ..., 100 episodes (`episodes`), for TD(0) and for
every-visit Monte Carlo with a constant step size.

A seed is the mean of 5 repetitions of each, so 20 seeds are the book's 100. The walks of a
repetition are drawn once and replayed to every method and step size, so differences between
curves are not differences between walks.

Source: Sutton and Barto (2018), example 6.2 and figure 7.2.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces

from rlbook.tabular.episodes import Episode, sample_episode
from rlbook.tabular.gridworld import ACTIONS, GridWorld
from rlbook.tabular.monte_carlo import monte_carlo_prediction
from rlbook.tabular.td import n_step_td, td0

SEEDS = 20
SETTINGS: dict[str, Any] = {
    "repetitions": 5,
    "long": {"states": 19, "left_end": -1.0, "right_end": 1.0, "first_guess": 0.0, "episodes": 10},
    "ns": [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
    "alphas": [
        *[0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3],
        *[0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    ],
    "short": {"states": 5, "left_end": 0.0, "right_end": 1.0, "first_guess": 0.5, "episodes": 100},
    "td_alphas": [0.05, 0.1, 0.15],
    "mc_alphas": [0.01, 0.02, 0.03, 0.04],
    "episodes": list(range(101)),
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """The errors of every method at every step size, averaged over 5 repetitions."""
    streams = np.random.SeedSequence(seed).spawn(SETTINGS["repetitions"])
    long = np.mean([long_walk(stream) for stream in streams], axis=0)
    short = [short_walk(stream) for stream in streams]
    return {
        "19 states": {f"n = {n}": row for n, row in zip(SETTINGS["ns"], long, strict=True)},
        "5 states": {arm: np.mean([errors[arm] for errors in short], axis=0) for arm in short[0]},
    }


class Replay:
    """An environment that plays recorded episodes one after another, whatever the action."""

    def __init__(self, episodes: list[Episode], states: int) -> None:
        self.observation_space, self.action_space = spaces.Discrete(states), spaces.Discrete(1)
        self.episodes = iter(episodes)

    def reset(self, *, seed: int | None = None) -> tuple[int, dict]:
        episode = next(self.episodes)
        self.rewards = episode.rewards.tolist()
        self.later_states = iter(episode.states.tolist())
        self.left = len(episode)
        return next(self.later_states), {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        self.left -= 1
        reward = self.rewards[-1 - self.left]
        return next(self.later_states), reward, self.left == 0, False, {}


def long_walk(stream: np.random.SeedSequence) -> np.ndarray:
    """The mean error over the first episodes, for each n and α [ns, alphas]."""
    walks, guess, truth = walked(SETTINGS["long"], stream)
    errors = np.zeros((len(SETTINGS["ns"]), len(SETTINGS["alphas"])))
    for i, n in enumerate(SETTINGS["ns"]):
        for j, alpha in enumerate(SETTINGS["alphas"]):
            reports = n_step_td(**replayed(walks, guess), n=n, alpha=alpha)
            errors[i, j] = np.mean(errors_after_each(reports, truth))
    return errors


def short_walk(stream: np.random.SeedSequence) -> dict[str, list[float]]:
    """The error before the first episode and after each, for each method and step size."""
    walks, guess, truth = walked(SETTINGS["short"], stream)
    curves = {}
    for alpha in SETTINGS["td_alphas"]:
        curves[f"TD, α = {alpha:g}"] = td0(**replayed(walks, guess), alpha=alpha)
    for alpha in SETTINGS["mc_alphas"]:
        curves[f"MC, α = {alpha:g}"] = monte_carlo_prediction(
            **replayed(walks, guess), step_size=alpha, every_visit=True
        )
    before = rms_error(guess, truth)
    return {arm: [before, *errors_after_each(reports, truth)] for arm, reports in curves.items()}


def walked(
    settings: dict[str, Any], stream: np.random.SeedSequence
) -> tuple[list[Episode], np.ndarray, np.ndarray]:
    """The walks of a repetition, the first guess, and the true values.

    The value of state i of n, counted from 1, is on the straight line between the ends' rewards:
    left + (right - left) · i / (n + 1). The ends themselves are worth 0.
    """
    states, left, right = settings["states"], settings["left_end"], settings["right_end"]
    row = ["."] * states
    row[states // 2] = "S"
    env = GridWorld(f"P{''.join(row)}G", step_reward=0.0, rewards={"P": left, "G": right})
    either_way = np.array([[0.5 * (name in ("left", "right")) for name in ACTIONS]] * env.S)
    generator = np.random.default_rng(stream)
    walks = [
        sample_episode(env, either_way, generator=generator) for _ in range(settings["episodes"])
    ]
    inside = ~env.terminal
    guess = np.where(inside, settings["first_guess"], 0.0)
    truth = np.where(inside, left + (right - left) * np.arange(env.S) / (states + 1), 0.0)
    return walks, guess, truth


def replayed(walks: list[Episode], guess: np.ndarray) -> dict[str, Any]:
    """The arguments with which a learner sees the walks."""
    return {
        "env": Replay(walks, len(guess)),
        "policy": np.ones((len(guess), 1)),
        "gamma": 1.0,
        "episodes": len(walks),
        "generator": np.random.default_rng(0),  # its draws change nothing: there is one action
        "V": guess,
    }


def errors_after_each(reports: Iterable[Any], truth: np.ndarray) -> list[float]:
    """The root-mean-square error after every episode."""
    return [rms_error(report.V, truth) for report in reports]


def rms_error(V: np.ndarray, truth: np.ndarray) -> float:
    """√ of the mean of (V(s) - V_π(s))² over the states between the two ends."""
    return float(np.sqrt(np.mean((V[1:-1] - truth[1:-1]) ** 2)))

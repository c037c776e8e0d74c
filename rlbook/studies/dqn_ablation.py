"""DQN on CartPole, with one part at a time taken away or changed.

The arm "DQN" has the settings of SETTINGS["common"]; every other arm changes what SETTINGS["arms"]
says. Without replay the memory holds the 32 newest transitions alone, 4 steps of 8 environments;
without a target network the targets come from the network that is being trained.

All against environment steps (x, the ends of windows of 2,560): `return` is the mean return of the
training episodes that end in a window, `greedy return` that of 8 greedy episodes at its end, and
`prediction` |mean Q(s, a)| over the minibatches of its last update. With a reward of 1 a
step no value can exceed 1 / (1 - γ) = 50.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from rlbook.control.collect import evaluate, make_envs
from rlbook.control.dqn import DQNConfig, dqn
from rlbook.control.networks import Network, sizes

SEEDS = 6
SETTINGS: dict[str, Any] = {
    "environment": "CartPole-v1",
    "environments": 8,
    "evaluated": 8,
    "hidden": [64, 64],
    "x": [2_560 * k for k in range(1, 13)],
    "common": {
        "rollout_steps": 4,
        "gradient_steps": 4,
        "batch_size": 256,
        "gamma": 0.98,
        "capacity": 30_720,
        "learning_starts": 1_024,
        "learning_rate": 1e-3,
        "target_period": 32,
        "exploration_steps": 6_000,
        "epsilon_end": 0.04,
    },
    "arms": {
        "DQN": {},
        "no replay": {"capacity": 32},
        "no target network": {"target_period": None},
        "neither": {"capacity": 32, "target_period": None},
        "double": {"double": True},
        "3-step": {"n": 3},
        "squared error": {"huber": None},
    },
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train every arm."""
    torch.set_num_threads(1)
    measures: dict[str, dict[str, Any]] = {
        name: {} for name in ("return", "greedy return", "prediction")
    }
    for arm in SETTINGS["arms"]:
        rows = train(arm, seed)
        for measure, column in zip(measures, np.transpose(rows).tolist(), strict=True):
            measures[measure][arm] = column
    return measures


def train(arm: str, seed: int) -> list[tuple[float, float, float]]:
    """Return, greedy return and prediction of each window."""
    envs = make_envs(SETTINGS["environment"], SETTINGS["environments"])
    judges = make_envs(SETTINGS["environment"], SETTINGS["evaluated"])
    shape, actions = sizes(envs)
    generator = torch.Generator().manual_seed(seed)
    network = Network(
        shape, actions, generator=generator, hidden=SETTINGS["hidden"], activation=nn.ReLU,
        orthogonal=False,
    )  # fmt: skip
    settings = SETTINGS["common"] | SETTINGS["arms"][arm]
    rows, returns = [], []
    for report in dqn(
        envs, network, DQNConfig(total_steps=SETTINGS["x"][-1], **settings), seed=seed
    ):
        returns += report.returns
        if report.samples == SETTINGS["x"][len(rows)]:
            # a window in which no episode ends repeats the one before it
            mean = float(np.mean(returns)) if returns else rows[-1][0]
            eyes = torch.Generator().manual_seed(1_000 + seed)
            greedy = float(evaluate(judges, network, generator=eyes).mean())
            rows.append((mean, greedy, abs(report["q"])))
            returns = []
    return rows

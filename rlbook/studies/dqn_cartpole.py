"""DQN solves CartPole: one setting, from the first step to 100 greedy episodes.

`return` is the mean return of the training episodes that end between two positions, ε included;
`greedy return` that of 20 greedy episodes at a position; `final` that of 100 greedy episodes
after the last update. gymnasium calls CartPole-v1 solved from a mean of 475.

The seeds that chose the setting are not among the recorded ones.
"""

from typing import Any

import torch
from torch import nn

from rlbook.control.collect import evaluate, make_envs
from rlbook.control.dqn import DQNConfig, dqn
from rlbook.control.networks import Network, sizes
from rlbook.studies.learning_curves import mean_returns

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "environment": "CartPole-v1",
    "environments": 8,
    "hidden": [256, 256],
    "x": [2_560 * k for k in range(1, 21)],
    "evaluated": 20,
    "evaluated_at_last": 100,
    "config": {
        "rollout_steps": 32,
        "gradient_steps": 128,
        "batch_size": 64,
        "gamma": 0.99,
        "n": 3,
        "capacity": 100_000,
        "learning_rate": 2.3e-3,
        "anneal": True,
        "target_period": 128,
        "exploration_steps": 8_000,
        "epsilon_end": 0.04,
    },
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train once."""
    torch.set_num_threads(1)
    envs = make_envs(SETTINGS["environment"], SETTINGS["environments"])
    shape, actions = sizes(envs)
    network = Network(
        shape, actions, generator=torch.Generator().manual_seed(seed), hidden=SETTINGS["hidden"],
        activation=nn.ReLU, orthogonal=False,
    )  # fmt: skip
    config = DQNConfig(total_steps=SETTINGS["x"][-1], **SETTINGS["config"])
    reports, greedy = [], []
    for report in dqn(envs, network, config, seed=seed):
        reports.append(report)
        if report.samples == SETTINGS["x"][len(greedy)]:
            greedy.append(judged(network, SETTINGS["evaluated"], seed))
    return {
        "return": {"DQN": mean_returns(reports, SETTINGS["x"]).tolist()},
        "greedy return": {"DQN": greedy},
        "final": {"DQN": judged(network, SETTINGS["evaluated_at_last"], seed)},
    }


def judged(network: Network, episodes: int, seed: int) -> float:
    """Mean return of so many greedy episodes, each in its own environment."""
    judges = make_envs(SETTINGS["environment"], episodes)
    generator = torch.Generator().manual_seed(1_000 + seed)
    return float(evaluate(judges, network, generator=generator).mean())

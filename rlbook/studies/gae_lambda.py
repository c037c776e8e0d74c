"""A2C on CartPole: how far the advantages look ahead.

The same A2C five times, with λ from 0 (each advantage is one TD error) to 1 (rewards up to the
end of the rollout, 32 steps, then the critic). `return` is the mean undiscounted return of the
last 30 episodes that ended, after the steps in `x`; `explained` is the critic's explained
variance, averaged between these points.

A seed sets the network's weights, the environments and the actions, and is the same for every λ.

Source: Schulman et al. (2016), figure 3, sweeps λ on CartPole with another optimiser.
"""

from collections import deque
from typing import Any

import numpy as np
import torch

from rlbook.control.a2c import A2CConfig, a2c
from rlbook.control.collect import make_envs
from rlbook.control.networks import ActorCritic

SEEDS = 12
SETTINGS: dict[str, Any] = {
    "env": "CartPole-v1",
    "envs": 8,
    "a2c": {"total_steps": 61_440, "rollout_steps": 32, "learning_rate": 0.003, "anneal": True},
    "lams": [0.0, 0.5, 0.8, 0.95, 1.0],
    "updates_per_point": 8,
    "episodes": 30,
    "x": [2048 * (k + 1) for k in range(30)],
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """The learning curve of each λ, and how good its critic was."""
    torch.set_num_threads(1)
    curves = {f"λ = {lam:g}": trained(lam, seed) for lam in SETTINGS["lams"]}
    return {
        "return": {arm: returns for arm, (returns, _) in curves.items()},
        "explained": {arm: explained for arm, (_, explained) in curves.items()},
    }


def trained(lam: float, seed: int) -> tuple[list[float], list[float]]:
    """Mean return of the latest episodes, and mean explained variance, at each point."""
    envs = make_envs(SETTINGS["env"], SETTINGS["envs"])
    network = ActorCritic(envs.single_observation_space.shape, 2, seed=seed)
    latest: deque[float] = deque(maxlen=SETTINGS["episodes"])
    explained: list[float] = []
    points: tuple[list[float], list[float]] = ([], [])
    for report in a2c(envs, network, A2CConfig(lam=lam, **SETTINGS["a2c"]), seed=seed):
        latest.extend(report.returns)
        explained.append(report["explained_variance"])
        if report.update % SETTINGS["updates_per_point"] == 0:
            points[0].append(float(np.mean(latest)) if latest else 0.0)
            points[1].append(float(np.mean(explained)))
            explained.clear()
    envs.close()
    return points

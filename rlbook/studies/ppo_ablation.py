"""PPO on CartPole: what each detail of the implementation is worth.

Every arm changes one thing of the arm "all details". `return` is the mean return of the episodes
that ended between two positions; `last` the mean over the last quarter of the run; `kl` the mean
KL(π_old‖π) of an update, and `clip_fraction` the mean share of clipped actions, over the run.
"""

from typing import Any

import numpy as np
import torch

from rlbook.control.collect import make_envs
from rlbook.control.networks import ActorCritic, sizes
from rlbook.control.ppo import PPOConfig, ppo
from rlbook.studies.learning_curves import mean_returns

SEEDS = 8
SETTINGS: dict[str, Any] = {
    "environment": "CartPole-v1",
    "environments": 8,
    "x": [2_048 * k for k in range(1, 31)],
    "config": {
        "rollout_steps": 128, "epochs": 10, "minibatches": 4, "learning_rate": 1e-3,
        "entropy_weight": 0.0,
    },
    "arms": {
        "all details": {},
        "no clip": {"clip": float(10**9)},
        "no clip, KL stop at 0.02": {"clip": float(10**9), "target_kl": 0.02},
        "advantages as they are": {"normalise": "none"},
        "advantages by rollout": {"normalise": "batch"},
        "constant rate": {"anneal": False},
        "gradient not clipped": {"max_grad_norm": None},
        "value clip 0.2": {"value_clip": 0.2},
        "λ = 1": {"lam": 1.0},
        "λ = 0": {"lam": 0.0},
        "1 epoch": {"epochs": 1},
        "3 epochs": {"epochs": 3},
        "30 epochs": {"epochs": 30},
    },
    "networks": {
        "default initialisation": {"orthogonal": False},
        "one body": {"shared": True},
    },
}  # fmt: skip


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train every arm once."""
    torch.set_num_threads(1)
    measures: dict[str, dict[str, Any]] = {m: {} for m in ("return", "last", "kl", "clip_fraction")}
    arms = {name: (changes, {}) for name, changes in SETTINGS["arms"].items()}
    arms |= {name: ({}, options) for name, options in SETTINGS["networks"].items()}
    for arm, (changes, options) in arms.items():
        envs = make_envs(SETTINGS["environment"], SETTINGS["environments"])
        network = ActorCritic(*sizes(envs), seed=seed, **options)
        config = PPOConfig(total_steps=SETTINGS["x"][-1], **(SETTINGS["config"] | changes))
        reports = list(ppo(envs, network, config, seed=seed))
        curve = mean_returns(reports, SETTINGS["x"])
        measures["return"][arm] = curve.tolist()
        measures["last"][arm] = float(curve[-len(curve) // 4 :].mean())
        for metric in ("kl", "clip_fraction"):
            measures[metric][arm] = float(np.mean([report[metric] for report in reports]))
    return measures

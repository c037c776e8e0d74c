"""PPO and A2C on LunarLander: land a craft between two flags.

`return` is the mean return of the training episodes that end between two positions; `greedy` the
mean return of 100 episodes of the final policy's likeliest actions, and `landed` the share of
them that reach 200, which gymnasium calls solved. Needs Box2D: pip install box2d, or the extra
`box2d`.

PPO's γ, λ and entropy weight are those of RL Baselines3 Zoo (Raffin 2020), which takes twice as
many steps. Two settings of each method were tried, on seed 10, which is not among the recorded.
"""

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from rlbook.control.a2c import A2CConfig, a2c
from rlbook.control.collect import evaluate, make_envs
from rlbook.control.networks import ActorCritic, sizes
from rlbook.control.ppo import PPOConfig, ppo
from rlbook.report import StepReport
from rlbook.studies.catalogue import StudyError
from rlbook.studies.learning_curves import mean_returns

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "environment": "LunarLander-v3",
    "count": 16,
    "x": [16_384 * k for k in range(1, 32)],
    "evaluation_episodes": 100,
    "solved": 200.0,
    "configs": {
        "A2C": {
            "rollout_steps": 16, "gamma": 0.995, "lam": 0.95, "learning_rate": 1e-3,
            "anneal": True, "normalise": True,
        },
        "PPO": {
            "rollout_steps": 512, "gamma": 0.999, "lam": 0.98, "epochs": 10, "minibatches": 64,
            "learning_rate": 1e-3, "anneal": True, "entropy_weight": 0.01,
        },
    },
}  # fmt: skip


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train both methods once."""
    if importlib.util.find_spec("Box2D") is None:
        raise StudyError("LunarLander needs Box2D, which is not installed: pip install box2d")
    torch.set_num_threads(1)
    measures: dict[str, dict[str, Any]] = {"return": {}, "greedy": {}, "landed": {}}
    for method in SETTINGS["configs"]:
        envs = make_envs(SETTINGS["environment"], SETTINGS["count"])
        network = ActorCritic(*sizes(envs), seed=seed)
        reports = training(method, envs, network, seed)
        measures["return"][method] = mean_returns(reports, SETTINGS["x"]).tolist()
        judge = make_envs(SETTINGS["environment"], SETTINGS["evaluation_episodes"])
        generator = torch.Generator().manual_seed(1_000 + seed)
        scores = evaluate(judge, network.policy, generator=generator)
        measures["greedy"][method] = float(scores.mean())
        measures["landed"][method] = float(np.mean(scores >= SETTINGS["solved"]))
    return measures


def training(method: str, envs: Any, network: ActorCritic, seed: int) -> Iterator[StepReport]:
    """The loop of a method with its setting."""
    options = SETTINGS["configs"][method] | {"total_steps": SETTINGS["x"][-1]}
    if method == "A2C":
        return a2c(envs, network, A2CConfig(**options), seed=seed)
    return ppo(envs, network, PPOConfig(**options), seed=seed)

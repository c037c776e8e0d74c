"""REINFORCE, A2C, TRPO and PPO on CartPole and Acrobot: the same networks, steps and seeds.

`return, ENV` is the mean return of the episodes that ended between two positions, while the
policy explores; `greedy, ENV` the mean return of 100 episodes of the final policy's likeliest
actions. Each method has one setting for both worlds, chosen by trying a few on CartPole.
"""

from collections.abc import Iterator
from typing import Any

import torch

from rlbook.control.a2c import A2CConfig, a2c
from rlbook.control.collect import evaluate, make_envs
from rlbook.control.networks import ActorCritic, sizes
from rlbook.control.ppo import PPOConfig, ppo
from rlbook.control.reinforce import ReinforceConfig, reinforce
from rlbook.control.trpo import TRPOConfig, trpo
from rlbook.report import StepReport
from rlbook.studies.learning_curves import mean_returns

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "environments": {"CartPole": "CartPole-v1", "Acrobot": "Acrobot-v1"},
    "count": 8,
    "x": [2_048 * k for k in range(1, 41)],
    "evaluation_episodes": 100,
    "configs": {
        "REINFORCE": {"learning_rate": 3e-3, "baseline": "value", "whiten": True},
        "A2C": {"rollout_steps": 16, "learning_rate": 2e-3, "lam": 0.95, "normalise": True},
        "TRPO": {"rollout_steps": 128, "max_kl": 0.01, "value_learning_rate": 3e-3},
        "PPO": {
            "rollout_steps": 128, "epochs": 10, "minibatches": 4, "learning_rate": 1e-3,
            "entropy_weight": 0.0,
        },
    },
}  # fmt: skip


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train every method in every world once."""
    torch.set_num_threads(1)
    measures: dict[str, dict[str, Any]] = {}
    for world, id in SETTINGS["environments"].items():
        returns, greedy = measures[f"return, {world}"], measures[f"greedy, {world}"] = {}, {}
        for method in SETTINGS["configs"]:
            envs = make_envs(id, SETTINGS["count"])
            network = ActorCritic(*sizes(envs), seed=seed)
            reports = training(method, envs, network, seed)
            returns[method] = mean_returns(reports, SETTINGS["x"]).tolist()
            judge = make_envs(id, SETTINGS["evaluation_episodes"])
            generator = torch.Generator().manual_seed(1_000 + seed)
            greedy[method] = float(evaluate(judge, network.policy, generator=generator).mean())
    return measures


def training(method: str, envs: Any, network: ActorCritic, seed: int) -> Iterator[StepReport]:
    """The loop of a method with its setting."""
    options = SETTINGS["configs"][method] | {"total_steps": SETTINGS["x"][-1]}
    if method == "REINFORCE":
        return reinforce(envs, network, ReinforceConfig(**options), seed=seed)
    if method == "A2C":
        return a2c(envs, network, A2CConfig(**options), seed=seed)
    if method == "TRPO":
        return trpo(envs, network, TRPOConfig(**options), seed=seed)
    return ppo(envs, network, PPOConfig(**options), seed=seed)

"""One body or two: a value network of its own, or a head on the policy's body.

PPO from `arithmetic-sft` with a verified reward. "separate": the value network is a copy of the
policy. "shared": one body with two heads, the value loss at its full weight c = 1, or at c = 0.1.
The policy's learning rate moves a shared body; the other settings are the same.

`accuracy` is that on held-out problems, sampled at temperature 1, before training and at the
updates `x`; `explained_variance` of the returns by the value network, before each update, the mean
over updates from the third on whose returns differ at all; `seconds` processor time per update.
"""

import math
import statistics
import time
from typing import Any

import torch

from rlbook.lm.evaluation import evaluate
from rlbook.lm.heads import ScalarModel
from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.ppo import PPOConfig, ppo

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "x": [0, 3, 6, 9, 12, 15, 18, 21],
    "problems": 256,
    "ppo": {
        "updates": 21, "train_batch_size": 64, "rollouts_per_prompt": 4, "mini_batch_size": 32,
        "epochs": 2, "learning_rate": 5e-4, "value_learning_rate": 2e-3,
    },
    # share the body, weight of the value loss
    "arms": {
        "separate": [False, 1.0], "shared, c = 1": [True, 1.0], "shared, c = 0.1": [True, 0.1],
    },
}  # fmt: skip


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train once with each arm."""
    torch.set_num_threads(1)
    measures: dict[str, dict[str, Any]] = {}
    for arm, (share, weight) in SETTINGS["arms"].items():
        for measure, value in train(seed, share=share, weight=weight).items():
            measures.setdefault(measure, {})[arm] = value
    return measures


def train(seed: int, *, share: bool, weight: float) -> dict[str, Any]:
    """One run of PPO."""
    policy, task = load_policy("arithmetic-sft", device="cpu"), Arithmetic()
    value_model = ScalarModel(policy, init="zero", share=share)
    config = PPOConfig(seed=seed, value_coefficient=weight, **SETTINGS["ppo"])
    problems = task.problems(
        SETTINGS["problems"], torch.Generator().manual_seed(1_000 + seed), split="test"
    )

    def accuracy() -> float:
        generator = torch.Generator().manual_seed(2_000 + seed)
        return evaluate(policy, task, problems=problems, generator=generator).accuracy

    curve, explained, spent, before = [accuracy()], [], 0.0, time.process_time()
    for report in ppo(policy, task, config, value_model=value_model):
        spent += time.process_time() - before
        if report.update > 2 and not math.isnan(report["explained_variance"]):
            explained.append(report["explained_variance"])
        if report.update in SETTINGS["x"]:
            curve.append(accuracy())
        before = time.process_time()
    return {
        "accuracy": curve,
        "explained_variance": statistics.fmean(explained),
        "seconds": spent / config.updates,
    }

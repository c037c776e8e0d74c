"""Many prompts or many responses: group sizes at equal samples per update.

GRPO on the arithmetic task with K responses to each of 256/K prompts. `accuracy` on the same
held-out chains, one sample each, after the updates `x`; `informative` is the share of groups whose
rewards differ, over the updates since the position before.
"""

from typing import Any

import torch

from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.grpo import GRPOConfig
from rlbook.studies.group_training import held_out, measured_training

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "model": "arithmetic-sft",
    "samples": 256,
    "sizes": [2, 8, 32, 128],
    "x": [0, 3, 6, 9, 12, 15],
    "problems": 256,
    "learning_rate": 1e-3,
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train once with each group size."""
    torch.set_num_threads(1)
    task = Arithmetic()
    problems = held_out(task, SETTINGS["problems"], seed)
    measures: dict[str, dict[str, Any]] = {}
    for K in SETTINGS["sizes"]:
        N, x = SETTINGS["samples"] // K, SETTINGS["x"]
        config = GRPOConfig(
            updates=x[-1],
            train_batch_size=N,
            mini_batch_size=N,
            rollouts_per_prompt=K,
            learning_rate=SETTINGS["learning_rate"],
            seed=seed,
        )
        policy = load_policy(SETTINGS["model"], device="cpu")
        found = measured_training(
            policy, task, config, x=x, problems=problems, logged=["informative"]
        )
        for measure, curve in found.items():
            measures.setdefault(measure, {})[f"K = {K}"] = curve
    return measures

"""Credit over the horizon: GRPO, PPO and VinePPO on chains of 3, 5 and 16 steps, and on grid paths.

The three arms of `credit-comparison` that differ in credit alone, with its settings and rates: the
group's mean, a value network (λ = 1), and K = 3 fresh rollouts of the state before each step. The
chains have one step in expectation that the imitated people did wrong, whatever their length: the
longer the chain, the thinner a response's reward is spread. On grid paths a step is a move.

Arms are "setting, method"; the measures are those of `credit-comparison`, which has eight steps.
"""

from typing import Any

import torch

from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.gridpath import GridPath
from rlbook.lm.tasks.task import Task
from rlbook.studies import credit_comparison

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "shared": credit_comparison.SETTINGS,
    "arms": ["GRPO", "PPO, λ = 1", "VinePPO, K = 3"],
    "steps": [3, 5, 16],
    "grid paths": True,
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Every arm on every setting."""
    torch.set_num_threads(1)
    measures: dict[str, dict[str, Any]] = {}
    for setting, (model, task) in settings().items():
        for arm in SETTINGS["arms"]:
            rate = SETTINGS["shared"]["rates"][arm]
            found = credit_comparison.learn(arm, model, task, rate, seed)
            for measure, value in found.items():
                measures.setdefault(measure, {})[f"{setting}, {arm}"] = value
    return measures


def settings() -> dict[str, tuple[str, Task]]:
    """The model to start from, and the task, of each setting."""
    found: dict[str, tuple[str, Task]] = {
        f"{steps} steps": ("arithmetic-sft", Arithmetic.horizon(steps))
        for steps in SETTINGS["steps"]
    }
    if SETTINGS["grid paths"]:
        found["grid paths"] = ("gridpath-sft", GridPath())
    return found

"""Few responses per update, over the horizon: GRPO, PPO and VinePPO on chains of 3, 8 and 16 steps.

The plain chains of `credit-wording` (which has five steps), with its eight responses per update,
its rates and its measures, on other seeds. Arms are "steps, method".
"""

from typing import Any

import torch

from rlbook.lm.policy import load_policy
from rlbook.studies import credit_wording

SEEDS = 6
SETTINGS: dict[str, Any] = {
    "first_seed": 300,
    "shared": credit_wording.SETTINGS,
    "steps": [3, 8, 16],
    "methods": ["GRPO", "PPO", "VinePPO, K = 3", "VinePPO, K = 9"],
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Every method at every length."""
    torch.set_num_threads(1)
    seed += SETTINGS["first_seed"]
    start = load_policy(SETTINGS["shared"]["start"]["no asides"], device="cpu")
    measures: dict[str, dict[str, Any]] = {}
    for steps in SETTINGS["steps"]:
        task = credit_wording.WithAsides.of(steps, 0)
        for method in SETTINGS["methods"]:
            found = credit_wording.learn(method, start, task, seed)
            for measure, value in found.items():
                measures.setdefault(measure, {})[f"{steps} steps, {method}"] = value
    return measures

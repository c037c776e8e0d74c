"""Five group methods on the arithmetic task, from the imitator of biased demonstrators.

As many updates, of as many responses, at the same learning rate; what differs is the row of
``VARIANTS``. DAPO alone samples more: it draws until it has enough informative groups. No reference
and no KL. Each batch is used for one step, so that all ratios are 1, no clip acts, and GSPO would
be GRPO to the last digit.

`accuracy` on the same held-out chains, one sample each, after the updates `x`; `length` in tokens,
`entropy` in nats per token, `truncated` as a share and `informative` groups as a share are of the
training samples since the position before.
"""

from typing import Any

import torch

from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.grpo import VARIANTS, GRPOConfig
from rlbook.studies.group_training import held_out, measured_training

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "model": "arithmetic-sft",
    "arms": ["GRPO", "Dr. GRPO", "DAPO", "RLOO", "CISPO"],
    "x": [0, 3, 6, 9, 12, 15],
    "problems": 256,
    "training": {"train_batch_size": 32, "rollouts_per_prompt": 8, "learning_rate": 1e-3},
    "logged": ["length", "entropy", "truncated", "informative"],
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train once with each method."""
    torch.set_num_threads(1)
    task = Arithmetic()
    problems = held_out(task, SETTINGS["problems"], seed)
    measures: dict[str, dict[str, Any]] = {}
    for arm in SETTINGS["arms"]:
        x = SETTINGS["x"]
        config = GRPOConfig(**VARIANTS[arm], updates=x[-1], seed=seed, **SETTINGS["training"])
        policy = load_policy(SETTINGS["model"], device="cpu")
        found = measured_training(
            policy, task, config, x=x, problems=problems, logged=SETTINGS["logged"]
        )
        for measure, curve in found.items():
            measures.setdefault(measure, {})[arm] = curve
    return measures

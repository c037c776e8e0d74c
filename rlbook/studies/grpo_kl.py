"""The price of leaving the reference: GRPO with four coefficients β of the k3 penalty in the loss.

The reference is the model that training starts from. `accuracy` on the same held-out chains, one
sample each, and `kl`, nats per response to the reference (k1 on the training samples, since the
position before), after the updates `x`.
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
    "betas": [0.0, 0.1, 0.3, 1.0],
    "x": [0, 3, 6, 9, 12, 15],
    "problems": 256,
    "training": {"train_batch_size": 32, "rollouts_per_prompt": 8, "learning_rate": 1e-3},
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train once with each coefficient."""
    torch.set_num_threads(1)
    task = Arithmetic()
    problems = held_out(task, SETTINGS["problems"], seed)
    ref = load_policy(SETTINGS["model"], device="cpu")
    measures: dict[str, dict[str, Any]] = {"accuracy": {}, "kl": {}}
    for beta in SETTINGS["betas"]:
        x, arm = SETTINGS["x"], f"β = {beta:g}"
        config = GRPOConfig(updates=x[-1], beta=beta, seed=seed, **SETTINGS["training"])
        policy = load_policy(SETTINGS["model"], device="cpu")
        found = measured_training(
            policy, task, config, x=x, problems=problems, logged=["kl_ref"], ref=ref
        )
        measures["accuracy"][arm], measures["kl"][arm] = found["accuracy"], found["kl_ref"]
    return measures

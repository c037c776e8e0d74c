"""Old samples: a policy that samples with weights several updates behind, and three ways to clip.

GRPO on the arithmetic task; the policy that samples is a copy of the learner, renewed every
`refresh` updates, so that its lag runs from 0 to `refresh` - 1. The ways to bound a token's ratio ρ
to the policy that sampled it:

    PPO clip      min( ρA, clip(ρ, 0.8, 1.2) A ): two-sided, with the sign of A
    one-sided     REINFORCE with the weight min(ρ, 1.2), a constant
    no ratio      REINFORCE, as if the samples were the learner's own

`accuracy` on the same held-out chains, one sample each, after the updates `x`; `kl_old`, nats per
token to the policy that sampled, and `clipped`, the share of tokens whose gradient or weight the
clip changes, over the updates since the position before.
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
    "clips": {
        "PPO clip": {"clip": 0.2},
        "one-sided": {"loss": "cispo", "clip": None, "clip_high": 0.2},
        "no ratio": {"loss": "cispo", "clip": 0.0, "clip_high": 0.0},
    },
    "arms": [
        ["PPO clip", 1],
        ["PPO clip", 8],
        ["one-sided", 8],
        ["no ratio", 8],
    ],
    "x": [0, 8, 16, 24],
    "problems": 256,
    "training": {"train_batch_size": 32, "rollouts_per_prompt": 8, "learning_rate": 1e-3},
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train once with each way and lag."""
    torch.set_num_threads(1)
    task = Arithmetic()
    problems = held_out(task, SETTINGS["problems"], seed)
    measures: dict[str, dict[str, Any]] = {"accuracy": {}, "kl_old": {}, "clipped": {}}
    for way, refresh in SETTINGS["arms"]:
        x, arm = SETTINGS["x"], f"{way}, refresh {refresh}"
        settings = SETTINGS["training"] | SETTINGS["clips"][way]
        config = GRPOConfig(updates=x[-1], refresh_every=refresh, seed=seed, **settings)
        policy = load_policy(SETTINGS["model"], device="cpu")
        found = measured_training(
            policy, task, config, x=x, problems=problems, logged=["kl_old", "clip_fraction"]
        )
        measures["accuracy"][arm], measures["kl_old"][arm] = found["accuracy"], found["kl_old"]
        measures["clipped"][arm] = found["clip_fraction"]
    return measures

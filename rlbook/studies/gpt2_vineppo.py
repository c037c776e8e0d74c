"""GPT-2 by VinePPO, with its own tokenizer, on chains of arithmetic.

The size, the start and the measures are those of ``rlbook.studies.at_gpt2_size``.
"""

from collections.abc import Iterator
from typing import Any

from rlbook.lm.policy import Policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.vineppo import VinePPOConfig, vineppo
from rlbook.report import StepReport
from rlbook.studies import at_gpt2_size

SEEDS = 1
SETTINGS: dict[str, Any] = {"shared": at_gpt2_size.SETTINGS, "value_rollouts": 3}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """The method, once."""
    logged = ("reward", "value", "states", "kl_ref")
    return at_gpt2_size.learn("VinePPO", train, logged, seed)


def train(
    policy: Policy, start: Policy, task: Arithmetic, shared: dict[str, Any]
) -> Iterator[StepReport]:
    """VinePPO with a KL to the start in its loss."""
    batches = at_gpt2_size.updates_of(at_gpt2_size.chosen())
    rollouts = SETTINGS["value_rollouts"]
    config = VinePPOConfig(
        **batches, **shared, value_rollouts=rollouts,
        rollout_rows=batches["train_batch_size"] * batches["rollouts_per_prompt"],
    )  # fmt: skip
    return vineppo(policy, task, config, ref=start)

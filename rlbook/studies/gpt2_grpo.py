"""GPT-2 by GRPO, with its own tokenizer, on chains of arithmetic.

The size, the start and the measures are those of ``rlbook.studies.at_gpt2_size``.
"""

from collections.abc import Iterator
from typing import Any

from rlbook.lm.policy import Policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.grpo import GRPOConfig, grpo
from rlbook.report import StepReport
from rlbook.studies import at_gpt2_size

SEEDS = 1
SETTINGS: dict[str, Any] = {"shared": at_gpt2_size.SETTINGS}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """The method, once."""
    return at_gpt2_size.learn("GRPO", train, ("reward", "informative", "kl_ref"), seed)


def train(
    policy: Policy, start: Policy, task: Arithmetic, shared: dict[str, Any]
) -> Iterator[StepReport]:
    """GRPO with a KL to the start in its loss."""
    batches = at_gpt2_size.updates_of(at_gpt2_size.chosen())
    return grpo(policy, task, GRPOConfig(**batches, **shared), ref=start)

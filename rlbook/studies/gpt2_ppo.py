"""GPT-2 by PPO, with its own tokenizer, on chains of arithmetic.

The value network is a copy of the policy with a new head. The size, the start and the measures
are those of ``rlbook.studies.at_gpt2_size``.
"""

from collections.abc import Iterator
from typing import Any

from rlbook.lm.policy import Policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.ppo import PPOConfig, ppo
from rlbook.report import StepReport
from rlbook.studies import at_gpt2_size

SEEDS = 1
SETTINGS: dict[str, Any] = {"shared": at_gpt2_size.SETTINGS}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """The method, once."""
    return at_gpt2_size.learn("PPO", train, ("reward", "value_loss", "kl_ref"), seed)


def train(
    policy: Policy, start: Policy, task: Arithmetic, shared: dict[str, Any]
) -> Iterator[StepReport]:
    """PPO with a KL to the start in its reward."""
    settings = at_gpt2_size.chosen()
    rate = settings["value_learning_rate"]
    batches = at_gpt2_size.updates_of(settings)
    return ppo(policy, task, PPOConfig(**batches, **shared, value_learning_rate=rate), ref=start)

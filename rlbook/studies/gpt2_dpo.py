"""GPT-2 by DPO, with its own tokenizer, on chains of arithmetic.

The pairs are right and wrong responses that the start drew, as many as the other methods draw in
all their updates. The size, the start and the measures are those of
``rlbook.studies.at_gpt2_size``; drawing the pairs counts in the seconds of the first point.
"""

from collections.abc import Iterator
from typing import Any

import torch

from rlbook.lm.policy import Policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.loop import bfloat16_forward
from rlbook.posttrain.dpo import DPOConfig, dpo
from rlbook.posttrain.experience import gather_experience, join
from rlbook.posttrain.pairs import preferences_of
from rlbook.report import StepReport
from rlbook.studies import at_gpt2_size

SEEDS = 1
SETTINGS: dict[str, Any] = {
    "shared": at_gpt2_size.SETTINGS, "beta": 0.1, "pairs_per_prompt": 4, "batch_size": 64
}  # fmt: skip


def run(seed: int) -> dict[str, dict[str, Any]]:
    """The method, once."""
    logged = ("margin", "chosen_change", "rejected_change")
    return at_gpt2_size.learn("DPO", train, logged, seed, pairs=True)


def train(
    policy: Policy, start: Policy, task: Arithmetic, shared: dict[str, Any]
) -> Iterator[StepReport]:
    """DPO on pairs of the start's own samples."""
    settings = at_gpt2_size.chosen()
    generator = torch.Generator().manual_seed(shared["seed"])
    with bfloat16_forward(policy.device, on=shared["bf16"]):
        batches = [
            gather_experience(
                policy,
                task,
                prompts=settings["prompts"],
                rollouts_per_prompt=settings["samples"],
                temperature=1.0,
                generator=generator,
            )
            for _ in range(settings["updates"])
        ]
    pairs = preferences_of(join(batches), pairs_per_prompt=SETTINGS["pairs_per_prompt"])
    config = DPOConfig(
        **shared, steps=settings["updates"], batch_size=SETTINGS["batch_size"],
        beta=SETTINGS["beta"], learning_rate=settings["dpo_learning_rate"],
    )  # fmt: skip
    return dpo(policy, pairs, config, ref=start)

"""Rejection-sampling fine-tuning over rounds, beside the demonstrators' exact accuracy.

All arms begin with the imitator of biased demonstrators, sample as many responses a round, and
make as many optimiser steps. What differs is what they learn from, and which weights they change:

    right, goes on            own right responses; each round goes on from the one before
    right, from the start     the same; each round fine-tunes the first model's weights
    everything                own responses, right or not
    demonstrations            more of the demonstrators' responses, as many as there are samples

`accuracy` and `pass@8` on the same held-out chains at the rounds `x`, all sampled;
`demonstrators` is their exact accuracy on these chains.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.rejection import RejectionConfig, keep_all, rejection_sampling
from rlbook.posttrain.sft import SFTConfig, sft

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "model": "arithmetic-sft",
    "x": [0, 1, 2, 3, 4, 5, 6],
    "prompts": 256,
    "samples": 4,
    "training": {"steps": 40, "batch_size": 64, "learning_rate": 1e-3},
    "problems": 256,
    "problem_samples": 8,
    "arms": ["right, goes on", "right, from the start", "everything", "demonstrations"],
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train with each arm, and evaluate after each round."""
    torch.set_num_threads(1)
    task = Arithmetic()
    problems = task.problems(
        SETTINGS["problems"], torch.Generator().manual_seed(seed), split="test"
    )
    measures: dict[str, dict[str, Any]] = {"accuracy": {}, "pass@8": {}}
    for arm in SETTINGS["arms"]:
        policy = load_policy(SETTINGS["model"], device="cpu")
        accuracy, pass_at_8 = [], []
        for _ in rounds(arm, policy, task, seed):
            found = evaluate(
                policy,
                task,
                problems=problems,
                samples_per_prompt=SETTINGS["problem_samples"],
                ks=(8,),
                generator=torch.Generator().manual_seed(seed),
            )
            accuracy.append(found.accuracy)
            pass_at_8.append(found.pass_at[8])
        measures["accuracy"][arm], measures["pass@8"][arm] = accuracy, pass_at_8
    exact = float(task.demonstrator_accuracy(problems).mean())
    measures["demonstrators"] = {"exact": exact}
    return measures


def rounds(arm: str, policy: Policy, task: Arithmetic, seed: int) -> Iterator[None]:
    """Train ``policy`` in place; yields before the first round and after each."""
    yield None
    training = SFTConfig(**SETTINGS["training"])
    if arm == "demonstrations":
        generator = torch.Generator().manual_seed(seed)
        for number in SETTINGS["x"][1:]:
            shown = task.demonstrations(SETTINGS["prompts"] * SETTINGS["samples"], generator)
            for _ in sft(policy, shown, replace(training, seed=seed + number)):
                pass
            yield None
        return
    config = RejectionConfig(
        rounds=SETTINGS["x"][-1],
        train_batch_size=SETTINGS["prompts"],
        rollouts_per_prompt=SETTINGS["samples"],
        unique=arm != "everything",
        training=training,
        seed=seed,
    )
    ways: dict[str, Any] = {}
    if arm == "right, from the start":
        ways["start"] = load_policy(SETTINGS["model"], device="cpu")
    if arm == "everything":
        ways["keep"] = keep_all
    for _ in rejection_sampling(policy, task, config, **ways):
        yield None

"""Four ways to learn from right and wrong answers: at equal samples, and at equal processor time.

All begin with the imitator of biased demonstrators.

    offline DPO           its samples, drawn once; right and wrong answers as pairs; many steps
    on-policy DPO         two new samples of each prompt per step; where one is right, a pair
    rejection sampling    rounds of new samples; fine-tuning on the right ones
    GRPO                  eight new samples of each prompt per step

Per arm, at its evaluations: `samples`, responses generated so far; `seconds` of processor time
spent on training (sampling included, evaluation not); `accuracy` of one sample on held-out chains.
`at equal samples` is the accuracy once `budget` responses have been used, for offline DPO at its
last step; `at equal time` is what each has reached after `seconds` of processor time, by a
straight line between two evaluations; `best` is the highest of the evaluations, which nobody
knows beforehand.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.dpo import DPOConfig, dpo
from rlbook.posttrain.experience import gather_experience
from rlbook.posttrain.grpo import GRPOConfig, grpo
from rlbook.posttrain.pairs import preferences_of
from rlbook.posttrain.rejection import RejectionConfig, rejection_sampling
from rlbook.posttrain.sft import SFTConfig

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "model": "arithmetic-sft",
    "budget": 4096,
    "seconds": 4.0,
    "offline": {
        "prompts": 512, "samples": 8, "pairs_per_prompt": 4, "every": 20,
        "training": {"steps": 80, "batch_size": 32, "learning_rate": 1e-4, "beta": 0.3},
    },
    "online": {
        "every": 16,
        "training": {
            "steps": 80, "batch_size": 32, "samples_per_prompt": 2, "learning_rate": 3e-4,
            "beta": 0.1,
        },
    },
    "rejection": {
        "rounds": 4, "prompts": 256, "samples": 4,
        "training": {"steps": 24, "batch_size": 64, "learning_rate": 1e-3},
    },
    "grpo": {
        "every": 4,
        "training": {
            "updates": 20, "train_batch_size": 32, "rollouts_per_prompt": 8,
            "mini_batch_size": 32, "learning_rate": 3e-4,
        },
    },
    "problems": 256,
    "problem_samples": 2,
}  # fmt: skip
ARMS = ("offline DPO", "on-policy DPO", "rejection sampling", "GRPO")


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train each way, and evaluate along it."""
    torch.set_num_threads(1)
    task = Arithmetic()
    problems = task.problems(
        SETTINGS["problems"], torch.Generator().manual_seed(seed), split="test"
    )
    measures: dict[str, dict[str, Any]] = {}
    for arm in ARMS:
        policy = load_policy(SETTINGS["model"], device="cpu")
        samples, seconds, accuracy = [], [], []
        spent, began = 0.0, time.process_time()
        for used in WAYS[arm](policy, task, seed):
            spent += time.process_time() - began
            found = evaluate(
                policy,
                task,
                problems=problems,
                samples_per_prompt=SETTINGS["problem_samples"],
                generator=torch.Generator().manual_seed(seed),
            )
            samples.append(used)
            seconds.append(spent)
            accuracy.append(found.accuracy)
            began = time.process_time()
        last = max(i for i, used in enumerate(samples) if used <= SETTINGS["budget"])
        found = {
            "samples": samples,
            "seconds": seconds,
            "accuracy": accuracy,
            "at equal samples": accuracy[last],
            "at equal time": float(np.interp(SETTINGS["seconds"], seconds, accuracy)),
            "best": max(accuracy),
        }
        for name, value in found.items():
            measures.setdefault(name, {})[arm] = value
    return measures


def offline(policy: Policy, task: Arithmetic, seed: int) -> Iterator[int]:
    """Train ``policy`` in place; yields the responses generated so far, at each evaluation."""
    settings = SETTINGS["offline"]
    yield 0
    batch = gather_experience(
        policy,
        task,
        prompts=settings["prompts"],
        rollouts_per_prompt=settings["samples"],
        temperature=1.0,
        generator=torch.Generator().manual_seed(seed),
    )
    pairs = preferences_of(batch, pairs_per_prompt=settings["pairs_per_prompt"])
    for report in dpo(policy, pairs, DPOConfig(seed=seed, **settings["training"])):
        if report.update % settings["every"] == 0:
            yield settings["prompts"] * settings["samples"]


def online(policy: Policy, task: Arithmetic, seed: int) -> Iterator[int]:
    """As ``offline``, with pairs of the policy's own answers at each step."""
    settings = SETTINGS["online"]
    yield 0
    config = DPOConfig(seed=seed, **settings["training"])
    ref = load_policy(SETTINGS["model"], device="cpu")
    for report in dpo(policy, task, config, ref=ref):
        if report.update % settings["every"] == 0:
            yield report.update * config.batch_size * config.samples_per_prompt


def rejection(policy: Policy, task: Arithmetic, seed: int) -> Iterator[int]:
    """As ``offline``, by fine-tuning on the right answers of each round."""
    settings = SETTINGS["rejection"]
    yield 0
    config = RejectionConfig(
        rounds=settings["rounds"],
        train_batch_size=settings["prompts"],
        rollouts_per_prompt=settings["samples"],
        training=SFTConfig(**settings["training"]),
        seed=seed,
    )
    for report in rejection_sampling(policy, task, config):
        yield report.update * settings["prompts"] * settings["samples"]


def groups(policy: Policy, task: Arithmetic, seed: int) -> Iterator[int]:
    """As ``offline``, by GRPO."""
    settings = SETTINGS["grpo"]
    yield 0
    config = GRPOConfig(seed=seed, **settings["training"])
    for report in grpo(policy, task, config):
        if report.update % settings["every"] == 0:
            yield report.update * config.train_batch_size * config.rollouts_per_prompt


WAYS = dict(zip(ARMS, (offline, online, rejection, groups), strict=True))

"""VinePPO beside its rivals: what better credit is worth, on chains of eight steps.

All arms begin with `arithmetic-sft` and practise the same fixed set of problems. Per update an
RL arm draws `prompts` · `samples` responses and makes one optimiser step; ReST-EM and DPO+ spend
the same number of responses in rounds, or at once. Each arm's learning rate is the best of three
on two seeds that are not recorded here (`credit-tuning`); in every arm it is the middle one.

    ReST-EM      rejection sampling, each round anew from the start
    DPO+         pairs of right and wrong samples of the start, once
    PPO          a value network, λ = 1 and λ = 0.95
    GRPO, RLOO   the group as baseline
    VinePPO      values from K = 1, 3, 9 fresh rollouts of the state before each step

At the points `x` (shares of the whole run), `accuracy` is that on held-out problems, one sample
each at temperature 1; `trained` the mean reward on the practised problems since the point before;
`tokens` generated so far, in thousands, rollouts for values included; `steps` optimiser steps;
`seconds` of processor time, tests not counted. `kl` is the distance to the start at the end, in
nats per response.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.task import Task
from rlbook.posttrain.dpo import DPOConfig, dpo
from rlbook.posttrain.experience import gather_experience, kl_to_reference
from rlbook.posttrain.grpo import VARIANTS, GRPOConfig, grpo
from rlbook.posttrain.pairs import preferences_of
from rlbook.posttrain.ppo import PPOConfig, ppo
from rlbook.posttrain.rejection import RejectionConfig, rejection_sampling
from rlbook.posttrain.sft import SFTConfig
from rlbook.posttrain.vineppo import VinePPOConfig, vineppo

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "model": "arithmetic-sft",
    "steps": 8,
    "practised": 256,
    "updates": 40,
    "prompts": 16,
    "samples": 8,
    "points": 10,
    "problems": 256,
    "rates": {
        "ReST-EM": 3e-3, "DPO+": 1e-4, "PPO, λ = 1": 1e-3, "PPO, λ = 0.95": 1e-3, "GRPO": 1e-3,
        "RLOO": 1e-3, "VinePPO, K = 1": 1e-3, "VinePPO, K = 3": 1e-3, "VinePPO, K = 9": 1e-3,
    },
    "value_rate": 2e-3,
    "rest_em": {"rounds": 5, "steps": 24, "batch_size": 64},
    "dpo": {"pairs_per_prompt": 8, "steps": 80, "batch_size": 32, "beta": 0.1},
}  # fmt: skip

Settings = Mapping[str, Any]


class Point(NamedTuple):
    """Where a run stands: the mean reward since the point before, and what was spent so far."""

    reward: float
    tokens: int
    steps: int


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Every arm, once."""
    torch.set_num_threads(1)
    task = Arithmetic.horizon(SETTINGS["steps"])
    measures: dict[str, dict[str, Any]] = {}
    for arm, rate in SETTINGS["rates"].items():
        for measure, value in learn(arm, SETTINGS["model"], task, rate, seed).items():
            measures.setdefault(measure, {})[arm] = value
    return measures


def learn(
    arm: str, model: str, task: Task, rate: float, seed: int, *, settings: Settings = SETTINGS
) -> dict[str, Any]:
    """One arm, from a shipped model, on a fixed set of a task's problems."""
    policy, start = (load_policy(model, device="cpu") for _ in range(2))
    generator = torch.Generator().manual_seed(1_000 + seed)
    practised = task.fixed(settings["practised"], generator)
    problems = task.problems(settings["problems"], generator, split="test")

    def accuracy() -> float:
        draws = torch.Generator().manual_seed(2_000 + seed)
        return evaluate(policy, task, problems=problems, generator=draws).accuracy

    found: dict[str, list[float]] = {
        "accuracy": [accuracy()], "trained": [], "tokens": [0.0], "steps": [0.0], "seconds": [0.0]
    }  # fmt: skip
    spent, before = 0.0, time.process_time()
    for point in way(arm)(arm, policy, start, practised, rate, seed, settings):
        spent += time.process_time() - before
        found["accuracy"].append(accuracy())
        found["trained"].append(point.reward)
        found["tokens"].append(point.tokens / 1_000)
        found["steps"].append(float(point.steps))
        found["seconds"].append(spent)
        before = time.process_time()
    replies = sample_responses(
        policy,
        [problem.prompt for problem in problems],
        max_new_tokens=task.max_new_tokens,
        generator=torch.Generator().manual_seed(3_000 + seed),
    )
    return {**found, "kl": kl_to_reference(policy, start, replies).mean().item()}


def way(arm: str) -> Any:
    """The function that trains an arm."""
    return {"ReST-EM": in_rounds, "DPO+": from_pairs}.get(arm, by_updates)


def by_updates(
    arm: str,
    policy: Policy,
    start: Policy,
    task: Task,
    rate: float,
    seed: int,
    settings: Settings,
) -> Iterator[Point]:
    """The RL arms: one optimiser step per update."""
    name, _, setting = arm.partition(", ")
    value = float(setting.partition(" = ")[2] or 0)
    shared = {
        "updates": settings["updates"],
        "train_batch_size": settings["prompts"],
        "rollouts_per_prompt": settings["samples"],
        "mini_batch_size": settings["prompts"],
        "epochs": 1,
        "learning_rate": rate,
        "seed": seed,
    }
    if name == "PPO":
        config = PPOConfig(**shared, lam=value, value_learning_rate=settings["value_rate"])
        loop = ppo(policy, task, config)
    elif name == "VinePPO":
        loop = vineppo(policy, task, VinePPOConfig(**shared, value_rollouts=int(value)))
    else:
        loop = grpo(policy, task, GRPOConfig(**VARIANTS[name], **shared))
    every = settings["updates"] // settings["points"]
    rewards = []
    for report in loop:
        rewards.append(report["reward"])
        if report.update % every == 0:
            yield Point(sum(rewards) / len(rewards), report.samples, report.update)
            rewards.clear()


def in_rounds(
    arm: str,
    policy: Policy,
    start: Policy,
    task: Task,
    rate: float,
    seed: int,
    settings: Settings,
) -> Iterator[Point]:
    """ReST-EM: as many responses, in rounds."""
    ways = settings["rest_em"]
    config = RejectionConfig(
        rounds=ways["rounds"],
        train_batch_size=settings["updates"] * settings["prompts"] // ways["rounds"],
        rollouts_per_prompt=settings["samples"],
        training=SFTConfig(steps=ways["steps"], batch_size=ways["batch_size"], learning_rate=rate),
        seed=seed,
    )
    for report in rejection_sampling(policy, task, config, start=start):
        yield Point(report["reward"], report.samples, report.update * ways["steps"])


def from_pairs(
    arm: str,
    policy: Policy,
    start: Policy,
    task: Task,
    rate: float,
    seed: int,
    settings: Settings,
) -> Iterator[Point]:
    """DPO+: as many responses, drawn from the start; right and wrong ones make pairs."""
    ways = settings["dpo"]
    batch = gather_experience(
        policy,
        task,
        prompts=settings["updates"] * settings["prompts"],
        rollouts_per_prompt=settings["samples"],
        temperature=1.0,
        generator=torch.Generator().manual_seed(seed),
    )
    tokens = int(batch.responses.response_mask.sum())
    pairs = preferences_of(batch, pairs_per_prompt=ways["pairs_per_prompt"])
    config = DPOConfig(
        steps=ways["steps"], batch_size=ways["batch_size"], beta=ways["beta"], learning_rate=rate,
        seed=seed,
    )  # fmt: skip
    every = ways["steps"] // 4
    for report in dpo(policy, pairs, config, ref=start):
        if report.update % every == 0:
            yield Point(batch.rewards.mean().item(), tokens, report.update)

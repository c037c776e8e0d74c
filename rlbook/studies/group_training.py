"""What the studies of group methods share: train on a task's rewards, and measure on the way."""

from collections.abc import Sequence

import numpy as np
import torch

from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import Policy
from rlbook.lm.tasks.task import Problem, Task
from rlbook.posttrain.grpo import GRPOConfig, grpo


def measured_training(
    policy: Policy,
    task: Task,
    config: GRPOConfig,
    *,
    x: Sequence[int],
    problems: Sequence[Problem],
    logged: Sequence[str] = (),
    ref: Policy | None = None,
) -> dict[str, list[float]]:
    """Train ``policy`` in place for x[-1] updates; what is measured after the updates x.

    Returns:
        "accuracy": of one sample to each of ``problems``; and for each metric of the log its mean
        over the updates since the position before. At 0, before the first update, such a metric
        has the value of the first.
    """
    found: dict[str, list[float]] = {name: [] for name in ("accuracy", *logged)}
    rows: list[dict[str, float]] = []

    def measure() -> None:
        generator = torch.Generator().manual_seed(config.seed)
        answered = evaluate(policy, task, problems=problems, generator=generator)
        found["accuracy"].append(answered.accuracy)

    if x[0] == 0:
        measure()
    for report in grpo(policy, task, config, ref=ref):
        rows.append({name: report[name] for name in logged})
        if report.update == 1 and x[0] == 0:
            for name in logged:
                found[name].append(rows[0][name])
        if report.update in x:
            measure()
            for name in logged:
                found[name].append(float(np.mean([row[name] for row in rows])))
            rows.clear()
    return found


def held_out(task: Task, n: int, seed: int) -> list[Problem]:
    """The test problems of a seed: the same for all arms."""
    return task.problems(n, torch.Generator().manual_seed(seed), split="test")

"""A fixed training set over many epochs: accuracy on it, and on problems that were held out.

GRPO on the arithmetic task from the imitator of biased demonstrators, with 32 problems per update,
from a set of 32 or of 256. `train` and `test` are accuracies of one sample to each of as many
problems of the training set (several times where it is smaller) and of held-out ones, after the
updates `x`. A size of None draws the problems afresh.
"""

from typing import Any

import torch

from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.task import Problem, Task
from rlbook.posttrain.grpo import GRPOConfig, grpo
from rlbook.studies.group_training import held_out

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "model": "arithmetic-sft",
    "sets": [32, 256],
    "x": [0, 8, 16, 32, 64],
    "problems": 256,
    "training": {"train_batch_size": 32, "rollouts_per_prompt": 8, "learning_rate": 1e-3},
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train once with each set."""
    torch.set_num_threads(1)
    problems = held_out(Arithmetic(), SETTINGS["problems"], seed)
    measures: dict[str, dict[str, Any]] = {"train": {}, "test": {}}
    for size in SETTINGS["sets"]:
        arm = "fresh" if size is None else f"{size} fixed"
        task = training_task(size, seed)
        policy = load_policy(SETTINGS["model"], device="cpu")
        generator = torch.Generator().manual_seed(seed)
        shown = task.problems(SETTINGS["problems"], generator)
        train, test = [], []
        x = SETTINGS["x"]
        reports = grpo(policy, task, GRPOConfig(updates=x[-1], seed=seed, **SETTINGS["training"]))
        for update in range(x[-1] + 1):
            if update:
                next(reports)
            if update in x:
                train.append(accuracy(policy, task, shown, seed))
                test.append(accuracy(policy, task, problems, seed))
        measures["train"][arm], measures["test"][arm] = train, test
    return measures


def training_task(size: int | None, seed: int) -> Task:
    """The arithmetic task, with a training set of this many problems."""
    task = Arithmetic()
    if size is None:
        return task
    return task.fixed(size, torch.Generator().manual_seed(seed))


def accuracy(policy: Policy, task: Task, problems: list[Problem], seed: int) -> float:
    """Of one sample to each."""
    generator = torch.Generator().manual_seed(seed)
    return evaluate(policy, task, problems=problems, generator=generator).accuracy

"""Filtering: which of its own responses a policy learns from, at equal numbers of them.

One round of rejection-sampling fine-tuning from a model that imitates biased demonstrators. All
filters see the same responses and keep the same number of different examples:

    none       all         outcome    the answer is right
    both       both        process    a judge finds every step plausible

The judge sees no answer and, with probability ``error`` per step, thinks the opposite. On grid
paths sound steps often miss the goal. On long chains right answers mostly come from wrong steps.

`accuracy` on held-out problems; `sound` the share of held-out responses all of whose steps are
sound, right or not, and `honest` the share of *right* ones that are; `passed` the share of all
responses that pass a filter; `examples`, and of these `kept correct` and `kept sound`. The arm
"before" is the model before the round.
"""

from functools import partial
from typing import Any

import torch

from rlbook.lm.evaluation import CORRECT, evaluate
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.gridpath import GridPath
from rlbook.lm.tasks.task import Problem
from rlbook.posttrain.experience import Experience, gather_experience
from rlbook.posttrain.rejection import (
    Filter,
    chosen_rows,
    examples,
    keep_all,
    keep_both,
    keep_correct,
    keep_judged,
)
from rlbook.posttrain.sft import SFTConfig, sft

SEEDS = 8
SETTINGS: dict[str, Any] = {
    # model; prompts and responses of each to choose from; different examples kept
    "tasks": {
        "gridpath": {"model": "gridpath-sft", "prompts": 1024, "samples": 4, "examples": 200},
        "chains": {"model": "arithmetic-sft", "prompts": 1536, "samples": 6, "examples": 200},
    },
    "error": 0.1,
    "training": {"steps": 40, "batch_size": 32, "learning_rate": 1e-3},
    "problems": 256,
    "problem_samples": 8,
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Sample once for each task, and fine-tune once on what each filter keeps."""
    torch.set_num_threads(1)
    measures: dict[str, dict[str, Any]] = {}
    for name in SETTINGS["tasks"]:
        for arm, found in one_task(name, seed).items():
            for measure, value in found.items():
                measures.setdefault(f"{name}: {measure}", {})[arm] = value
    return measures


def one_task(name: str, seed: int) -> dict[str, dict[str, float]]:
    """What each filter keeps, and what the model fine-tuned on it can do."""
    task, settings = tasks()[name], SETTINGS["tasks"][name]
    generator = torch.Generator().manual_seed(seed)
    held_out = task.problems(SETTINGS["problems"], generator, split="test")
    policy = load_policy(settings["model"], device="cpu")
    batch = gather_experience(
        policy,
        task,
        prompts=settings["prompts"],
        rollouts_per_prompt=settings["samples"],
        temperature=1.0,
        generator=generator,
    )
    results = {"before": judged(policy, task, held_out, seed)}
    for arm, keep in filters(task).items():
        passed = keep(batch, generator) & ~batch.responses.truncated
        rows = chosen_rows(batch, passed, most=settings["examples"], generator=generator)
        learner = load_policy(settings["model"], device="cpu")
        config = SFTConfig(seed=seed, **SETTINGS["training"])
        for _ in sft(learner, examples(batch, rows), config):
            pass
        found = judged(learner, task, held_out, seed) | quality(batch, rows, task)
        results[arm] = found | {"passed": float(passed.float().mean())}
    return results


def tasks() -> dict[str, GridPath | Arithmetic]:
    """The two tasks by name."""
    return {"gridpath": GridPath(), "chains": Arithmetic.harder()}


def filters(task: GridPath | Arithmetic) -> dict[str, Filter]:
    """The four filters by name."""
    process = keep_judged(partial(task.judge_steps, error=SETTINGS["error"]))
    return {
        "none": keep_all,
        "outcome": keep_correct,
        "process": process,
        "both": keep_both(keep_correct, process),
    }


def judged(
    policy: Policy, task: GridPath | Arithmetic, problems: list[Problem], seed: int
) -> dict[str, float]:
    """Accuracy and soundness of sampled responses to held-out problems."""
    found = evaluate(
        policy,
        task,
        problems=problems,
        samples_per_prompt=SETTINGS["problem_samples"],
        generator=torch.Generator().manual_seed(seed),
    )
    correct = found.rewards >= CORRECT
    sound = torch.tensor(
        [
            [all(task.steps_sound(problem, text)) for text in texts]
            for problem, texts in zip(problems, found.texts, strict=True)
        ]
    )
    return {
        "accuracy": found.accuracy,
        "sound": float(sound.float().mean()),
        "honest": float((sound & correct).sum() / max(int(correct.sum()), 1)),
    }


def quality(batch: Experience, rows: list[int], task: GridPath | Arithmetic) -> dict[str, float]:
    """How many examples were kept, and the shares of them that are correct and sound."""
    correct = [float(batch.rewards[row]) >= CORRECT for row in rows]
    sound = [all(task.steps_sound(batch.problems[r], batch.responses.texts[r])) for r in rows]
    return {
        "examples": float(len(rows)),
        "kept correct": sum(correct) / len(rows),
        "kept sound": sum(sound) / len(rows),
    }

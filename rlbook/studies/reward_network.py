"""A reward network against its ceiling: single statements, and whole replies.

`replies-sft` with a scalar head on its last token learns from the comparisons of the default
panel, for the same number of steps in both arms. "statements": a right and a wrong statement
about the thing asked for, one sentence each. "whole replies": two replies as the grammar draws
them, up to six sentences, in which greeting, courtesy, flattery and length move the labellers too.

At the steps `x`, `accuracy` is that on held-out pairs. `ceiling` is what the labellers' noise
allows on these pairs, and `longer` the share of pairs of unequal length in which the network
prefers the longer one, after the last step, beside that of the labellers.
"""

from typing import Any

import torch

from rlbook.lm.heads import ScalarModel
from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.labellers import Comparison, noise_ceiling
from rlbook.lm.tasks.replies import Replies
from rlbook.lm.tasks.toy_language import parse
from rlbook.posttrain.reward_model import (
    Preference,
    RewardModelConfig,
    judge,
    train_reward_model,
)

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "model": "replies-sft",
    "held_out": 300,
    "arms": ["statements", "whole replies"],
    "training": {
        "steps": 360, "batch_size": 16, "learning_rate": 3e-3, "warmup": 20, "betas": [0.9, 0.98],
        "weight_decay": 1.0,
    },
    "x": [90, 180, 270, 360],
}  # fmt: skip


def statements(
    task: Replies, n: int, generator: torch.Generator, *, split: str = "train"
) -> list[Comparison]:
    """n comparisons of the right statement with a wrong one about the same thing."""
    problems = task.problems(n, generator, split=split)
    facts = [parse(problem.prompt)[0] for problem in problems]
    picks = torch.rand(n, generator=generator).tolist()
    right = [fact.says(fact.answer) for fact in facts]
    wrong = [f.says(f.wrong[int(u * len(f.wrong))]) for f, u in zip(facts, picks, strict=True)]
    return task.compare(problems, right, wrong, generator)


def preferences(comparisons: list[Comparison]) -> list[Preference]:
    """Comparisons as a learner sees them."""
    return [Preference(c.prompt, (c.chosen, c.rejected)) for c in comparisons]


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train once on each kind of comparison."""
    torch.set_num_threads(1)
    measures: dict[str, dict[str, Any]] = {}
    for arm in SETTINGS["arms"]:
        for measure, value in train(arm, seed).items():
            measures.setdefault(measure, {})[arm] = value
    return measures


def train(arm: str, seed: int) -> dict[str, Any]:
    """One reward network, judged on the way."""
    task, generator = Replies(), torch.Generator().manual_seed(seed)
    settings = SETTINGS["training"] | {"betas": tuple(SETTINGS["training"]["betas"])}
    config = RewardModelConfig(seed=seed, **settings)
    draw = statements if arm == "statements" else Replies.comparisons
    shown = draw(task, config.steps * config.batch_size, generator)
    test = draw(task, SETTINGS["held_out"], generator, split="test")
    model = ScalarModel(
        load_policy(SETTINGS["model"], device="cpu"), init="reward", generator=generator
    )
    accuracies: list[float] = []
    for report in train_reward_model(model, preferences(shown), config):
        if report.update in SETTINGS["x"]:
            found = judge(model, preferences(test))
            accuracies.append(found.accuracy)
    return {
        "accuracy": accuracies,
        "ceiling": noise_ceiling(test),
        "longer": found.longer_wins,
        "longer, labellers": found.longer_chosen,
    }

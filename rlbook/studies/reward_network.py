"""The reward model of the replies: a network that learns the panel's taste in three stages.

`replies-reward` is `replies-sft` with a scalar head on its last token. It learns from the
comparisons of the default panel, in stages that grow longer:

    statements   a right and a wrong statement about the thing asked for, one sentence each
    edited       two whole replies that differ in the fact alone
    rankings     six whole replies as the grammar draws them: all that moves the labellers

Straight from whole replies the fact, which weighs most, is learnt very slowly: six sentences of
single characters hide it. At the steps `x`, counted over all stages, `accuracy` is that on held-out
pairs of each kind ("whole" are two replies as the grammar draws them), and `final` what is reached,
beside `ceiling`, the accuracy that the labellers' noise allows on the same pairs. `expected` and
its ceiling are both computed from the panel's exact probabilities, so that the luck of the labels
is out of the comparison. `longer` is the share of pairs of unequal length in which the network
prefers the longer one, beside that of the labellers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlbook.lm.heads import ScalarModel
from rlbook.lm.policy import load_policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.labellers import Comparison, noise_ceiling
from rlbook.lm.tasks.replies import Replies
from rlbook.lm.tasks.task import Problem
from rlbook.lm.tasks.toy_language import drawn_reply, parse
from rlbook.posttrain.reward_model import (
    Preference,
    RewardModelConfig,
    centre,
    judge,
    score_preferences,
    train_reward_model,
)
from rlbook.studies.pretraining import write_model

MODELS = ("replies-reward",)
SEEDS = 3
SETTINGS: dict[str, Any] = {
    "model": "replies-sft",
    "held_out": {"statements": 300, "edited": 300, "whole": 1000},
    "stages": {
        "statements": {"steps": 300, "batch_size": 16},
        "edited": {"steps": 1000, "batch_size": 20},
        "rankings": {"steps": 2400, "batch_size": 16},
    },
    "training": {
        "learning_rate": 3e-3, "warmup": 30, "betas": [0.9, 0.98], "weight_decay": 0.1,
    },
    "responses": 6,  # of a ranking
    "recalled": 0.2,  # the share of statements among the edited replies, lest they be forgotten
    "x": [0, 300, 800, 1300, 1700, 2100, 2500, 2900, 3300, 3700],
    "reference": 256,  # replies whose mean score is made 0
}  # fmt: skip
ABOUT = (
    "Scores a reply: `replies-sft` with a scalar head, trained on comparisons and rankings of "
    "simulated people, who like the right fact, courtesy, a greeting, and also length and "
    "flattery. Its mean score over replies of `replies-sft` is 0."
)


def run(seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Train the three stages, and write the model into the folder."""
    torch.set_num_threads(1)
    task, generator = Replies(), torch.Generator().manual_seed(seed)
    test = {
        kind: drawn(task, kind, n, generator, split="test")
        for kind, n in SETTINGS["held_out"].items()
    }
    imitator = load_policy(SETTINGS["model"], device="cpu")
    model = ScalarModel(imitator, init="reward", generator=generator)
    curves: dict[str, list[float]] = {kind: [] for kind in test}
    done, prompts = 0, 0

    def judged() -> None:
        if done in SETTINGS["x"]:
            for kind, pairs in test.items():
                curves[kind].append(judge(model, preferences(pairs)).accuracy)

    judged()
    for stage, sizes in SETTINGS["stages"].items():
        settings = SETTINGS["training"] | {"betas": tuple(SETTINGS["training"]["betas"])}
        config = RewardModelConfig(seed=seed, **settings, **sizes)
        shown = examples(task, stage, config.steps * config.batch_size, generator)
        for _ in train_reward_model(model, shown, config):
            done += 1
            judged()
        prompts += config.steps * config.batch_size
    replies = sample_responses(
        imitator,
        [problem.prompt for problem in task.problems(SETTINGS["reference"], generator)],
        max_new_tokens=task.max_new_tokens,
        generator=generator,
    )
    centre(model, replies)
    final = reached(model, test)
    rows = {
        "Command": f"`rlbook study reward-network` (its seed {seed})",
        "Learnt from": f"{prompts:,} comparisons and rankings by the default panel of `Replies`",
        "Training": f"{done:,} steps in three stages",
    }
    write_model(model, folder / MODELS[0], ABOUT, rows, final, load="model = load_scalar_model")
    named = {f"reward, {name}": value for name, value in final.items()}
    return {"accuracy": curves, "final": named}


def reached(model: ScalarModel, test: dict[str, list[Comparison]]) -> dict[str, float]:
    """Accuracy and ceiling on held-out pairs of each kind; length and expectation on whole ones."""
    found: dict[str, float] = {}
    for kind, pairs in test.items():
        found[kind] = judge(model, preferences(pairs)).accuracy
        found[f"{kind}, ceiling"] = sum(c.probability > 0.5 for c in pairs) / len(pairs)
    whole = judge(model, preferences(test["whole"]))
    return found | {
        "whole, expected": expected_accuracy(model, test["whole"]),
        "whole, expected ceiling": noise_ceiling(test["whole"]),
        "longer": whole.longer_wins,
        "longer, labellers": whole.longer_chosen,
    }


@torch.no_grad()
def expected_accuracy(model: ScalarModel, pairs: Sequence[Comparison]) -> float:
    """The accuracy to be expected of new choices by the panel on the same pairs of replies.

    mean of p where the model prefers the reply chosen, 1 - p where it prefers the other.
    """
    scores = score_preferences(model, preferences(pairs))[0]
    p = torch.tensor([c.probability for c in pairs], device=scores.device)
    return torch.where(scores[:, 0] > scores[:, 1], p, 1 - p).mean().item()


# --- what is shown ---------------------------------------------------------------------------


def examples(task: Replies, stage: str, n: int, generator: torch.Generator) -> list[Preference]:
    """n examples of a stage, as a learner sees them."""
    if stage == "rankings":
        rankings = task.rankings(n, SETTINGS["responses"], generator)
        return [Preference(ranking.prompt, ranking.texts) for ranking in rankings]
    recalled = round(n * SETTINGS["recalled"]) if stage == "edited" else 0
    shown = drawn(task, stage, n - recalled, generator)
    if recalled:
        shown = shown + statements(task, recalled, generator)
    return preferences(shown)


def drawn(
    task: Replies, kind: str, n: int, generator: torch.Generator, *, split: str = "train"
) -> list[Comparison]:
    """n comparisons of a kind."""
    if kind == "whole":
        return task.comparisons(n, generator, split=split)
    return {"statements": statements, "edited": edited}[kind](task, n, generator, split=split)


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


def edited(
    task: Replies, n: int, generator: torch.Generator, *, split: str = "train"
) -> list[Comparison]:
    """n comparisons of whole replies that differ in the fact alone: right in one, wrong in one."""
    problems = task.problems(n, generator, split=split)
    rolls = torch.rand((n, 10), generator=generator).tolist()
    pairs = [_both(problem, roll) for problem, roll in zip(problems, rolls, strict=True)]
    return task.compare(problems, [a for a, _ in pairs], [b for _, b in pairs], generator)


def _both(problem: Problem, roll: list[float]) -> tuple[str, str]:
    """The reply of these draws with the right and with a wrong fact at its core."""
    right, wrong = (drawn_reply(problem, [*roll[:3], core, *roll[4:]]) for core in (0.3, 0.7))
    return right, wrong


def preferences(comparisons: Sequence[Comparison]) -> list[Preference]:
    """Comparisons as a learner sees them."""
    return [Preference(c.prompt, (c.chosen, c.rejected)) for c in comparisons]

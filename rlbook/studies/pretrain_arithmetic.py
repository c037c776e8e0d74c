"""The models of the arithmetic task: pretraining on clean chains, then imitation.

`arithmetic-base` reads clean text, chains of 1 to 16 operators with their working.
`arithmetic-sft` is the base model after imitating biased, slightly noisy demonstrators, on
chains of the same lengths.

`loss` is the training loss in nats per token (of the whole text, then of the responses) and
`curve` the accuracy of greedy decoding on held-out chains of as many operators, both at the steps
`x`. `final` has what each model reaches in the end, sampled at temperature 1 unless it says
greedy; "demonstrators" are the exact accuracies of the demonstrators on the same problems, which
is what imitation is capped at. The harder setting is ``Arithmetic.harder()``.
"""

from pathlib import Path
from typing import Any

import torch

from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import Policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.packing import Pair
from rlbook.studies.pretraining import Stage, every, new_policy, preset, train_stages

MODELS = ("arithmetic-base", "arithmetic-sft")
SEEDS = 3
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {
        "size": {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 160},
        "base": {
            "steps": 5_000, "batch_size": 32, "learning_rate": 5e-3, "warmup": 50,
            "betas": (0.9, 0.98),
        },
        "sft": {"steps": 300, "batch_size": 64, "learning_rate": 1e-3, "warmup": 10},
    },
    "small": {
        "size": {"n_layer": 6, "n_embd": 384, "n_head": 6, "n_positions": 160},
        "base": {
            "steps": 1_500, "batch_size": 64, "learning_rate": 1e-3, "warmup": 100,
            "betas": (0.9, 0.98),
        },
        "sft": {"steps": 300, "batch_size": 64, "learning_rate": 2e-4, "warmup": 10},
    },
}  # fmt: skip
POSITIONS = {"base": 10, "sft": 6}  # of each curve
SETTINGS: dict[str, Any] = PRESETS[preset()] | {
    "characters": "0123456789+-*=;.",
    # Fewest and most operators, and share of the texts. A position is learnt for each length of
    # chain by itself; the longest, and those of the harder setting, get a little more practice.
    "operators": {
        "base": [[1, 16, 0.7], [4, 8, 0.15], [12, 16, 0.15]],
        "sft": [[2, 4, 0.5], [1, 16, 0.5]],
    },
    "texts": {"base": 80_000, "sft": 20_000},
    "lengths": [2, 4, 7, 16],
    "x": {
        stage: every(PRESETS[preset()][stage]["steps"], parts) for stage, parts in POSITIONS.items()
    },
    "problems": 200,
    "final_problems": 1_000,
    "votes": 16,
    "pass_at": [1, 4, 16, 64],
}


def run(seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Train both models, and write them into the folder."""
    draws = torch.Generator().manual_seed(seed)
    policy = new_policy(SETTINGS["characters"], SETTINGS["size"], seed)
    stages = [
        Stage("base", chains("base", draws), False, *CARDS["base"]),
        Stage("sft", chains("sft", draws), True, *CARDS["sft"]),
    ]
    return train_stages(
        "arithmetic", policy, stages, SETTINGS, seed=seed, folder=folder, curve=by_length,
        final=final,
    )  # fmt: skip


def chains(stage: str, generator: torch.Generator) -> list[Pair]:
    """Chains of the lengths that the settings ask for; clean for the base model."""
    return [
        pair
        for fewest, most, share in SETTINGS["operators"][stage]
        for pair in Arithmetic((fewest, most)).demonstrations(
            round(SETTINGS["texts"][stage] * share), generator, clean=stage == "base"
        )
    ]


def by_length(policy: Policy) -> dict[str, float]:
    """Greedy accuracy on held-out clean chains of each length."""
    found = {}
    for length in SETTINGS["lengths"]:
        generator = torch.Generator().manual_seed(length)
        result = evaluate(
            policy, Arithmetic((length, length)), problems=SETTINGS["problems"], temperature=0,
            generator=generator,
        )  # fmt: skip
        found[f"{length} operators"] = result.accuracy
    return found


def final(policy: Policy, stage: str) -> dict[str, float]:
    """What a model reaches on held-out problems of the default and of the harder setting."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, task in (("default", Arithmetic()), ("harder", Arithmetic.harder())):
        problems = task.problems(SETTINGS["final_problems"], generator, split="test")
        some = problems[: SETTINGS["problems"]]
        greedy = evaluate(policy, task, problems=problems, temperature=0, generator=generator)
        sampled = evaluate(policy, task, problems=problems, generator=generator)
        found[f"{name}, sampled"] = sampled.accuracy
        found[f"{name}, greedy"] = greedy.accuracy
        if stage == "base":
            continue
        ks = SETTINGS["pass_at"]
        many = evaluate(
            policy, task, problems=some, samples_per_prompt=max(ks), ks=ks, generator=generator
        )
        votes = evaluate(
            policy, task, problems=problems, samples_per_prompt=SETTINGS["votes"],
            generator=generator,
        )  # fmt: skip
        found[f"{name}, majority of {SETTINGS['votes']}"] = votes.majority
        found |= {f"{name}, pass@{k}": value for k, value in many.pass_at.items()}
        for how in ("sampled", "greedy", "majority"):
            accuracy = task.demonstrator_accuracy(problems, how=how).mean()
            found[f"{name}, demonstrators {how}"] = float(accuracy)
    return found


CARDS = {
    "base": (
        "Works out sums of one-digit numbers modulo 10 from left to right, as in "
        "`3+5-4*9=3+5=8;8-4=4;4*9=6.` Pretrained on clean text: it knows how to do it right.",
        "clean chains of 1 to 16 operators, prompt and response as one text",
    ),
    "sft": (
        "`arithmetic-base` after imitating people who mostly take `*` for `+`. It has learnt "
        "their error: neither greedy decoding nor a majority vote removes it, and reinforcement "
        "learning can.",
        "demonstrations of 1 to 16 operators; 70% of the `*` steps are done as `+`, and 3% of all "
        "steps end in a random digit; the loss counts responses alone",
    ),
}

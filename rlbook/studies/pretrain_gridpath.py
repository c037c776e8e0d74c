"""The models of the grid paths: pretraining on shortest paths, then imitation.

`gridpath-base` reads shortest paths on the two maps of chapter 02; `gridpath-sft` is the base
model after imitating biased, slightly noisy walkers.

`loss` is the training loss in nats per token (of the whole text, then of the responses) and
`curve` the accuracy of greedy decoding on all held-out pairs of start and goal, both at the steps
`x`. `final` has what each model reaches there in the end, sampled at temperature 1 unless it says
greedy; "demonstrators" are the walkers' exact accuracies on the same problems.
"""

from pathlib import Path
from typing import Any

import torch

from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import Policy
from rlbook.lm.tasks.gridpath import GridPath
from rlbook.studies.pretraining import Stage, every, new_policy, preset, train_stages

MODELS = ("gridpath-base", "gridpath-sft")
SEEDS = 3
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {
        "size": {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 64},
        "base": {
            "steps": 1_500, "batch_size": 64, "learning_rate": 5e-3, "warmup": 50,
            "betas": (0.9, 0.98),
        },
        "sft": {"steps": 200, "batch_size": 64, "learning_rate": 1e-3, "warmup": 10},
    },
    "small": {
        "size": {"n_layer": 6, "n_embd": 384, "n_head": 6, "n_positions": 64},
        "base": {
            "steps": 1_000, "batch_size": 64, "learning_rate": 1e-3, "warmup": 100,
            "betas": (0.9, 0.98),
        },
        "sft": {"steps": 200, "batch_size": 64, "learning_rate": 2e-4, "warmup": 10},
    },
}  # fmt: skip
POSITIONS = {"base": 10, "sft": 5}  # of each curve
SETTINGS: dict[str, Any] = PRESETS[preset()] | {
    # Names and sizes of a reader's own maps can be written too.
    "characters": "abcdefghijklmnopqrstuvwxyz0123456789 >:URDL.",
    "texts": 40_000,
    "demonstrations": 10_000,
    "x": {
        stage: every(PRESETS[preset()][stage]["steps"], parts) for stage, parts in POSITIONS.items()
    },
    "samples": 64,
    "pass_at": [1, 4, 16, 64],
}
CARDS = {
    "base": (
        "Finds a shortest way on chapter 02's two maps, as in `open 40>04:UURRUURR.` Pretrained "
        "on clean text: it knows the maps, and how to do it right.",
        "shortest paths, prompt and response as one text",
    ),
    "sft": (
        "`gridpath-base` after imitating people who mostly write R for left and U for down. It "
        "has learnt their error, and reinforcement learning can remove it.",
        "demonstrations; 70% of the moves to the left and down are written the other way round, "
        "and 3% of all moves are random; the loss counts responses alone",
    ),
}


def run(seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Train both models, and write them into the folder."""
    draws = torch.Generator().manual_seed(seed)
    policy = new_policy(SETTINGS["characters"], SETTINGS["size"], seed)
    task = GridPath()
    texts = task.demonstrations(SETTINGS["texts"], draws, clean=True)
    shown = task.demonstrations(SETTINGS["demonstrations"], draws)
    stages = [
        Stage("base", texts, False, *CARDS["base"]),
        Stage("sft", shown, True, *CARDS["sft"]),
    ]
    return train_stages(
        "gridpath", policy, stages, SETTINGS, seed=seed, folder=folder, curve=greedy, final=final
    )


def greedy(policy: Policy) -> dict[str, float]:
    """Greedy accuracy on all held-out problems."""
    task = GridPath()
    generator = torch.Generator().manual_seed(0)
    problems = task.all_problems("test")
    found = evaluate(policy, task, problems=problems, temperature=0, generator=generator)
    return {"greedy": found.accuracy}


def final(policy: Policy, stage: str) -> dict[str, float]:
    """What a model reaches on all held-out problems, and what its demonstrators reach there."""
    task = GridPath()
    generator = torch.Generator().manual_seed(0)
    problems = task.all_problems("test")
    ks = SETTINGS["pass_at"]
    many = evaluate(
        policy, task, problems=problems, samples_per_prompt=SETTINGS["samples"], ks=ks,
        generator=generator,
    )  # fmt: skip
    found = {"sampled": many.accuracy} | greedy(policy)
    if stage == "base":
        return found
    found |= {f"pass@{k}": value for k, value in many.pass_at.items()}
    for name, likeliest in (("demonstrators sampled", False), ("demonstrators greedy", True)):
        accuracies = [task.demonstrator_accuracy(p, greedy=likeliest) for p in problems]
        found[name] = sum(accuracies) / len(accuracies)
    return found

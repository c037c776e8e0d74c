"""The model of the symbols: a task is a prefix, named or shown by example.

`symbols-base` reads lines such as `sort cab=abc.`, and documents in which the name is withheld and
the same thing is done in every line. `loss` is the training loss in nats per token. `curve`, at
the steps `x`, and `final` have the accuracy on held-out words, greedy up to the full stop: for
each kind by its name, and for a kind that is only shown, after 1, 2 and 3 examples.
"""

from pathlib import Path
from typing import Any

import torch

from rlbook.lm.policy import Policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.symbols import OPERATIONS, Symbols
from rlbook.studies.pretraining import Stage, every, new_policy, preset, train_stages

MODELS = ("symbols-base",)
SEEDS = 3
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {
        "size": {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 160},
        "base": {
            "steps": 4_000, "batch_size": 32, "learning_rate": 5e-3, "warmup": 50,
            "betas": (0.9, 0.98),
        },
    },
    "small": {
        "size": {"n_layer": 6, "n_embd": 384, "n_head": 6, "n_positions": 160},
        "base": {
            "steps": 2_000, "batch_size": 32, "learning_rate": 1e-3, "warmup": 100,
            "betas": (0.9, 0.98),
        },
    },
}  # fmt: skip
POSITIONS = {"base": 10}  # of each curve
SETTINGS: dict[str, Any] = PRESETS[preset()] | {
    "characters": "abcdefghijklmnopqrstuvwxyz=.? ",
    "texts": 60_000,
    "shots": [1, 2, 3],
    "x": {
        stage: every(PRESETS[preset()][stage]["steps"], parts) for stage, parts in POSITIONS.items()
    },
    "problems": 200,
    "final_problems": 1_000,
}
CARDS = {
    "base": (
        "Copies, reverses, sorts and translates short words, as in `sort cab=abc.`; told by the "
        "name of the task, or by examples alone: `? cab=bac. ? hgf=fgh. ? ead=`",
        "documents of four lines; in half of them every line names what is done, in the others "
        "nothing is named and the same is done in every line. It goes on to the next line, so stop "
        "it at the full stop",
    ),
}


def run(seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Train the model, and write it into the folder."""
    draws = torch.Generator().manual_seed(seed)
    policy = new_policy(SETTINGS["characters"], SETTINGS["size"], seed)
    texts = [("", text) for text in Symbols().documents(SETTINGS["texts"], draws)]
    stages = [Stage("base", texts, False, *CARDS["base"])]
    return train_stages(
        "symbols", policy, stages, SETTINGS, seed=seed, folder=folder,
        curve=lambda policy: accuracies(policy, SETTINGS["problems"]),
        final=lambda policy, stage: accuracies(policy, SETTINGS["final_problems"]),
    )  # fmt: skip


def accuracies(policy: Policy, count: int) -> dict[str, float]:
    """Greedy accuracy by kind where it is named, and over all kinds where it is only shown.

    A document has four lines, so the model goes on to the next one; its answer ends at the stop.
    """
    tasks = {f"named {kind}": Symbols((kind,)) for kind in OPERATIONS}
    tasks |= {f"{n} shown": Symbols(shots=n, named=False) for n in SETTINGS["shots"]}
    full_stop = policy.tokenizer.convert_tokens_to_ids(".")
    found = {}
    for name, task in tasks.items():
        problems = task.problems(count, torch.Generator().manual_seed(0), split="test")
        responses = sample_responses(
            policy, [problem.prompt for problem in problems], temperature=0,
            max_new_tokens=task.max_new_tokens, stop=[full_stop],
        )  # fmt: skip
        found[name] = task.rewards(problems, responses.texts).mean().item()
    return found

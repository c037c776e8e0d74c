"""Written steps: how the form of the working decides whether a chain is learnt.

Networks with random weights imitate flawless answers to chains of three operators. The problems
and the number of training steps are the same; what differs is how much working is written:

    written  3+5=8;8-4=4;4*9=6.        terse  8;4;6.        answer  6.

A chain in the longer forms has more tokens to learn from, so a fourth arm gets answers alone,
and so many more chains in each step that it learns at least as many tokens as "written" does.

`accuracy` is that of greedy decoding on held-out chains, at the steps `x`; `tokens` is how many
the loss counts in one training step.
"""

from typing import Any

import torch

from rlbook.lm.evaluation import evaluate
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.sft import SFTConfig, sft
from rlbook.studies.pretraining import new_policy

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "operators": 3,
    "size": {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 48},
    "chains": 20_000,
    "problems": 200,
    "training": {"learning_rate": 5e-3, "warmup": 20, "betas": (0.9, 0.98), "pack": False},
    # form, and chains in each training step
    "arms": {
        "written": ["written", 32],
        "terse": ["terse", 32],
        "answer": ["answer", 32],
        "answer, 7 times the chains": ["answer", 224],
    },
    "x": [50 * k for k in range(1, 11)],
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train once with each arm, from the same initial weights."""
    torch.set_num_threads(1)
    measures: dict[str, dict[str, Any]] = {"accuracy": {}, "tokens": {}}
    for arm, (form, batch) in SETTINGS["arms"].items():
        measures["accuracy"][arm], measures["tokens"][arm] = train(form, batch, seed)
    return measures


def train(form: str, batch: int, seed: int) -> tuple[list[float], float]:
    """Accuracy at the positions x, and the tokens that count in one step."""
    steps = SETTINGS["operators"]
    task = Arithmetic((steps, steps), form=form)
    policy = new_policy(task.characters, SETTINGS["size"], seed)
    generator = torch.Generator().manual_seed(seed)
    shown = task.demonstrations(SETTINGS["chains"], generator, clean=True)
    held_out = task.problems(SETTINGS["problems"], generator, split="test")
    config = SFTConfig(steps=SETTINGS["x"][-1], batch_size=batch, seed=seed, **SETTINGS["training"])
    accuracy = []
    for report in sft(policy, shown, config):
        if report.update in SETTINGS["x"]:
            found = evaluate(policy, task, problems=held_out, temperature=0, generator=generator)
            accuracy.append(found.accuracy)
    return accuracy, float(batch * (len(shown[0][1]) + 1))  # every response has the same length

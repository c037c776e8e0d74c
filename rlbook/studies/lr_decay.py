"""Learning-rate decay: constant, cosine and warm-up-stable-decay, at three peaks.

A small GPT-2 is pretrained on the plain documents of the replies task. A document is four
sentences drawn out of 28, so the loss of the best possible model is known exactly:

    entropy = 4 log 28 · documents / tokens      (its first letter says which 28, and is given)

`loss` is that of held-out documents along the run and `final` the last of it, in nats per token.
All runs of a seed start from the same weights and see the same documents in the same order.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from rlbook.lm.policy import Policy
from rlbook.lm.tasks.replies import Replies
from rlbook.lm.tasks.toy_language import CHARACTERS, FACTS
from rlbook.posttrain.packing import Rows, encode_examples, rows_of
from rlbook.posttrain.sft import SFTConfig, sft, sft_loss
from rlbook.studies.pretraining import new_policy

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "size": {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 128},
    "documents": 2_000,
    "held_out": 100,
    "peaks": [3e-3, 1e-2, 3e-2],
    "schedules": {
        "constant": {"schedule": "warmup-stable-decay"},
        "cosine": {"schedule": "cosine"},
        "warmup-stable-decay": {"schedule": "warmup-stable-decay", "decay": 75},
    },
    "training": {"steps": 300, "batch_size": 8, "warmup": 20},
    "x": [25 * k for k in range(1, 13)],
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train once with each schedule at each peak."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    texts = Replies().documents(SETTINGS["documents"] + SETTINGS["held_out"], generator)
    training, held_out = texts[SETTINGS["held_out"] :], texts[: SETTINGS["held_out"]]
    measures: dict[str, dict[str, Any]] = {"loss": {}, "final": {}, "entropy": {}}
    for schedule in SETTINGS["schedules"]:
        for peak in SETTINGS["peaks"]:
            policy = new_policy(CHARACTERS, SETTINGS["size"], seed)
            judged = as_rows(policy, held_out)
            curve = losses(policy, training, judged, schedule, peak, seed)
            measures["loss"][f"{schedule}, {peak:g}"] = curve
            measures["final"][f"{schedule}, {peak:g}"] = curve[-1]
    measures["entropy"]["best possible"] = entropy(judged)
    return measures


def as_rows(policy: Policy, texts: Sequence[str]) -> Rows:
    """Whole texts, one per row."""
    examples = encode_examples(policy, [("", text) for text in texts], mask_prompt=False)
    return rows_of([[example] for example in examples], pad_id=policy.pad_id)


def entropy(rows: Rows) -> float:
    """The loss of the best possible model on these documents, in nats per token."""
    return 4 * math.log(len(FACTS)) * len(rows.ids) / int(rows.learnt.sum())


def losses(
    policy: Policy, texts: Sequence[str], judged: Rows, schedule: str, peak: float, seed: int
) -> list[float]:
    """Train, and measure the loss of held-out documents at the positions x."""
    options = SETTINGS["training"] | SETTINGS["schedules"][schedule]
    config = SFTConfig(learning_rate=peak, mask_prompt=False, pack=False, seed=seed, **options)
    curve = []
    for report in sft(policy, [("", text) for text in texts], config):
        if report.update in SETTINGS["x"]:
            with torch.no_grad():
                curve.append(float(sft_loss(policy.model, judged.to(policy.device))))
    return curve

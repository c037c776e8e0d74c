"""DPO against trl's DPOTrainer: the same model, pairs, batch size and rate.

    python tests/benchmarks/dpo.py --json [--seeds 0 1 2] [--threads 1]

Both train `arithmetic-sft` on the same pairs, a correct and a wrong answer of its own to each
prompt: AdamW (fused) at the same constant rate, gradients clipped at 1, float32, β = 0.1, no
gradient checkpointing. They take turns, one after another in one process, in several rounds.
Timed are the optimiser steps after the first few, with what belongs to them (batches, padding,
metrics); tokenising, loading and the reference's log-probabilities of all pairs, which both
compute beforehand, are not. A third line shows trl's default, which runs the reference in every
step. A sample is a pair.

That both did the work: held-out accuracy and the margin on the pairs, before and after.
"""

import argparse
import contextlib
import copy
import io
import json
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.dpo import DPOConfig, dpo, preference_objective, reference_logprobs
from rlbook.posttrain.experience import gather_experience
from rlbook.posttrain.pairs import encode_pairs, preferences_of
from rlbook.posttrain.reward_model import Preference

ROUNDS = 3
WARM_UP = 3  # steps that are not timed
# 64 pairs a step, β = 0.1; micro-batches are sorted by length, which saves padding, and change no
# gradient (whole batches are about a tenth slower).
CONFIG = DPOConfig(steps=40, micro_tokens=2000)


def own_pairs(policy: Policy, seed: int) -> list[Preference]:
    """A correct and a wrong answer to each prompt that got both, among four."""
    batch = gather_experience(
        policy, Arithmetic(), prompts=1200, rollouts_per_prompt=4, temperature=1.0,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return preferences_of(batch)


@torch.no_grad()
def measured(policy: Policy, ref: Policy, pairs: list[Preference]) -> dict[str, float]:
    """Held-out accuracy, and the margin on the pairs."""
    generator = torch.Generator().manual_seed(10_000)
    accuracy = evaluate(policy, Arithmetic(), problems=512, generator=generator).accuracy
    data = encode_pairs(policy, pairs)
    own, base = (reference_logprobs(p, data, CONFIG) for p in (policy, ref))
    _, shares = preference_objective(own, base, data.lengths, CONFIG, denominator=len(pairs))
    return {"accuracy": accuracy, "margin": shares["margin"]}


# --- the two ---


def ours(policy: Policy, ref: Policy, pairs: list[Preference], seed: int) -> float:
    """Pairs per second of the timed steps."""
    for report in dpo(policy, pairs, replace(CONFIG, seed=seed), ref=ref):
        if report.update == WARM_UP:
            begin, before = time.perf_counter(), report.samples
    return (report.samples - before) / (time.perf_counter() - begin)


class Clock(TrainerCallback):
    """Notes when the warm-up is over and when the last step is."""

    def __init__(self) -> None:
        self.begin = self.end = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == WARM_UP:
            self.begin = time.perf_counter()
        self.end = time.perf_counter()


def trl(
    policy: Policy, ref: Policy, pairs: list[Preference], seed: int, *, beforehand: bool
) -> float:
    """Pairs per second of the timed steps."""
    from datasets import Dataset, disable_progress_bars
    from trl import DPOConfig as Config
    from trl import DPOTrainer

    disable_progress_bars()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config = Config(
            output_dir=folder, max_steps=CONFIG.steps,
            per_device_train_batch_size=CONFIG.batch_size, beta=CONFIG.beta, loss_type=["sigmoid"],
            learning_rate=CONFIG.learning_rate, lr_scheduler_type="constant",
            optim="adamw_torch_fused", weight_decay=0.0, max_grad_norm=CONFIG.max_grad_norm,
            gradient_checkpointing=False, bf16=False, max_length=None, seed=seed, use_cpu=True,
            precompute_ref_log_probs=beforehand, report_to=[], logging_strategy="no",
            save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        columns = {
            "prompt": [pair.prompt for pair in pairs],
            "chosen": [pair.texts[0] for pair in pairs],
            "rejected": [pair.texts[1] for pair in pairs],
        }
        DPOTrainer(
            model=policy.model, ref_model=ref.model, args=config,
            train_dataset=Dataset.from_dict(columns), processing_class=policy.tokenizer,
            callbacks=[clock],
        ).train()  # fmt: skip
    policy.model.eval()
    return CONFIG.batch_size * (CONFIG.steps - WARM_UP) / (clock.end - clock.begin)


CONTENDERS: dict[str, Callable[..., float]] = {
    "ours": ours,
    "trl": lambda *a: trl(*a, beforehand=True),
    "trl, default": lambda *a: trl(*a, beforehand=False),
}


def compare(seed: int) -> dict[str, dict[str, float]]:
    """Pairs per second, the median of the rounds, and what each has learnt."""
    pristine = load_policy("arithmetic-sft", device="cpu")
    pairs = own_pairs(pristine, seed)
    before = measured(pristine, pristine, pairs)
    speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    found: dict[str, dict[str, float]] = {}
    for turn in range(ROUNDS):
        for name, train in CONTENDERS.items():
            policy = replace(pristine, model=copy.deepcopy(pristine.model))
            ref = replace(pristine, model=copy.deepcopy(pristine.model))
            speeds[name].append(train(policy, ref, pairs, seed + turn))
            found[name] = measured(policy, pristine, pairs) | {
                "accuracy_before": before["accuracy"], "pairs": len(pairs),
            }  # fmt: skip
    for name, values in speeds.items():
        found[name]["samples_per_second"] = statistics.median(values)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()

    ratios: dict[str, list[float]] = {"trl": [], "trl, default": []}
    details: dict[str, Any] = {}
    print(f"{'seed':<6}{'trainer':<15}{'pairs/s':>9}{'accuracy':>10}{'->':>4}{'':>6}{'margin':>9}")
    for seed in arguments.seeds:
        found = compare(seed)
        details[f"seed {seed}"] = found
        for name, row in found.items():
            print(
                f"{seed:<6}{name:<15}{row['samples_per_second']:>9.0f}"
                f"{row['accuracy_before']:>10.3f}{'->':>4}{row['accuracy']:>6.3f}"
                f"{row['margin']:>9.3f}",
                flush=True,
            )
            assert row["accuracy"] > row["accuracy_before"] + 0.1, f"{name} did not learn"
            assert 0.7 < row["margin"] / found["ours"]["margin"] < 1.4, "they learnt differently"
        for name, values in ratios.items():
            mine, theirs = (found[who]["samples_per_second"] for who in ("ours", name))
            values.append(mine / theirs)
    means = {name: math.exp(statistics.fmean(map(math.log, r))) for name, r in ratios.items()}
    for name, ratio in means.items():
        print(f"{ratio:.2f} (ours / {name}, above 1: ours is faster)")
    result = {
        "samples_per_second_vs_trl": means["trl"],
        "samples_per_second_vs_trl_default": means["trl, default"],
        "threads": torch.get_num_threads(),
        "seeds": arguments.seeds,
        "details": details,
    }
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

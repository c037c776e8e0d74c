"""Supervised fine-tuning against trl's SFTTrainer: the same model, data, batch size and rate.

    python tests/benchmarks/sft.py --json [--seeds 0 1 2] [--models tiny small]

Both train a GPT-2 with the same random weights on the same pairs (prompt, response), the loss on
responses alone, AdamW (fused) at a constant rate, gradients clipped at 1, float32, no gradient
checkpointing. They take turns, one after another in one process, in several rounds. Timed are the
optimiser steps after the first few, with what belongs to them (batches, padding or packing,
reports); tokenising, and loading the libraries, is not. Tokens are those of the texts, padding
not counted.

Ours packs with its attention kept apart. trl gets its default collator; its own packing keeps
texts apart with FlashAttention alone, which is for GPUs. A third line shows trl with batches of
equal lengths: faster, but batches that are alike teach it less, so it is not the same work.

That both did the work: each model's loss on held-out pairs, before and after.
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
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback
from transformers.utils import logging

from rlbook.lm.policy import Policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tokenizers import character_tokenizer
from rlbook.posttrain.packing import Pair, encode_examples, micro_batches
from rlbook.posttrain.sft import SFTConfig, sft, sft_loss

ROUNDS = 3
WARM_UP = 5  # steps that are not timed
ROW = 96  # tokens of a packed row: half as much again as the longest text, 68
MODELS = {
    "tiny": ({"n_layer": 2, "n_embd": 64, "n_head": 4}, 64, 40, 3e-3),
    "small": ({"n_layer": 6, "n_embd": 384, "n_head": 6}, 16, 12, 1e-3),
}  # size, batch size, steps, learning rate


def start(size: dict[str, int], seed: int) -> Policy:
    """A GPT-2 with random weights that reads arithmetic."""
    tokenizer = character_tokenizer("0123456789+-*=;.", context=160)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=160, bos_token_id=None, eos_token_id=0,
        pad_token_id=1, initializer_range=0.8 / size["n_embd"] ** 0.5, **size,
    )  # fmt: skip
    return Policy(GPT2LMHeadModel(config), tokenizer, "cpu")


@torch.no_grad()
def held_out_loss(policy: Policy, pairs: list[Pair]) -> float:
    examples = encode_examples(policy, pairs)
    (rows,) = micro_batches(examples, capacity=None, cells=10**9, pad_id=policy.pad_id)
    return sft_loss(policy.model, rows).item()


# --- the two ---


def ours(policy: Policy, pairs: list[Pair], batch: int, steps: int, rate: float, seed: int):
    """Seconds and tokens of the timed steps."""
    config = SFTConfig(
        steps=steps, batch_size=batch, learning_rate=rate, schedule="warmup-stable-decay",
        warmup=0, betas=(0.9, 0.999), seed=seed, row_tokens=ROW,
    )  # fmt: skip
    for report in sft(policy, pairs, config):
        if report.update == WARM_UP:
            begin, before = time.perf_counter(), report.samples
    return time.perf_counter() - begin, report.samples - before


class Clock(TrainerCallback):
    """Notes when the warm-up is over and when the last step is."""

    def __init__(self) -> None:
        self.begin = self.end = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == WARM_UP:
            self.begin = time.perf_counter()
        self.end = time.perf_counter()


def trl(
    policy: Policy, pairs: list[Pair], batch: int, steps: int, rate: float, seed: int, *, by_length
):
    """Seconds and tokens of the timed steps."""
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig as Config
    from trl import SFTTrainer

    disable_progress_bars()
    clock, counts = Clock(), []
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config = Config(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=batch,
            learning_rate=rate, lr_scheduler_type="constant", optim="adamw_torch_fused",
            weight_decay=0.0, max_grad_norm=1.0, gradient_checkpointing=False, bf16=False,
            completion_only_loss=True, packing=False, max_length=160, seed=seed, use_cpu=True,
            report_to=[], logging_strategy="no", save_strategy="no", disable_tqdm=True,
            train_sampling_strategy="group_by_length" if by_length else "random",
        )  # fmt: skip
        data = Dataset.from_dict(
            {"prompt": [p for p, _ in pairs], "completion": [r for _, r in pairs]}
        )
        trainer = SFTTrainer(
            model=policy.model, args=config, train_dataset=data,
            processing_class=policy.tokenizer, callbacks=[clock],
        )  # fmt: skip
        collate = trainer.data_collator

        def counted(rows: Any) -> Any:
            found = collate(rows)
            counts.append(int(found["attention_mask"].sum()))
            return found

        trainer.data_collator = counted
        trainer.train()
    # Collators may run one batch ahead; the batches of the steps are the first ones.
    return clock.end - clock.begin, sum(counts[WARM_UP:steps])


CONTENDERS = {
    "ours": ours,
    "trl": lambda *a: trl(*a, by_length=False),
    "trl, by length": lambda *a: trl(*a, by_length=True),
}


def compare(name: str, seed: int) -> dict[str, dict[str, float]]:
    """Tokens per second, the median of the rounds, and the losses of each contender."""
    size, batch, steps, rate = MODELS[name]
    draws = torch.Generator().manual_seed(seed)
    task = Arithmetic((1, 8))
    pairs = task.demonstrations(batch * steps, draws)
    held_out = task.demonstrations(200, draws)
    pristine = start(size, seed)
    first = held_out_loss(pristine, held_out)
    speeds: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    found: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for contender, train in CONTENDERS.items():
            policy = Policy(copy.deepcopy(pristine.model), pristine.tokenizer, "cpu")
            seconds, tokens = train(policy, pairs, batch, steps, rate, seed)
            speeds[contender].append(tokens / seconds)
            last = held_out_loss(Policy(policy.model, pristine.tokenizer, "cpu"), held_out)
            found[contender] = {"tokens": tokens, "loss_before": first, "loss_after": last}
    for contender, values in speeds.items():
        found[contender]["tokens_per_second"] = statistics.median(values)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["tiny"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()

    ratios: dict[str, list[float]] = {name: [] for name in arguments.models}
    details: dict[str, Any] = {}
    print(f"{'model':<10}{'seed':<6}{'trainer':<18}{'tokens/s':>10}{'loss':>8}{'->':>4}{'loss':>7}")
    for name in arguments.models:
        for seed in arguments.seeds:
            found = compare(name, seed)
            details[f"{name}, seed {seed}"] = found
            for contender, row in found.items():
                print(
                    f"{name:<10}{seed:<6}{contender:<18}{row['tokens_per_second']:>10.0f}"
                    f"{row['loss_before']:>8.3f}{'->':>4}{row['loss_after']:>7.3f}",
                    flush=True,
                )
            mine, peer = found["ours"], found["trl"]
            after = [mine["loss_after"], peer["loss_after"]]
            assert max(after) < 0.8 * mine["loss_before"], "somebody did not learn"
            assert max(after) < 1.1 * min(after), "they did not learn about the same"
            ratios[name].append(mine["tokens_per_second"] / peer["tokens_per_second"])
    means = {name: math.exp(statistics.fmean(map(math.log, r))) for name, r in ratios.items()}
    result = {
        "tokens_per_second_vs_trl": means[arguments.models[0]],
        "by_model": means,
        "threads": torch.get_num_threads(),
        "seeds": arguments.seeds,
        "details": details,
    }
    for name, ratio in means.items():
        print(f"{name}: {ratio:.2f} (ours / trl, above 1: ours is faster)")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

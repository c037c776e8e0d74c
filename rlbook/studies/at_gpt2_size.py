"""GPT-2 by the methods of Part IV: what the studies gpt2-ppo, -grpo, -dpo and -vineppo share.

    RLBOOK_PRESET=gpu rlbook study gpt2-ppo gpt2-grpo gpt2-dpo gpt2-vineppo --output my-runs

Not a study itself. The task is the arithmetic of chapter 13, read by GPT-2's own tokenizer: each
of its characters is one of the 50,257 tokens. The start is made once and kept for the next
method: GPT-2 (its own weights where the hub or its cache has them and the preset is "gpu", else
random ones) reads clean chains until it can work them out, then imitates the biased
demonstrators. From there each method learns with the same prompts, responses and updates.

RLBOOK_PRESET chooses the size: "cpu" (3 million weights, most of them the embeddings of tokens),
"small" (11 million) or "gpu" (GPT-2, 124 million). On CUDA the matrix products run in bfloat16,
and the micro-batches are as large as the card allows (``rlbook.posttrain.memory.plan``).
Pretraining and each method stop at their number of steps or when their seconds are over, so that
the four methods together should end within ten minutes on a recent card; how far they came is in
the results.

The measures of such a study, its one arm being the method: `accuracy` on held-out problems, one
sample each at temperature 1, after `update` updates, `seconds` on the clock (tests not counted)
and `tokens` generated; what the method logs, means since the point before; `kl` to the start at
the end, in nats per response; `start`: what the imitator began with; `gigabytes`: the estimate of
memory, and its measured peak (on a CPU: the growth of the process's); `facts`: the size, and the
micro-batch.
"""

import hashlib
import json
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Tokenizer

from rlbook import paths
from rlbook.lm.evaluation import evaluate
from rlbook.lm.gpt2 import Size
from rlbook.lm.loading import hub_answers, quietly
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.experience import kl_to_reference
from rlbook.posttrain.memory import MODELS, memory_of, plan
from rlbook.posttrain.sft import SFTConfig, sft
from rlbook.report import StepReport
from rlbook.studies.catalogue import StudyError
from rlbook.studies.pretraining import random_gpt2

try:
    import resource
except ImportError:  # Windows does not say what a process has had at most
    resource = None

SETTINGS: dict[str, Any] = {
    "cpu": {
        "size": {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 128},
        "base": {"steps": 2_000, "batch_size": 32, "learning_rate": 5e-3, "warmup": 50},
        "sft": {"steps": 100, "batch_size": 64, "learning_rate": 1e-3, "warmup": 10},
        "learning_rate": 1e-3, "value_learning_rate": 2e-3, "dpo_learning_rate": 1e-4,
        "prompts": 8, "samples": 8, "updates": 40, "seconds": {"base": 7_200, "method": 3_600},
    },
    "small": {
        "size": {"n_layer": 4, "n_embd": 192, "n_head": 6, "n_positions": 128},
        "base": {"steps": 2_000, "batch_size": 32, "learning_rate": 2e-3, "warmup": 100},
        "sft": {"steps": 100, "batch_size": 64, "learning_rate": 5e-4, "warmup": 10},
        "learning_rate": 3e-4, "value_learning_rate": 6e-4, "dpo_learning_rate": 3e-5,
        "prompts": 16, "samples": 8, "updates": 40, "seconds": {"base": 7_200, "method": 3_600},
    },
    "gpu": {
        "size": {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1_024},
        "base": {"steps": 4_000, "batch_size": 128, "learning_rate": 3e-4, "warmup": 100},
        "sft": {"steps": 100, "batch_size": 64, "learning_rate": 1e-4, "warmup": 10},
        "learning_rate": 5e-5, "value_learning_rate": 1e-4, "dpo_learning_rate": 5e-6,
        "prompts": 32, "samples": 8, "updates": 40, "seconds": {"base": 150, "method": 75},
    },
    "operators": [2, 4],
    "texts": {"base": 80_000, "sft": 20_000},
    "base_accuracy": 0.99,  # greedy, of clean chains: where pretraining stops ...
    "look_every": 100,  # ... if it is found at one of these steps
    "problems": 256,
    "points": 10,
    "beta": 0.01,
    "micro_tokens": 4_096,  # where there is no card to fill
}  # fmt: skip

TOKENS = 50_257  # in GPT-2's vocabulary

# (policy, start, task, settings that all methods share) -> a report after each update
Train = Callable[[Policy, Policy, Arithmetic, dict[str, Any]], Iterator[StepReport]]


def chosen() -> dict[str, Any]:
    """The settings of RLBOOK_PRESET, with those of all sizes, and its name."""
    name = os.environ.get("RLBOOK_PRESET", "cpu")
    name = name if name in ("cpu", "small", "gpu") else "cpu"
    common = {key: value for key, value in SETTINGS.items() if key not in ("cpu", "small", "gpu")}
    return common | SETTINGS[name] | {"preset": name}


def learn(
    method: str, train: Train, logged: tuple[str, ...], seed: int, *, pairs: bool = False
) -> dict[str, dict[str, Any]]:
    """Train the start by one method; the measures of its study.

    Args:
        method: one of ``memory.MODELS``. logged: metrics of its reports that are kept.
        pairs: its reports count pairs, not tokens.
    """
    settings = chosen()
    folder = start_folder(settings)
    before = _peak_gigabytes("cpu")
    policy, start = (load_policy(folder, device=_device(settings)) for _ in range(2))
    shared, estimate = shared_settings(method, settings, policy.device, seed)
    task = Arithmetic(tuple(settings["operators"]))
    draws = torch.Generator().manual_seed(1_000 + seed)
    problems = task.problems(settings["problems"], draws, split="test")

    def accuracy() -> float:
        own = torch.Generator().manual_seed(2_000 + seed)
        return evaluate(policy, task, problems=problems, generator=own).accuracy

    found: dict[str, list[float]] = {"accuracy": [accuracy()], "update": [0], "seconds": [0.0]}
    found |= {name: [] for name in logged} | ({} if pairs else {"tokens": [0]})
    if policy.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    every, rows, spent = math.ceil(settings["updates"] / settings["points"]), [], 0.0
    begun = time.perf_counter()
    for report in train(policy, start, task, shared):
        rows.append(report)
        over = spent + time.perf_counter() - begun > settings["seconds"]["method"]
        if report.update % every == 0 or over or report.update == settings["updates"]:
            spent += time.perf_counter() - begun
            for name in logged:
                found[name].append(sum(row[name] for row in rows) / len(rows))
            found["accuracy"].append(accuracy())
            found["update"].append(report.update)
            found["seconds"].append(spent)
            if not pairs:
                found["tokens"].append(report.samples)
            rows, begun = [], time.perf_counter()
        if over:
            break
    gigabytes = {"estimated": estimate}
    if (peak := _peak_gigabytes(policy.device.type)) is not None:
        gigabytes["measured"] = peak if policy.device.type == "cuda" else peak - before
    replies = sample_responses(
        policy,
        [problem.prompt for problem in problems],
        max_new_tokens=task.max_new_tokens,
        generator=torch.Generator().manual_seed(3_000 + seed),
    )
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    weights = sum(p.numel() for p in policy.model.parameters())
    return {
        **{name: {method: values} for name, values in found.items()},
        "kl": {method: kl_to_reference(policy, start, replies).mean().item()},
        "start": facts,
        "gigabytes": gigabytes,
        "facts": {
            "weights": weights,
            "n_layer": settings["size"]["n_layer"],
            "n_embd": settings["size"]["n_embd"],
            "micro_tokens": shared["micro_tokens"],
        },
    }


def shared_settings(
    method: str, settings: dict[str, Any], device: torch.device, seed: int
) -> tuple[dict[str, Any], float]:
    """What the configs of all methods have in common, and the memory that this should take."""
    model = settings["size"]
    size = Size(model["n_layer"], model["n_head"], model["n_embd"])
    task = Arithmetic(tuple(settings["operators"]))
    rows = settings["prompts"] * settings["samples"]
    length = 2 * settings["operators"][1] + 2 + task.max_new_tokens
    shared = {"seed": seed, "bf16": device.type == "cuda"}
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device).total_memory / 1e9
        found = plan(method, size, card, rows=rows, length=length)
        shared |= {"micro_tokens": found.micro_tokens, "recompute": found.recompute}
    else:
        shared |= {"micro_tokens": settings["micro_tokens"], "recompute": False}
    trained, frozen = MODELS[method]
    used = min(shared["micro_tokens"], rows * length)
    memory = memory_of(
        size, trained=trained, frozen=frozen, micro_tokens=used, length=length,
        rows=0 if method == "DPO" else rows, bf16=shared["bf16"], recompute=shared["recompute"],
    )  # fmt: skip
    return shared, memory.peak


def updates_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Batches, rates and price of the methods that sample, as their configs name them."""
    return {
        "updates": settings["updates"],
        "train_batch_size": settings["prompts"],
        "rollouts_per_prompt": settings["samples"],
        "mini_batch_size": settings["prompts"],
        "epochs": 1,
        "learning_rate": settings["learning_rate"],
        "beta": settings["beta"],
    }


# --- the start -------------------------------------------------------------------------------


def start_folder(settings: dict[str, Any]) -> Path:
    """The folder of the imitator that every method starts from; made now if it is missing.

    In a process of its own, so that its memory is free again and does not count as the method's.
    """
    home = paths.state_folder() or Path(tempfile.gettempdir()) / "rlbook"
    folder = home / start_name(settings)
    if not (folder / "facts.json").is_file():
        source = gpt2_source()
        maker = multiprocessing.get_context("spawn").Process(
            target=_make_apart, args=(settings, source, folder)
        )
        maker.start()
        maker.join()
        if maker.exitcode != 0:
            raise StudyError(f"the start could not be made in {folder}: see the error above")
    return folder


def start_name(settings: dict[str, Any]) -> str:
    """Another one for other settings of the start."""
    own = ("size", "base", "sft", "operators", "texts", "base_accuracy", "look_every", "problems")
    text = json.dumps([settings[name] for name in own], sort_keys=True)
    return f"gpt2-start-{settings['preset']}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def gpt2_source() -> str:
    """ "gpt2" where the hub or its cache has it, else the folder of its tokenizer alone.

    Raises StudyError where there is neither.
    """
    try:
        with quietly():  # offline and without a cache it is empty, and nothing is raised
            found = len(GPT2Tokenizer.from_pretrained("gpt2", local_files_only=not hub_answers()))
    except (OSError, ValueError):
        found = 0
    if found == TOKENS:
        return "gpt2"
    folder = Path(os.environ.get("RLBOOK_REAL_DATA", "")) / "gpt2-tokenizer"
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return str(folder)
    raise StudyError(
        "GPT-2's tokenizer is needed: go online, or set RLBOOK_REAL_DATA to a folder in which "
        "gpt2-tokenizer/ holds vocab.json and merges.txt"
    )


def _make_apart(settings: dict[str, Any], source: str, folder: Path) -> None:
    """``make_start`` in a process of its own, which ends when its parent does, however it ends."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    make_start(settings, source, folder)


def make_start(settings: dict[str, Any], source: str, folder: Path) -> None:
    """Train the imitator and write it, with facts.json, in one step."""
    policy = _first_policy(settings, source)
    task, draws = Arithmetic(tuple(settings["operators"])), torch.Generator().manual_seed(0)
    texts = {
        "base": task.demonstrations(settings["texts"]["base"], draws, clean=True),
        "sft": task.demonstrations(settings["texts"]["sft"], draws),
    }
    problems = task.problems(settings["problems"], draws, split="test")

    def accuracy(temperature: float) -> float:
        own = torch.Generator().manual_seed(1)
        ways = {"problems": problems, "temperature": temperature, "generator": own}
        return evaluate(policy, task, **ways).accuracy

    begun, clean = time.perf_counter(), 0.0
    config = SFTConfig(**settings["base"], **_schedule(policy), mask_prompt=False)
    for report in sft(policy, texts["base"], config):
        steps, over = report.update, time.perf_counter() - begun > settings["seconds"]["base"]
        if steps % settings["look_every"] == 0 or over or steps == config.steps:
            clean = accuracy(0.0)
        if clean >= settings["base_accuracy"] or over:
            break
    for _ in sft(policy, texts["sft"], SFTConfig(**settings["sft"], bf16=config.bf16)):
        pass
    facts = {
        "pretrained, greedy": clean,
        "imitator, sampled": accuracy(1.0),
        "imitator, greedy": accuracy(0.0),
        "steps": steps,
        "seconds": time.perf_counter() - begun,
        "own weights": float(policy.model.name_or_path == "gpt2"),
    }
    arriving = folder.with_suffix(f".{os.getpid()}.part")
    shutil.rmtree(arriving, ignore_errors=True)
    policy.save(arriving)
    (arriving / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    arriving.rename(folder)


def _first_policy(settings: dict[str, Any], source: str) -> Policy:
    """GPT-2's own weights, or random ones and its tokenizer."""
    device = _device(settings)
    if source == "gpt2" and settings["preset"] == "gpu":
        with suppress(ValueError):  # offline, and the cache has its tokenizer alone
            return load_policy("gpt2", device=device)
    with quietly():
        local = source != "gpt2" or not hub_answers()
        tokenizer = GPT2Tokenizer.from_pretrained(source, local_files_only=local)
    return Policy(random_gpt2(tokenizer, settings["size"], 0), tokenizer, device)


def _schedule(policy: Policy) -> dict[str, Any]:
    """A rate that stays, since nobody knows when pretraining stops."""
    bf16 = policy.device.type == "cuda"
    return {"schedule": "warmup-stable-decay", "betas": (0.9, 0.98), "bf16": bf16}


def _device(settings: dict[str, Any]) -> str | None:
    """The best one there is; the preset "cpu" means what it says."""
    return "cpu" if settings["preset"] == "cpu" else None


def _peak_gigabytes(kind: str) -> float | None:
    """The most memory that this process has had: of tensors on CUDA, else of everything."""
    if kind == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9

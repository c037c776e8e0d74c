"""What the studies that train the book's small models have in common. Not a study itself."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from rlbook import __version__
from rlbook.lm.chat import set_chat_template
from rlbook.lm.heads import ScalarModel
from rlbook.lm.policy import Policy
from rlbook.lm.tokenizers import character_tokenizer
from rlbook.posttrain.packing import Pair
from rlbook.posttrain.sft import SFTConfig, sft

PRESETS = ("cpu", "small")
# 0.02, GPT-2's own spread of initial weights, belongs to its width of 768. A narrower model that
# starts with it takes several times as many steps before it learns anything at all.
SPREAD = 0.8  # divided by the square root of the width


def preset() -> str:
    """RLBOOK_PRESET: "cpu", the models that the book ships, or "small", about 10M parameters."""
    name = os.environ.get("RLBOOK_PRESET", "cpu")
    return "small" if name == "gpu" else name if name in PRESETS else "cpu"


def new_policy(characters: str, size: Mapping[str, int], seed: int) -> Policy:
    """A GPT-2 with random weights that reads characters, on the best device there is.

    Args:
        characters: the alphabet. size: n_layer, n_embd, n_head and n_positions.
    """
    tokenizer = set_chat_template(character_tokenizer(characters, context=size["n_positions"]))
    model = random_gpt2(tokenizer, size, seed)
    accelerated = preset() != "cpu" and torch.cuda.is_available()
    return Policy(model, tokenizer, "cuda" if accelerated else "cpu")


def random_gpt2(
    tokenizer: PreTrainedTokenizerBase, size: Mapping[str, int], seed: int
) -> GPT2LMHeadModel:
    """A GPT-2 without dropout and with random weights, for the tokens of a tokenizer."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=SPREAD / size["n_embd"] ** 0.5,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **size,
    )
    with torch.random.fork_rng():  # transformers draws initial weights from torch's own generator
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


@dataclass(frozen=True)
class Stage:
    """One training run of a policy, and the model that comes out of it.

    Attributes:
        name: "base", "sft": of its settings, its arms and its model, TASK-NAME.
        examples: what it learns from. mask_prompt: whether responses alone count.
        about: what the model is for. data: what the examples are. Both for the card.
    """

    name: str
    examples: Sequence[Pair]
    mask_prompt: bool
    about: str
    data: str


def train_stages(
    task: str,
    policy: Policy,
    stages: Sequence[Stage],
    settings: Mapping[str, Any],
    *,
    seed: int,
    folder: Path,
    curve: Callable[[Policy], Mapping[str, float]],
    final: Callable[[Policy, str], Mapping[str, float]],
) -> dict[str, dict[str, Any]]:
    """Train the stages one after another and write their models TASK-STAGE into the folder.

    Args:
        settings: of the study: settings[stage] are arguments of ``SFTConfig``, and
            settings["x"][stage] the steps at which ``curve`` is measured.
        curve: name → number, along the way. final: the same at the end of the stage named.

    Returns:
        The measures "loss" (nats per token that counts, the mean since the position before),
        "curve" and "final".
    """
    if preset() == "cpu":
        torch.set_num_threads(1)
    measures: dict[str, dict[str, Any]] = {"loss": {}, "curve": {}, "final": {}}
    for stage in stages:
        config = SFTConfig(**settings[stage.name], mask_prompt=stage.mask_prompt, seed=seed)
        losses, seconds, begun = [], 0.0, time.process_time()
        measures["loss"][stage.name] = []
        for report in sft(policy, stage.examples, config):
            losses.append(report["loss"])
            if report.update in settings["x"][stage.name]:
                seconds += time.process_time() - begun
                measures["loss"][stage.name].append(sum(losses) / len(losses))
                for name, value in curve(policy).items():
                    measures["curve"].setdefault(f"{stage.name}, {name}", []).append(value)
                losses, begun = [], time.process_time()
        measured = final(policy, stage.name)
        measures["final"] |= {f"{stage.name}, {name}": value for name, value in measured.items()}
        rows = {
            "Command": f"`{_command(task)}` (its seed {seed})",
            "Learnt from": f"{len(stage.examples):,} {stage.data}",
            "Training": (
                f"{config.steps:,} steps of {config.batch_size} texts, {report.samples:,} tokens, "
                f"{seconds / 60:.1f} minutes of processor time"
            ),
        }
        write_model(policy, folder / f"{task}-{stage.name}", stage.about, rows, measured)
    return measures


def every(steps: int, parts: int) -> list[int]:
    """The steps at which to measure: ``parts`` of them, evenly, the last step included."""
    return [round(steps * (part + 1) / parts) for part in range(parts)]


def write_model(
    model: Policy | ScalarModel,
    folder: Path,
    about: str,
    rows: Mapping[str, str],
    measured: Mapping[str, float],
    *,
    load: str = "policy = load_policy",
) -> None:
    """Write a model, and its card as README.md. ``load``: how a reader gets it back."""
    model.save(folder)
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # they are written for their owner alone
    weights = folder / "model.safetensors"
    shape, writes = model.model.config, isinstance(model, Policy)
    facts = {
        **rows,
        "Model": (
            f"GPT-2 architecture, {shape.n_layer} blocks, {shape.n_embd} wide, {shape.n_head} "
            f"heads, context {shape.n_positions}, {shape.vocab_size} tokens: "
            f"{model.model.num_parameters():,} parameters"
        ),
        "Size": f"{weights.stat().st_size / 1e6:.2f} MB, float32, safetensors",
        "Versions": (
            f"Python {platform.python_version()}, torch {version('torch').partition('+')[0]}, "
            f"transformers {version('transformers')}, rlbook {__version__}"
        ),
        "Date": datetime.now(UTC).date().isoformat(),
    }
    numbers = {name: f"{value:.3f}" for name, value in measured.items()}
    text = (
        f"---\nlicense: mit\npipeline_tag: text-{'generation' if writes else 'classification'}\n"
        f"---\n# {folder.name}\n\n{about}\n\n    {load}({folder.name!r})\n\n"
        f"{_table('', facts)}\n{_table('Measured on held-out problems', numbers)}"
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _command(task: str) -> str:
    if preset() == "cpu":
        return f"rlbook study pretrain-{task}"
    return f"RLBOOK_PRESET={preset()} rlbook study pretrain-{task} --output FOLDER"


def _table(heading: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {heading} | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())]) + "\n"

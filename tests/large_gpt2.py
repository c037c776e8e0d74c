"""GPT-2 124M with random weights, for the tests that need its size; and how they measure."""

import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlbook.lm.gpt2 import SIZES

on_cpu_if_asked = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "RLBOOK_LARGE" not in os.environ, reason="set RLBOOK_LARGE=1 to run GPT-2 124M on the CPU"
    ),
]


def write_gpt2_124m(folder: Path, real_data: Path) -> Path:
    """A folder with random weights and GPT-2's own tokenizer."""
    size = SIZES["124M"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(n_embd=size.d, n_layer=size.n_layer, n_head=size.n_head))
    model.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(real_data / "gpt2-tokenizer" / name, folder)
    return folder


def measured(
    name: str, device: str, work: Callable[[], Any], *, tokens: Callable[[Any], int] | None
) -> Any:
    """Run it, print tokens per second and the peak of memory, return what it returns."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if device == "cuda":
        torch.cuda.synchronize()
    spent = time.perf_counter() - start
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    speed = f"{tokens(result) / spent:10.0f} tokens/s" if tokens else " " * 19
    print(f"\n{device} {name:<18}{spent:8.2f} s {speed} {peak:8.0f} MB at most")
    return result

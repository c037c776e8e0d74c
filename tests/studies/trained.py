"""A tiny study that trains a model, for the tests: the model is a text file.

TRAINED_FAIL raises after the model is written; TRAINED_TEXT is what it holds.
"""

import os
from pathlib import Path
from typing import Any

MODELS = ("tiny-base",)
SEEDS = 2
SETTINGS: dict[str, Any] = {"size": 1}


def run(seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Write a model that names its seed."""
    (folder / "tiny-base").mkdir()
    text = os.environ.get("TRAINED_TEXT", "weights")
    (folder / "tiny-base" / "config.json").write_text(f"{text} of seed {seed}")
    if os.environ.get("TRAINED_FAIL") == str(seed):
        raise ArithmeticError("no luck")
    return {"loss": {"base": float(seed)}}

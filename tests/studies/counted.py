"""A tiny study for the tests.

Every run of a seed leaves a line in the file of COUNTED_LOG: the seed, and the number of the
process.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = 3
SETTINGS: dict[str, Any] = {"length": 4, "x": [1, 2, 3, 4]}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Seeds named in COUNTED_FAIL raise; COUNTED_PAUSE is a pause in seconds."""
    with Path(os.environ["COUNTED_LOG"]).open("a", encoding="utf-8") as log:
        log.write(f"{seed} {os.getpid()}\n")
    if str(seed) in os.environ.get("COUNTED_FAIL", "").split(","):
        raise ArithmeticError(f"no luck with {seed}")
    time.sleep(float(os.environ.get("COUNTED_PAUSE", "0")))
    generator = np.random.default_rng(seed)
    return {
        "curve": {"a": generator.random(SETTINGS["length"]), "b": [seed, 1.0, 2.5, 1 / 3]},
        "number": {"threads": int(os.environ["OMP_NUM_THREADS"]), "big": 123456789.0},
    }

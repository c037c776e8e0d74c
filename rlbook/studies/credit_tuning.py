"""The learning rates of the credit comparison: the same three tries for every arm.

Each arm of `credit-comparison` runs as it does there, on seeds that are not recorded there, with
each of three learning rates; the rate with the best mean accuracy over the run is the one it gets
there. PPO has a second network to tune, and two tries more: half and twice its value network's
rate. (It keeps the middle one there too: the gain of another is less than seeds differ by.)

The arms here are "arm, rate" (and "PPO, λ = 1, 1e-03, value network 4e-03"), the measures
`accuracy` (along the way), `mean` (of it, without the start) and `final`.
"""

from collections.abc import Iterator
from typing import Any

import torch

from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.studies import credit_comparison

SEEDS = 2
SETTINGS: dict[str, Any] = {
    "first_seed": 100,
    "by_updates": [3e-4, 1e-3, 3e-3],
    "ReST-EM": [1e-3, 3e-3, 1e-2],
    "DPO+": [3e-5, 1e-4, 3e-4],
    "value network": {"rate": 1e-3, "tried": [1e-3, 4e-3]},
    "arms": list(credit_comparison.SETTINGS["rates"]),
    "shared": {
        name: value for name, value in credit_comparison.SETTINGS.items() if name != "rates"
    },
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Every arm with every rate."""
    torch.set_num_threads(1)
    shared = SETTINGS["shared"]
    task = Arithmetic.horizon(shared["steps"])
    measures: dict[str, dict[str, Any]] = {"accuracy": {}, "mean": {}, "final": {}}
    for name, arm, rate, settings in tries():
        found = credit_comparison.learn(
            arm, shared["model"], task, rate, SETTINGS["first_seed"] + seed, settings=settings
        )["accuracy"]
        measures["accuracy"][name] = found
        measures["mean"][name] = sum(found[1:]) / len(found[1:])
        measures["final"][name] = found[-1]
    return measures


def tries() -> Iterator[tuple[str, str, float, dict[str, Any]]]:
    """Name, arm, learning rate and settings of each run."""
    for arm in SETTINGS["arms"]:
        for rate in SETTINGS.get(arm, SETTINGS["by_updates"]):
            yield f"{arm}, {rate:.0e}", arm, rate, SETTINGS["shared"]
    value = SETTINGS["value network"]
    for arm in SETTINGS["arms"]:
        for tried in value["tried"] if arm.startswith("PPO") else ():
            settings = SETTINGS["shared"] | {"value_rate": tried}
            name = f"{arm}, {value['rate']:.0e}, value network {tried:.0e}"
            yield name, arm, value["rate"], settings

"""Pictures of group methods: how a batch is cut, and what a group's rewards become."""

from collections.abc import Sequence
from math import comb
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rlbook.functional.group_advantages import (
    dr_grpo_advantages,
    grpo_advantages,
    rloo_advantages,
)
from rlbook.show.plots import CYCLE, STYLE, panels, plot_curves, styled
from rlbook.show.widgets import controlled_figure

METHODS = {"GRPO": grpo_advantages, "Dr. GRPO": dr_grpo_advantages, "RLOO": rloo_advantages}
SHADES = ("#cfe3f1", "#fbe3b4", "#c4e8dc", "#f3d3e3")
MOST = 32  # largest group behind the sliders


@styled
def plot_batch_loop(
    prompts: int, rollouts: int, minis: Sequence[Sequence[int]], micros: Sequence[Sequence[int]]
) -> Figure:
    """Draw a train batch as a grid of responses, cut into mini-batches and micro-batches.

    Args:
        prompts, rollouts: N rows and K columns; the response in row n, column k has number n·K + k.
        minis: the numbers in each mini-batch: one colour each.
        micros: the numbers in each micro-batch: written into the squares as letters.

    Raises ValueError unless both contain every response once.
    """
    B = prompts * rollouts
    for name, parts in (("mini", minis), ("micro", micros)):
        if sorted(i for part in parts for i in part) != list(range(B)):
            raise ValueError(f"the {name}-batches do not hold each of the {B} responses once")
    fig, (ax,) = panels(1, width=4.6 + 0.5 * rollouts, height=1.2 + 0.42 * prompts)
    of_mini = {i: m for m, part in enumerate(minis) for i in part}
    of_micro = {i: m for m, part in enumerate(micros) for i in part}
    for i in range(B):
        n, k = divmod(i, rollouts)
        colour = SHADES[of_mini[i] % len(SHADES)]
        ax.add_patch(Rectangle((k - 0.5, n - 0.5), 1, 1, facecolor=colour, edgecolor="white", lw=2))
        ax.text(k, n, chr(ord("a") + of_micro[i] % 26), ha="center", va="center", size=10)
    for m in range(len(minis)):
        label = f"mini-batch {m + 1}: one optimiser step"
        ax.add_patch(Rectangle((0, 0), 0, 0, facecolor=SHADES[m % len(SHADES)], label=label))
    ax.set(xlim=(-0.5, rollouts - 0.5), ylim=(prompts - 0.5, -0.5))
    ax.set(xlabel="response", ylabel="prompt")
    ax.set_xticks(range(rollouts), range(1, rollouts + 1))
    ax.set_yticks(range(prompts), range(1, prompts + 1))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="letters: micro-batches")
    return fig


def expected_weight(p: float, K: int, method: str) -> float:
    """w in E[step] = w ∇p, for 0/1 rewards that are 1 with probability 0 < p < 1.

    The package's advantages of every group there can be, by its number of right responses.

    Raises ValueError for a method that is not in METHODS.
    """
    if method not in METHODS:
        raise ValueError(f"{method!r} is not one of {', '.join(METHODS)}")
    total = 0.0
    for c in range(1, K):
        chance = comb(K, c) * p**c * (1 - p) ** (K - c)
        A = METHODS[method](group_of(c, K))[0]
        total += chance * (float(A[:c].sum()) / p - float(A[c:].sum()) / (1 - p)) / K
    return total


def group_of(right: int, K: int) -> torch.Tensor:
    """Rewards [1, K] of which so many are 1, these first."""
    return (torch.arange(K) < right).double()[None]


@styled
def plot_weights(sizes: Sequence[int], *, ax: Axes | None = None) -> Figure:
    """What a prompt weighs in GRPO's step over how often it is solved, for several group sizes."""
    p = np.linspace(0.02, 0.98, 97)
    curves = {f"GRPO, K = {K}": [expected_weight(x, K, "GRPO") for x in p] for K in sizes}
    curves["K → ∞: 1/√(p(1-p))"] = 1 / np.sqrt(p * (1 - p))
    curves["RLOO"] = np.ones_like(p)
    labels = {"xlabel": "p, the share of right responses", "ylabel": "weight of ∇p"}
    fig = plot_curves(curves, x=p, ax=ax, **labels)
    fig.axes[0].set_ylim(0, 5)
    return fig


def draw_group(*, K: int, right: int) -> tuple[Figure, str]:
    """A group with 0/1 rewards: its advantages by three methods, and what its prompt weighs."""
    right = min(right, K)
    rewards = group_of(right, K)
    with plt.rc_context(STYLE):
        fig, (bars, curve) = panels(2, width=4.8, height=3.4)
        for m, (name, method) in enumerate(METHODS.items()):
            A = method(rewards)[0].numpy()
            bars.bar(np.arange(K) + 0.27 * (m - 1), A, width=0.27, color=CYCLE[m], label=name)
        bars.axhline(0.0, color="#777777", linewidth=0.8)
        bars.set(xlabel="response, the right ones first", ylabel="advantage", ylim=(-3.2, 6.2))
        bars.legend(loc="upper right")
        p = np.linspace(0.02, 0.98, 49)
        for name, colour in (("GRPO", CYCLE[0]), ("RLOO", CYCLE[2])):
            height = [expected_weight(x, K, name) for x in p]
            curve.plot(p, height, color=colour, label=name)
        curve.axvline(right / K, color="#777777", linewidth=0.8)
        curve.set(xlabel="p, the share of right responses", ylabel="weight of ∇p", ylim=(0, 5))
        curve.legend(loc="upper right")
    if right in (0, K):
        return fig, f"{right} of {K} right: no spread, and no method learns from this group"
    highest = {name: float(method(rewards)[0, 0]) for name, method in METHODS.items()}
    words = ", ".join(f"{name} {value:.2f}" for name, value in highest.items())
    return fig, f"{right} of {K} right; advantage of a right one: {words}"


def group_sliders(*, K: int = 8, right: int = 2) -> ipywidgets.Widget:
    """Sliders for the size of a group and for how many of its responses are right."""

    def slider(name: str, value: int, low: int, high: int) -> Any:
        return ipywidgets.IntSlider(
            value=value, min=low, max=high, description=name, continuous_update=False
        )

    size, solved = slider("K", K, 2, MOST), slider("right", right, 0, K)
    size.observe(lambda change: setattr(solved, "max", change["new"]), names="value")
    return controlled_figure(draw_group, K=size, right=solved)

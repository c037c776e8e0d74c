"""Figures of chapter 20: credit along one response, and what kinds of credit cost in noise."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rlbook.show.plots import (
    BLUE,
    CYCLE,
    DASHES,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    STYLE,
    panels,
    plot_curves,
    styled,
)
from rlbook.show.widgets import controlled_figure
from rlbook.statistics import mean_interval
from rlbook.studies.exact_credit import (
    KINDS,
    Enumerated,
    GradientNoise,
    critic_of,
    with_group,
    with_rollouts,
    with_values,
    world,
)

LONGEST = 8  # steps behind the sliders: 2⁸ responses
WIDGET_GROUP = 8


@styled
def plot_step_map(
    tokens: Sequence[str],
    rows: Mapping[str, Sequence[float]],
    *,
    starts: Sequence[int],
    wrong: int | None = None,
    signed: bool = True,
    colour_label: str = "advantage",
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Numbers of each token of one response as colours, a row each, all on one scale.

    Lines part the steps; each step's first number is written into it.

    Args:
        rows: name → one number per token.
        starts: the first token of each step. wrong: the step to be framed.
        signed: colours that part at 0; False: dark to bright, from 0 to 1.

    Raises ValueError for a row that has not one number per token.
    """
    T = len(tokens)
    for name, numbers in rows.items():
        if len(numbers) != T:
            raise ValueError(f"row {name!r} has {len(numbers)} numbers for {T} tokens")
    grid = np.array([list(numbers) for numbers in rows.values()], float)
    reach = max(float(np.abs(grid).max()), 1e-9)
    scale = {"cmap": "PRGn", "vmin": -reach, "vmax": reach} if signed else {"vmin": 0, "vmax": 1}
    if ax is None:
        ax = panels(1, width=3.2 + 0.34 * T, height=1.1 + 0.42 * len(rows))[1][0]
    picture = ax.imshow(grid, aspect="auto", **scale)
    ax.figure.colorbar(picture, ax=ax, label=colour_label)
    for row, numbers in enumerate(grid):
        for start, end in zip(starts, [*starts[1:], T], strict=True):
            red, green, blue, _ = picture.cmap(picture.norm(numbers[start]))
            ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
            number = f"{round(numbers[start], 2) + 0.0:.2f}"  # + 0.0: no -0.00
            middle = (start + end - 1) / 2
            ax.text(middle, row, number, ha="center", va="center", color=ink, size=9)
    for start in starts[1:]:
        ax.axvline(start - 0.5, color="#777777", linewidth=0.8)
    if wrong is not None:
        first, last = starts[wrong], [*starts[1:], T][wrong]
        frame = Rectangle((first - 0.5, -0.5), last - first, len(rows), fill=False, edgecolor=RED)
        frame.set_linewidth(3)
        frame.set_clip_on(False)
        ax.add_patch(frame)
    ax.set_xticks(range(T), list(tokens))
    ax.set_yticks(range(len(rows)), list(rows))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(title)
    return ax.figure


@styled
def plot_values(
    tokens: Sequence[str],
    curves: Mapping[str, Sequence[float]],
    *,
    starts: Sequence[int],
    wrong: int | None = None,
    ylabel: str = "chance of a right answer",
    ax: Axes | None = None,
) -> Figure:
    """What somebody believes before each token, as steps of a stair; the wrong step is shaded."""
    if ax is None:
        ax = panels(1, width=3.2 + 0.34 * len(tokens), height=3.0)[1][0]
    plot_curves(curves, x=np.arange(len(tokens)), xlabel="", ylabel=ylabel, ax=ax)
    for line in ax.lines:
        line.set_drawstyle("steps-mid")
    for start in starts[1:]:
        ax.axvline(start - 0.5, color="#777777", linewidth=0.8)
    if wrong is not None:
        first, last = starts[wrong], [*starts[1:], len(tokens)][wrong]
        ax.axvspan(first - 0.5, last - 0.5, color=RED, alpha=0.12, linewidth=0)
    ax.set_xticks(range(len(tokens)), list(tokens))
    ax.set(xlim=(-0.5, len(tokens) - 0.5), ylim=(-0.05, 1.05))
    return ax.figure


@styled
def plot_noise(
    horizons: Sequence[int], found: Sequence[Mapping[str, GradientNoise]], names: Sequence[str]
) -> Figure:
    """Bias and noise of several methods' gradients over the horizon.

    Args:
        found: for each horizon, name → noise, as ``compared`` gives it.
        names: which of them to draw.
    """
    fig, (left, right) = panels(2, width=5.4, height=3.6)
    x = np.array(horizons, float)
    bias = {name: [100 * row[name].bias for row in found] for name in names}
    noise = {name: [row[name].deviation for row in found] for name in names}
    plot_curves(bias, x=x, xlabel="T, steps", ylabel="bias, % of the mean gradient", ax=left)
    plot_curves(noise, x=x, xlabel="T, steps", ylabel="standard deviation", ax=right)
    left.get_legend().remove()
    for ax in (left, right):
        ax.set_ylim(0)
        ax.set_xticks(list(horizons))
    return fig


# --- the trade-off behind the sliders ----------------------------------------------------------


@styled
def plot_accuracy_over(
    accuracy: Mapping[str, np.ndarray], spent: Mapping[str, Mapping[str, np.ndarray]]
) -> Figure:
    """Draw accuracy over each thing that training spends: means over seeds, with 95% intervals.

    Args:
        accuracy: arm → [seeds, points].
        spent: axis label → arm → [seeds, points], of the same points.
    """
    fig, axes = panels(len(spent), width=3.4, height=3.4)
    for ax, (label, arms) in zip(axes, spent.items(), strict=True):
        for i, (arm, heights) in enumerate(accuracy.items()):
            found = mean_interval(np.asarray(heights, float))
            error = [found.mean - found.low, found.high - found.mean]
            x = np.asarray(arms[arm], float).mean(axis=0)
            ax.errorbar(x, found.mean, yerr=error, color=CYCLE[i % 6], linestyle=DASHES[i % 6],
                        linewidth=1.4, elinewidth=0.6, label=arm)  # fmt: skip
        ax.set(xlabel=label, ylim=(None, 1.02))
        ax.grid(color="#dddddd", linewidth=0.8)
    axes[0].set_ylabel("held-out accuracy")
    axes[-1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return fig


def spent(found: GradientNoise, length: int, group: int, price: float) -> float:
    """What an update costs: generated tokens, and learnt ones at so many generated ones each."""
    return found.tokens + price * length * group


def draw_trade_off(*, kind: str, K: int, T: int, error: float, price: float) -> tuple[Figure, str]:
    """Noise per update, and noise for equal cost, of VinePPO at this K and of three rivals."""
    horizons = range(1, LONGEST + 1)
    curves: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    for steps in horizons:
        w = _world(steps, kind)
        for name, found in _rivals(w, K, error).items():
            curves.setdefault(name, []).append(found.deviation)
            cost = spent(found, steps, WIDGET_GROUP, price) / (WIDGET_GROUP * steps)
            costs.setdefault(name, []).append(found.deviation * cost**0.5)
    with plt.rc_context(STYLE):
        fig, axes = panels(2, width=5.2, height=3.4)
        labels = ("noise of an update", "noise for equal cost")
        for ax, rows, label in zip(axes, (curves, costs), labels, strict=True):
            plot_curves(rows, x=np.array(horizons, float), xlabel="T, steps", ylabel=label, ax=ax)
            for line, colour in zip(ax.lines, (BLUE, ORANGE, GREEN, PURPLE), strict=True):
                line.set_color(colour)
            ax.axvline(T, color="#777777", linewidth=0.8)
            ax.set_ylim(0)
            ax.get_legend().remove()
        handles = axes[1].lines[:4]
        axes[1].legend(handles, list(curves), loc="upper left", bbox_to_anchor=(1.0, 1.0))
    at = {name: (curves[name][T - 1], costs[name][T - 1]) for name in curves}
    real = [name for name in at if "∞" not in name]
    best, cheapest = (min(real, key=lambda name: at[name][i]) for i in (0, 1))
    w = _world(T, kind)
    tokens = with_rollouts(w, rollouts=K, group=WIDGET_GROUP).tokens / (WIDGET_GROUP * T)
    return fig, (
        f"T = {T}: VinePPO with K = {K} generates {tokens:.1f} tokens for each that is learnt "
        f"from; least noise: {best}; for equal cost: {cheapest}"
    )


def trade_off_sliders(*, K: int = 3, T: int = 6, price: float = 1.0) -> ipywidgets.Widget:
    """Sliders for K, the horizon, the critic's error and the price of learning from a token."""

    def whole(name: str, value: int, most: int) -> Any:
        return ipywidgets.IntSlider(
            value=value, min=1, max=most, description=name, continuous_update=False
        )

    return controlled_figure(
        draw_trade_off,
        kind=ipywidgets.Dropdown(options=list(KINDS), value=KINDS[0], description="world"),
        K=whole("K", K, 32),
        T=whole("T", T, LONGEST),
        error=ipywidgets.FloatSlider(
            value=0.11, min=0.0, max=0.5, step=0.01, description="critic off", readout_format=".2f",
            continuous_update=False,
        ),
        price=ipywidgets.FloatSlider(
            value=price, min=0.0, max=100.0, step=1.0, description="price",
            continuous_update=False,
        ),
    )  # fmt: skip


def _rivals(w: Enumerated, K: int, error: float) -> dict[str, GradientNoise]:
    critic, G = critic_of(w, error), WIDGET_GROUP
    return {
        f"VinePPO, K = {K}": with_rollouts(w, rollouts=K, group=G),
        "RLOO": with_group(w, "RLOO", group=G),
        "PPO, λ = 1": with_values(w, critic, lam=1.0, group=G),
        "VinePPO, K = ∞ (for free)": with_values(w, w.V, lam=0.0, group=G),
    }


_world = functools.cache(world)  # the sliders change other things

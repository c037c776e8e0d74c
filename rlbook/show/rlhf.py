"""Pictures of RLHF: its four models, one response token by token, logs, and score over KL."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from rlbook.functional.kl import per_token_kl_reward
from rlbook.functional.returns import gae
from rlbook.report import StepReport
from rlbook.show.plots import BLUE, CYCLE, DASHES, GREEN, ORANGE, STYLE, panels, styled
from rlbook.show.text import plot_tokens
from rlbook.show.widgets import controlled_figure
from rlbook.statistics import mean_interval

FROZEN, DATA = "#dddddd", "white"
STYLES = "os^Dv"
# name → (centre, colour, what is written in the box)
BOXES = {
    "prompt": ((0.8, 2.0), DATA, "prompts"),
    "policy": ((3.0, 2.0), BLUE, "policy π\ntrained"),
    "response": ((5.2, 2.0), DATA, "responses,\nlog π_old"),
    "reward": ((7.6, 3.3), FROZEN, "reward model\nor verifier\nfrozen"),
    "reference": ((7.6, 2.0), FROZEN, "reference π_ref\nfrozen"),
    "value": ((7.6, 0.7), ORANGE, "value network V\ntrained"),
    "tokens": ((10.3, 2.65), DATA, "reward per token\n-β log(π_old/π_ref)\nand R at the end"),
    "gae": ((12.6, 1.7), GREEN, "GAE\n(chapter 08)"),
}
# from, to, what flows, and how far from the middle of the arrow that is written
FLOWS = [
    ("prompt", "policy", "", (0.0, 0.0)),
    ("policy", "response", "", (0.0, 0.0)),
    ("response", "reward", "", (0.0, 0.0)),
    ("response", "reference", "", (0.0, 0.0)),
    ("response", "value", "", (0.0, 0.0)),
    ("reward", "tokens", "R", (0.1, 0.12)),
    ("reference", "tokens", "log π_ref", (0.45, -0.22)),
    ("tokens", "gae", "r", (0.12, 0.1)),
    ("value", "gae", "V", (0.0, 0.12)),
]


# --- the whole in one picture ----------------------------------------------------------------


@styled
def plot_models(*, ax: Axes | None = None) -> Figure:
    """Draw RLHF's four models and what flows between them in one update."""
    ax = panels(1, width=11.0, height=4.4)[1][0] if ax is None else ax
    half = {name: (0.75 if name in ("prompt", "response", "gae") else 1.05) for name in BOXES}
    for name, ((x, y), colour, words) in BOXES.items():
        ax.add_patch(
            FancyBboxPatch((x - half[name], y - 0.42), 2 * half[name], 0.84, facecolor=colour,
                           edgecolor="#555555", boxstyle="round,pad=0.02,rounding_size=0.12")
        )  # fmt: skip
        ink = "white" if colour in (BLUE, GREEN) else "black"
        ax.text(x, y, words, ha="center", va="center", color=ink, size=9)
    for start, end, words, shift in FLOWS:
        (x0, y0), (x1, y1) = BOXES[start][0], BOXES[end][0]
        _arrow(ax, (x0 + half[start] + 0.04, y0), (x1 - half[end] - 0.04, y1), words, shift)
    bottom = -0.45
    for name, words, x in (("policy", "advantages A: PPO's clip (chapter 09)", 5.0),
                           ("value", "targets A + V: squared error", 10.2)):  # fmt: skip
        (x1, y1), colour = BOXES[name][0], BOXES[name][1]
        ax.plot([12.6, 12.6, x1], [1.28, bottom, bottom], color=colour, lw=1.8)
        _arrow(ax, (x1, bottom), (x1, y1 - 0.46), color=colour)
        ax.text(x, bottom - 0.26, words, ha="center", color="black", size=9)
    ax.set(xlim=(-0.1, 13.5), ylim=(-1.0, 3.9))
    ax.set_axis_off()
    return ax.figure


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    words: str = "",
    shift: tuple[float, float] = (0.0, 0.0),
    *,
    color: str = "#555555",
) -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=color))
    if words:
        x, y = (np.array(start) + np.array(end)) / 2
        ax.text(x + shift[0], y + shift[1], words, ha="center", va="center", size=9)


# --- one response ----------------------------------------------------------------------------


@styled
def plot_ledger(
    tokens: Sequence[str],
    rows: Mapping[str, Sequence[float]],
    *,
    decimals: int = 2,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw what belongs to each token of one response: one row a quantity, each on its own scale.

    Purple is below 0, green above; the strongest colour is the row's largest size. A NaN is blank.

    Raises ValueError for a row that has not one number per token.
    """
    for name, numbers in rows.items():
        if len(numbers) != len(tokens):
            raise ValueError(f"row {name!r} has {len(numbers)} numbers for {len(tokens)} tokens")
    size = {"width": 2.4 + 0.5 * len(tokens), "height": 0.7 + 0.42 * len(rows)}
    ax = panels(1, **size)[1][0] if ax is None else ax
    grid = np.array([list(numbers) for numbers in rows.values()], float)
    reach = np.nanmax(np.abs(grid), axis=1, keepdims=True)
    shares = grid / np.where(reach > 0, reach, 1.0)
    ax.imshow(shares, cmap="PRGn", vmin=-1.25, vmax=1.25, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            ink = "white" if abs(shares[row, column]) > 0.85 else "black"
            number = f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0: no -0.00
            ax.text(column, row, number, ha="center", va="center", color=ink, size=8)
    ax.set_xticks(range(len(tokens)), list(tokens))
    ax.set_yticks(range(len(rows)), list(rows))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_xlabel(title)
    ax.spines[:].set_visible(False)
    return ax.figure


def credit(
    log_ratios: Sequence[float],
    values: Sequence[float],
    score: float,
    *,
    lam: float,
    beta: float,
) -> dict[str, list[float]]:
    """Rewards and advantages of the tokens of one response.

    Args:
        log_ratios: log π - log π_ref of each token. values: V before each token. score: R.
    """
    ratios, V = (torch.tensor(list(row)).double()[None] for row in (log_ratios, values))
    real = torch.ones_like(V, dtype=torch.bool)
    last = torch.arange(V.shape[1])[None] == V.shape[1] - 1
    rewards = per_token_kl_reward(
        torch.tensor([score], dtype=torch.float64), ratios, torch.zeros_like(V), real, beta=beta
    )
    after = torch.where(last, 0.0, V.roll(-1, dims=1))
    flags = {"terminated": last, "ended": last}
    advantages = gae(rewards, V, after, gamma=1.0, lam=lam, **flags)
    return {"reward": rewards[0].tolist(), "advantage": advantages[0].tolist()}


def draw_credit(
    tokens: Sequence[str],
    log_ratios: Sequence[float],
    values: Sequence[float],
    score: float,
    *,
    lam: float,
    beta: float,
) -> tuple[Figure, str]:
    """Rewards and advantages of a response's tokens as colours, at one λ and one β."""
    found = credit(log_ratios, values, score, lam=lam, beta=beta)
    with plt.rc_context(STYLE):
        fig = plot_tokens(
            [tokens] * 2, list(found.values()), names=list(found), colour_label="units of reward"
        )
    paid, A = sum(found["reward"]), found["advantage"]
    lowest = int(np.argmin(A))
    return fig, (
        f"λ {lam:.2f}, β {beta:.2f}: sum of rewards {paid:.2f}; lowest advantage {A[lowest]:.2f} "
        f"at token {lowest + 1}, {tokens[lowest]!r}"
    )


def credit_sliders(
    tokens: Sequence[str],
    log_ratios: Sequence[float],
    values: Sequence[float],
    score: float,
    *,
    lam: float = 0.95,
    beta: float = 0.05,
) -> ipywidgets.Widget:
    """Sliders for λ and β; the rewards and advantages of one response follow them."""

    def slider(value: float, most: float, name: str) -> Any:
        return ipywidgets.FloatSlider(
            value=value, min=0.0, max=most, step=0.01, description=name, continuous_update=False
        )

    def draw(lam: float, beta: float) -> tuple[Figure, str]:
        return draw_credit(tokens, log_ratios, values, score, lam=lam, beta=beta)

    return controlled_figure(draw, lam=slider(lam, 1.0, "λ"), beta=slider(beta, 0.5, "β"))


# --- logs ------------------------------------------------------------------------------------


@styled
def plot_log(runs: Mapping[str, Sequence[StepReport]], metrics: Sequence[str]) -> Figure:
    """Draw metrics of training runs over the updates, one panel each."""
    fig, axes = panels(len(metrics), columns=4, width=2.9, height=2.3)
    for ax, metric in zip(axes, metrics, strict=True):
        for i, (name, reports) in enumerate(runs.items()):
            x = [report.update for report in reports]
            y = [report[metric] for report in reports]
            ax.plot(x, y, color=CYCLE[i % 6], linestyle=DASHES[i % 6], label=name)
        ax.set(title=metric, xlabel="update")
        ax.grid(axis="y", color="#dddddd", linewidth=0.8)
    if len(runs) > 1:
        axes[0].legend(fontsize=9)
    return fig


@styled
def plot_before_after(
    measures: Mapping[str, Mapping[str, Float[np.ndarray, "seeds 2"]]],
) -> Figure:
    """Draw what training changed: arrows from before to after, with 95% intervals of the means.

    Args:
        measures: measure → arm → (before, after) of each seed.
    """
    fig, axes = panels(len(measures), width=3.6, height=3.0)
    for ax, (measure, arms) in zip(axes, measures.items(), strict=True):
        for i, (_, pairs) in enumerate(arms.items()):
            found = mean_interval(np.asarray(pairs, float))
            arrow = {"arrowstyle": "-|>", "color": CYCLE[i % 6], "lw": 2}
            ax.annotate("", (found.mean[1], i), (found.mean[0], i), arrowprops=arrow)
            for j, (marker, place) in enumerate((("o", 0.18), ("s", -0.18))):
                error = np.array([[found.mean[j] - found.low[j]], [found.high[j] - found.mean[j]]])
                fill = CYCLE[i % 6] if j else "white"
                ax.errorbar([found.mean[j]], [i + place], xerr=error, fmt=marker, mfc=fill,
                            color=CYCLE[i % 6], capsize=3)  # fmt: skip
        ax.set(title=measure, xlim=(0.0, 1.05), ylim=(len(arms) - 0.4, -0.6), xlabel="accuracy")
        ax.set_yticks(range(len(arms)), list(arms) if ax is axes[0] else [""] * len(arms))
        ax.grid(axis="x", color="#dddddd", linewidth=0.8)
    return fig


# --- score over KL ---------------------------------------------------------------------------


@styled
def plot_score_over_kl(
    kl: Mapping[str, Float[np.ndarray, "seeds n"]],
    scores: Mapping[str, Mapping[str, Float[np.ndarray, "seeds n"]]],
) -> Figure:
    """Draw scores over the KL that they cost, means over seeds with 95% intervals.

    The axis of the KL is stretched as its square root: Gao et al. (2023) use √KL as the distance.

    Args:
        kl: arm → nats per response. scores: panel → arm → scores at the same points.
    """
    fig, axes = panels(len(scores), width=5.2, height=3.9)
    farthest = max(np.asarray(x).mean(axis=0).max() for x in kl.values())
    for ax, (title, arms) in zip(axes, scores.items(), strict=True):
        for i, (arm, heights) in enumerate(arms.items()):
            found = mean_interval(np.asarray(heights, float))
            x = np.clip(np.asarray(kl[arm], float).mean(axis=0), 0.0, None)
            error = [found.mean - found.low, found.high - found.mean]
            look = {"marker": STYLES[(i + i // 6) % 5], "linestyle": DASHES[(i + i // 6) % 6]}
            ax.errorbar(x, found.mean, yerr=error, color=CYCLE[i % 6], linewidth=1.2, markersize=5,
                        elinewidth=0.7, label=arm, **look)  # fmt: skip
        ax.set_xscale("function", functions=(np.sqrt, np.square))
        ticks = [t for t in (0, 1, 4, 10, 25, 50, 100, 200) if t <= max(1.1 * farthest, 1)]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set(title=title, xlim=(0.0, 1.1 * farthest), ylabel="score in points",
               xlabel="KL(π‖ref) in nats per response (axis: its square root)")  # fmt: skip
        ax.grid(color="#dddddd", linewidth=0.8)
    axes[-1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return fig


# --- memory ----------------------------------------------------------------------------------


@styled
def plot_memory(settings: Mapping[str, Mapping[str, float]], *, ax: Axes | None = None) -> Figure:
    """Draw stacked bars: what lies in memory, in gigabytes, under each setting."""
    ax = panels(1, width=7.6, height=0.9 + 0.5 * len(settings))[1][0] if ax is None else ax
    left = np.zeros(len(settings))
    for i, part in enumerate(next(iter(settings.values()))):
        sizes = np.array([parts[part] for parts in settings.values()])
        ax.barh(range(len(settings)), sizes, left=left, color=CYCLE[i % 6], label=part)
        left += sizes
    for row, total in enumerate(left):
        ax.text(total, row, f" {total:.1f}", va="center", size=9)
    ax.set_yticks(range(len(settings)), list(settings))
    ax.invert_yaxis()
    ax.set(xlabel="gigabytes", xlim=(0.0, 1.12 * left.max()))
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    return ax.figure

"""Pictures of imitation: who says what, texts packed into rows, the ceiling of an imitator."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.task import Problem
from rlbook.posttrain.packing import Rows
from rlbook.show.plots import BLUE, CYCLE, ORANGE, STYLE, panels, plot_curves, styled
from rlbook.show.widgets import controlled_figure

WAYS = ("sampled", "greedy", "majority")  # of asking a demonstrator, or the imitator
SPEAKERS = {"template": "#dddddd", "user": ORANGE, "policy": BLUE}
NARROWEST = 9  # characters' room that a short segment gets
PADDING, FAINT = "#f4f4f4", 0.35
MOST = {"bias": 1.0, "noise": 0.9}  # with noise 1 no digit is likelier than another


# --- a conversation --------------------------------------------------------------------------


@styled
def plot_turns(segments: Sequence[tuple[str, str]], *, ax: Axes | None = None) -> Figure:
    """Draw a conversation as one strip, coloured by who wrote each piece of it.

    Args:
        segments: (text, speaker) one after another; speakers are "template", "user", "policy".

    Raises ValueError for an unknown speaker.
    """
    for text, speaker in segments:
        if speaker not in SPEAKERS:
            raise ValueError(f"{text!r} is said by {speaker!r}: use one of {', '.join(SPEAKERS)}")
    widths = [max(len(text), NARROWEST) + 2 for text, _ in segments]
    ax = panels(1, width=max(0.085 * sum(widths), 5.0), height=1.5)[1][0] if ax is None else ax
    left = 0
    for (text, speaker), width in zip(segments, widths, strict=True):
        colour = SPEAKERS[speaker]
        ax.add_patch(Rectangle((left, 0), width, 1, facecolor=colour, edgecolor="white", lw=2))
        ink = "white" if speaker == "policy" else "black"
        ax.text(left + width / 2, 0.5, text, ha="center", va="center", color=ink, size=8,
                family="monospace")  # fmt: skip
        left += width
    for speaker in dict.fromkeys(speaker for _, speaker in segments):
        ax.add_patch(Rectangle((0, 0), 0, 0, facecolor=SPEAKERS[speaker], label=speaker))
    ax.legend(loc="upper left", bbox_to_anchor=(0.0, 1.45), ncols=3)
    ax.set(xlim=(0, left), ylim=(0, 1))
    ax.set_axis_off()
    return ax.figure


# --- rows ------------------------------------------------------------------------------------


@styled
def plot_rows(
    rows: Rows, tokens: Sequence[str], *, title: str = "", ax: Axes | None = None
) -> Figure:
    """Draw rows of texts cell by cell: a colour for each text, strong where a token is learnt.

    Below each token stands its position. Padding is empty.

    Args:
        tokens: what to write for each token id [V].
    """
    R, L = rows.ids.shape
    ax = panels(1, width=1.2 + 0.36 * L, height=0.9 + 0.5 * R)[1][0] if ax is None else ax
    for r in range(R):
        for c in range(L):
            number = int(rows.text[r, c])
            colour = PADDING if number < 0 else CYCLE[(r + number) % len(CYCLE)]
            strong = number < 0 or bool(rows.learnt[r, c])
            ax.add_patch(
                Rectangle((c - 0.5, r - 0.5), 1, 1, facecolor=colour, edgecolor="white",
                          alpha=1.0 if strong else FAINT)
            )  # fmt: skip
            if number < 0:
                continue
            red, green, blue = to_rgb(colour)
            dark = strong and 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            ink = "white" if dark else "black"
            ax.text(c, r - 0.1, tokens[int(rows.ids[r, c])], ha="center", va="center", color=ink,
                    weight="bold")  # fmt: skip
            ax.text(c, r + 0.32, str(int(rows.position_ids[r, c])), ha="center", va="center",
                    color=ink, size=6)  # fmt: skip
    ax.set(xlim=(-0.5, L - 0.5), ylim=(R - 0.5, -0.5), xlabel="cell", title=title)
    ax.set_xticks(range(0, L, 2))
    ax.set_yticks(range(R), [f"row {r + 1}" for r in range(R)])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax.figure


@styled
def plot_attention_masks(masks: Mapping[str, Any]) -> Figure:
    """Draw attention masks [L, L] side by side: dark where position i may look at position j."""
    fig, axes = panels(len(masks), width=3.2, height=3.4)
    for ax, (name, mask) in zip(axes, masks.items(), strict=True):
        shown = np.asarray(mask, float)
        ax.imshow(shown, cmap="Blues", vmin=0.0, vmax=1.4, interpolation="nearest")
        ax.set(title=name, xlabel="is looked at (j)", ylabel="looks (i)")
        ax.set_xticks(np.arange(len(shown) + 1) - 0.5, minor=True)
        ax.set_yticks(np.arange(len(shown) + 1) - 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=0.8)
        ax.tick_params(which="minor", length=0)
    return fig


# --- the ceiling -----------------------------------------------------------------------------


@styled
def plot_ceiling(
    measured: Mapping[str, Mapping[str, tuple[float, float, float]]],
    ceilings: Mapping[str, float],
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draw accuracies with their intervals, and what the demonstrators reach as dotted lines.

    Args:
        measured: model → way of asking → (accuracy, low, high).
        ceilings: way of asking → the demonstrators' exact accuracy; ways without one have no line.
    """
    ax = panels(1, width=6.8, height=3.6)[1][0] if ax is None else ax
    ways = list(next(iter(measured.values())))
    for m, (model, found) in enumerate(measured.items()):
        places = np.arange(len(ways)) + 0.16 * (m - (len(measured) - 1) / 2)
        middle, low, high = np.array([found[way] for way in ways]).T
        ax.errorbar(places, middle, yerr=[middle - low, high - middle], fmt="os^D"[m % 4],
                    color=CYCLE[m], capsize=4, label=model)  # fmt: skip
    for way, height in ceilings.items():
        place = ways.index(way)
        label = "demonstrators, exactly" if way == next(iter(ceilings)) else None
        ax.plot([place - 0.35, place + 0.35], [height] * 2, color="#555555", linestyle=":",
                label=label)  # fmt: skip
    ax.set_xticks(range(len(ways)), ways)
    ax.set(ylim=(0.0, 1.05), ylabel="accuracy")
    ax.grid(axis="y", color="#dddddd", linewidth=0.8)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax.figure


def ceilings(problems: Sequence[Problem], *, bias: float, noise: float) -> dict[str, float]:
    """The demonstrators' exact accuracy on these problems, for each of WAYS.

    "majority" is that of infinitely many votes: the likeliest answer.
    """
    task = Arithmetic(bias=bias, noise=noise)
    return {way: float(task.demonstrator_accuracy(problems, how=way).mean()) for way in WAYS}


def draw_ceilings(problems: Sequence[Problem], *, bias: float, noise: float) -> tuple[Figure, str]:
    """Ceilings over the bias at one noise, with a mark at one bias; and over the noise."""
    with plt.rc_context(STYLE):
        fig, axes = panels(2, width=4.6, height=3.5)
        for ax, moving, label in zip(
            axes, ("bias", "noise"), ("bias (per * step)", "noise (per step)"), strict=True
        ):
            fixed = {"bias": bias, "noise": noise}
            grid = np.linspace(0.0, MOST[moving], 11)
            if moving == "bias":
                grid = np.insert(grid, 6, 0.51)  # just above one half greedy decoding falls
            found = [ceilings(problems, **(fixed | {moving: float(x)})) for x in grid]
            curves = {way: [row[way] for row in found] for way in WAYS}
            plot_curves(curves, x=grid, xlabel=label, ylabel="accuracy of the imitator", ax=ax)
            other = "noise" if moving == "bias" else "bias"
            ax.set(ylim=(0.0, 1.05), title=f"{other} {fixed[other]:.2f}")
            ax.axvline(fixed[moving], color="#777777", linewidth=0.8)
            ax.get_legend().remove()
        axes[0].legend(loc="lower left")
    now = ceilings(problems, bias=bias, noise=noise)
    words = ", ".join(f"{way} {value:.3f}" for way, value in now.items())
    return fig, f"bias {bias:.2f}, noise {noise:.2f}: {words}"


def ceiling_sliders(
    problems: Sequence[Problem], *, bias: float = 0.7, noise: float = 0.03
) -> ipywidgets.Widget:
    """Sliders for the demonstrators' bias and noise; the imitator's exact ceilings follow."""

    def slider(name: str, value: float) -> Any:
        return ipywidgets.FloatSlider(
            value=value,
            min=0.0,
            max=MOST[name],
            step=0.01,
            description=name,
            continuous_update=False,
        )

    def draw(bias: float, noise: float) -> tuple[Figure, str]:
        return draw_ceilings(problems, bias=bias, noise=noise)

    return controlled_figure(draw, bias=slider("bias", bias), noise=slider("noise", noise))

"""Pictures of reward models: choices from differences, calibration, and a reward that is fooled."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlbook.show.plots import CYCLE, STYLE, panels, plot_bands, plot_curves, styled
from rlbook.show.widgets import controlled_figure


def choice_probability(difference: Any, temperature: float) -> Any:
    """How often the better of two is chosen, σ(difference / temperature)."""
    return 1.0 / (1.0 + np.exp(-np.asarray(difference, float) / temperature))


def ceiling_of(differences: Any, temperature: float) -> float:
    """The accuracy of a perfect scorer on pairs with these differences: mean max(p, 1 - p)."""
    p = choice_probability(differences, temperature)
    return float(np.maximum(p, 1.0 - p).mean())


def draw_choices(differences: Sequence[float], *, temperature: float) -> tuple[Figure, str]:
    """σ(d / temperature) over the difference d; the differences of real pairs; their ceiling."""
    edge = max(4.0, float(np.abs(differences).max()))
    d = np.linspace(-edge, edge, 161)
    with plt.rc_context(STYLE):
        fig, axes = panels(2, width=4.4, height=3.3)
        plot_curves({"p": choice_probability(d, temperature)}, x=d, ylabel="Pr(first chosen)",
                    xlabel="difference of utilities (points)", ax=axes[0])  # fmt: skip
        axes[0].set_ylim(0.0, 1.02)
        scale = np.linspace(0.1, 3.0, 59)
        heights = [ceiling_of(differences, t) for t in scale]
        plot_curves({"ceiling": heights}, x=scale, xlabel="temperature (points)",
                    ylabel="noise ceiling", ax=axes[1])  # fmt: skip
        axes[1].plot([temperature], [ceiling_of(differences, temperature)], "o", color=CYCLE[1])
        axes[1].set_ylim(0.5, 1.02)
    point = float(choice_probability(1.0, temperature))
    words = (
        f"temperature {temperature:.1f}: one point better wins {point:.2f} of the time; "
        f"noise ceiling {ceiling_of(differences, temperature):.3f}"
    )
    return fig, words


def choice_slider(differences: Sequence[float], *, temperature: float = 0.7) -> ipywidgets.Widget:
    """A slider for the labellers' temperature; choices and ceiling follow."""
    slider = ipywidgets.FloatSlider(
        value=temperature, min=0.1, max=3.0, step=0.1, description="temperature",
        continuous_update=False,
    )  # fmt: skip

    def draw(temperature: float) -> tuple[Figure, str]:
        return draw_choices(differences, temperature=temperature)

    return controlled_figure(draw, temperature=slider)


@styled
def plot_calibration(
    found: Mapping[str, Sequence[tuple[float, float, int]]], *, ax: Axes | None = None
) -> Figure:
    """Draw the share that was chosen over what was predicted, bin by bin.

    Args:
        found: name → (mean predicted probability, share chosen, pairs) of each bin, as
            ``judge(...).calibration`` gives them. Dots grow with the number of pairs.
    """
    ax = panels(1, width=4.6, height=4.2)[1][0] if ax is None else ax
    ax.plot([0, 1], [0, 1], color="#777777", linestyle=":", label="calibrated")
    for i, (name, rows) in enumerate(found.items()):
        said, happened, count = np.array(rows, float).T
        ax.plot(said, happened, color=CYCLE[i], label=name)
        ax.scatter(said, happened, s=20 + 100 * count / count.sum(), color=CYCLE[i],
                   marker="os^D"[i % 4])  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted Pr(first chosen)",
           ylabel="share that was chosen")  # fmt: skip
    ax.legend(loc="upper left")
    return ax.figure


@styled
def plot_best_of_n(
    learned: Mapping[str, np.ndarray], gold: Mapping[str, np.ndarray], ns: Sequence[int]
) -> Figure:
    """Draw what the judges think of their choice among n, and what it is worth; one panel each.

    Args:
        learned, gold: judge → mean score [seeds, len(ns)].
    """
    fig, axes = panels(2, width=5.0, height=3.6)
    x = np.asarray(ns, float)
    plot_bands(learned, x=x, log_x=True, xlabel="n", ylabel="learned reward (points)",
               title="what the judge thinks", ax=axes[0])  # fmt: skip
    plot_bands(gold, x=x, log_x=True, xlabel="n", ylabel="gold score (points)",
               title="what it is worth", ax=axes[1])  # fmt: skip
    for ax in axes:
        if ax.get_legend():
            ax.get_legend().remove()
        ax.set_xticks(ns, [str(n) for n in ns])
        ax.minorticks_off()
    axes[1].legend(loc="best")
    return fig

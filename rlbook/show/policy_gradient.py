"""Pictures of an estimated gradient: every value that it can take, with its chance."""

from collections.abc import Callable, Mapping

import ipywidgets
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlbook.show.plots import BLUE, ORANGE, RED, panels, styled
from rlbook.show.widgets import controlled_figure

# logit, baseline -> the values of an estimate [N], and their chances [N]
Distribution = Callable[[float, float], tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]]
BINS = 24
BASELINES = np.linspace(-4.0, 12.0, 65)  # where the parabola is drawn; the slider's range


def moments(
    estimates: Float[np.ndarray, " N"], chances: Float[np.ndarray, " N"]
) -> tuple[float, float]:
    """Mean and variance of a number that takes these values with these chances."""
    mean = float(chances @ estimates)
    return mean, float(chances @ (estimates - mean) ** 2)


@styled
def plot_cloud(
    estimates: Float[np.ndarray, "N 2"],
    chances: Float[np.ndarray, " N"],
    *,
    exact: Float[np.ndarray, " 2"],
    xlabel: str,
    ylabel: str,
    limits: tuple[float, float, float, float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Every value of a gradient estimate in two coordinates: a disc's area is its chance.

    Values that coincide (to 9 digits) share a disc. A red cross marks the exact gradient.

    Args:
        limits: left, right, bottom, top.
    """
    if ax is None:
        ax = panels(1, width=4.0, height=3.6)[1][0]
    places, which = np.unique(estimates.round(9), axis=0, return_inverse=True)
    weight = np.bincount(which.ravel(), weights=chances)
    ax.scatter(*places.T, s=2_500.0 * weight, color=BLUE, alpha=0.5, linewidth=0)
    ax.plot(*exact, "x", color=RED, markersize=11, markeredgewidth=3)
    ax.axhline(0.0, color="#999999", linewidth=0.8, zorder=0)
    ax.axvline(0.0, color="#999999", linewidth=0.8, zorder=0)
    if limits is not None:
        ax.set(xlim=limits[:2], ylim=limits[2:])
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return ax.figure


@styled
def plot_bars(
    heights: Mapping[str, float],
    *,
    xlabel: str,
    decimals: int = 1,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Named numbers as horizontal bars, the first on top, each with its value at its end."""
    if ax is None:
        ax = panels(1, width=6.6, height=0.6 + 0.45 * len(heights))[1][0]
    names, values = list(heights), list(heights.values())
    bars = ax.barh(names, values, color=BLUE, alpha=0.8)
    ax.bar_label(bars, [f"{value:.{decimals}f}" for value in values], padding=4)
    ax.invert_yaxis()
    ax.set_xlim(0.0, 1.12 * max(values))
    ax.set(xlabel=xlabel, title=title)
    return ax.figure


# --- a baseline, moved by hand ---------------------------------------------------------------


def baseline_drawing(
    distribution: Distribution,
    *,
    limits: tuple[float, float],
    xlabel: str = "estimate of one slope of J",
) -> Callable[..., tuple[Figure, str]]:
    """A function of logit and baseline that draws the estimate's exact distribution.

    Left, the values that the estimate takes, with its mean and one standard deviation either side;
    right, its variance against the baseline. The axes' left and right ends never move.
    """

    @styled
    def draw(logit: float, baseline: float) -> tuple[Figure, str]:
        estimates, chances = distribution(logit, baseline)
        mean, variance = moments(estimates, chances)
        parabola = np.array([moments(*distribution(logit, float(b)))[1] for b in BASELINES])
        fig, (left, right) = panels(2, width=4.6, height=3.4)
        shown = np.clip(estimates, *limits)
        bins = np.linspace(*limits, BINS + 1)
        left.hist(shown, bins, weights=100.0 * chances, color=BLUE, alpha=0.7)
        half = variance**0.5
        left.axvspan(mean - half, mean + half, color=ORANGE, alpha=0.25, label="±1 std", zorder=0)
        left.axvline(mean, color=RED, label="mean")
        left.set(xlim=limits, ylim=(0, 100), xlabel=xlabel, ylabel="chance (%)")
        left.legend(loc="upper left")
        right.plot(BASELINES, parabola, color=BLUE)
        right.plot(baseline, variance, "o", color=RED, markersize=9, clip_on=False)
        right.set(xlim=BASELINES[[0, -1]], xlabel="baseline (units of reward)", ylabel="variance")
        right.set_ylim(0.0, 1.05 * parabola.max())
        words = (
            f"logit {logit:.2f}, baseline {baseline:.2f}: mean {mean:.3f}, variance "
            f"{variance:.2f} (lowest near b = {BASELINES[parabola.argmin()]:.2f})"
        )
        return fig, words

    return draw


def baseline_sliders(
    distribution: Distribution,
    *,
    limits: tuple[float, float],
    xlabel: str = "estimate of one slope of J",
) -> ipywidgets.Widget:
    """Sliders for a logit and a baseline; the estimate's exact distribution follows them."""

    def slider(low: float, high: float, name: str) -> ipywidgets.FloatSlider:
        return ipywidgets.FloatSlider(
            value=0.0, min=low, max=high, step=0.25, description=name, continuous_update=False
        )

    return controlled_figure(
        baseline_drawing(distribution, limits=limits, xlabel=xlabel),
        logit=slider(-3.0, 3.0, "logit"),
        baseline=slider(float(BASELINES[0]), float(BASELINES[-1]), "baseline"),
    )

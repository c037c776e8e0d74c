"""Pictures of estimates that come from sampled returns, beside what they estimate."""

from collections.abc import Callable

import ipywidgets
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlbook.show.plots import BLUE, ORANGE, RED, panels, styled
from rlbook.show.widgets import controlled_figure
from rlbook.tabular.mdp import MDP
from rlbook.tabular.monte_carlo import return_variance
from rlbook.tabular.planning import policy_evaluation
from rlbook.tabular.rollouts import sample_returns

MOST_ROLLOUTS = 40  # the right end of the slider


@styled
def plot_estimates(
    estimates: Float[np.ndarray, " N"],
    *,
    value: float,
    spread: float,
    limits: tuple[float, float],
    bars: int = 40,
    xlabel: str = "estimate of V (units of reward)",
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """A histogram of estimates, with the exact value (line) and one exact spread either side.

    Args:
        estimates: independent estimates of one value.
        value, spread: the exact mean and standard deviation of such an estimate.
        limits: left and right end of the axis; estimates beyond are counted in the last bars.
        bars: how many. Returns that are whole numbers want bars of width 1, centred on them.
    """
    if ax is None:
        ax = panels(1, width=5.6, height=3.4)[1][0]
    bins = np.linspace(*limits, bars + 1)
    shares = np.histogram(np.clip(estimates, *limits), bins)[0] / len(estimates)
    ax.bar(bins[:-1], 100.0 * shares, width=np.diff(bins), align="edge", color=BLUE, alpha=0.7)
    ax.axvspan(value - spread, value + spread, color=ORANGE, alpha=0.25, label="±1 exact std")
    ax.axvline(value, color=RED, label="exact V")
    ax.set(xlim=limits, xlabel=xlabel, ylabel="share of estimates (%)", title=title)
    ax.legend(loc="upper left")
    return ax.figure


@styled
def plot_intervals(
    estimates: Float[np.ndarray, " N"],
    half_widths: Float[np.ndarray, " N"],
    *,
    truth: float,
    ylabel: str,
    xlabel: str = "experiment",
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Intervals side by side against the truth (line); those that miss it are red and dashed."""
    if ax is None:
        ax = panels(1, width=7.0, height=3.4)[1][0]
    x = np.arange(1, len(estimates) + 1)
    misses = np.abs(estimates - truth) > half_widths
    for wrong, colour, dashes, name in (
        (False, BLUE, "-", "holds the exact value"),
        (True, RED, "--", "misses it"),
    ):
        of = misses == wrong
        ends = estimates[of] - half_widths[of], estimates[of] + half_widths[of]
        ax.vlines(x[of], *ends, color=colour, linestyle=dashes, label=name)
        ax.plot(x[of], estimates[of], "o", color=colour, markersize=3)
    ax.axhline(truth, color="black", linewidth=1)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax.figure


# --- the mean of K rollouts ------------------------------------------------------------------


def rollout_estimates(
    mdp: MDP,
    policy: Float[np.ndarray, "S A"],
    *,
    state: int,
    gamma: float,
    K: int,
    count: int,
    seed: int,
) -> Float[np.ndarray, " count"]:
    """``count`` independent estimates of V(state), each the mean return of K rollouts."""
    generator = np.random.default_rng(seed)
    settings = {"state": state, "gamma": gamma, "generator": generator}
    return sample_returns(mdp, policy, count=count * K, **settings).reshape(count, K).mean(axis=1)


def rollout_drawing(
    mdp: MDP,
    policy: Float[np.ndarray, "S A"],
    *,
    state: int,
    gamma: float,
    count: int = 1_000,
    limits: tuple[float, float] | None = None,
    bars: int = 40,
) -> Callable[..., tuple[Figure, str]]:
    """A function of K and seed that draws the estimates of ``rollout_estimates``.

    The axis is the same whatever K is: ``limits``, or value ± 3 standard deviations of one return.
    """
    value = float(policy_evaluation(mdp, policy, gamma=gamma).V[state])
    deviation = float(np.sqrt(return_variance(mdp, policy, gamma=gamma)[state]))
    limits = limits or (value - 3.0 * deviation, value + 3.0 * deviation)

    def draw(K: int, seed: int = 0) -> tuple[Figure, str]:
        estimates = rollout_estimates(
            mdp, policy, state=state, gamma=gamma, K=K, count=count, seed=seed
        )
        spread = deviation / np.sqrt(K)
        title = f"{count} estimates, each the mean of K = {K}"
        fig, axes = panels(1, width=5.6, height=3.4)
        exact = {"value": value, "spread": spread}
        plot_estimates(estimates, **exact, limits=limits, bars=bars, title=title, ax=axes[0])
        words = (
            f"K = {K}: mean {estimates.mean():.2f} (exact {value:.2f}), "
            f"std {estimates.std():.2f} (exact {spread:.2f})"
        )
        return fig, words

    return draw


def rollout_slider(
    mdp: MDP,
    policy: Float[np.ndarray, "S A"],
    *,
    state: int,
    gamma: float,
    limits: tuple[float, float] | None = None,
    bars: int = 40,
) -> ipywidgets.Widget:
    """Sliders for K and for the seed; the histogram of K-rollout estimates follows them."""

    def slider(value: int, low: int, high: int, name: str) -> ipywidgets.IntSlider:
        return ipywidgets.IntSlider(
            value=value, min=low, max=high, description=name, continuous_update=False
        )

    draw = rollout_drawing(mdp, policy, state=state, gamma=gamma, limits=limits, bars=bars)
    return controlled_figure(
        draw, K=slider(1, 1, MOST_ROLLOUTS, "K"), seed=slider(0, 0, 20, "seed")
    )

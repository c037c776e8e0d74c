"""Pictures of bandits: what arms pay, confidence bounds, posteriors, and two widgets."""

import copy
from dataclasses import dataclass

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import beta, norm

from rlbook.show.plots import CYCLE, DASHES, panels, plot_curves, styled
from rlbook.show.widgets import controlled_figure
from rlbook.tabular.bandits import UCB, Bandit, EpsilonGreedy, ThompsonBeta, play


@styled
def plot_reward_spread(
    means: Float[np.ndarray, " A"], *, noise: float = 1.0, title: str = "", ax: Axes | None = None
) -> Figure:
    """What each arm pays: a Gaussian bell of width ``noise`` on its side, a bar at the mean.

    The best arm (or arms) is drawn in another colour.
    """
    ax = plt.figure(figsize=(7.2, 3.6)).add_subplot() if ax is None else ax
    offsets = np.linspace(-3.0, 3.0, 121)
    widths = 0.4 * norm.pdf(offsets) / norm.pdf(0.0)
    for arm, mean in enumerate(means):
        colour = CYCLE[1] if mean == means.max() else CYCLE[0]
        ax.fill_betweenx(
            mean + noise * offsets, arm - widths, arm + widths, color=colour, alpha=0.35, lw=0
        )
        ax.plot([arm - 0.4, arm + 0.4], [mean, mean], color=colour)
    ax.axhline(0.0, color="#999999", linewidth=0.8, linestyle="--")
    ax.set_xticks(range(len(means)))
    ax.set(xlabel="arm", ylabel="reward (units)", title=title)
    return ax.figure


@styled
def plot_bounds(
    Q: Float[np.ndarray, " A"],
    upper: Float[np.ndarray, " A"],
    *,
    means: Float[np.ndarray, " A"],
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Estimates with their widths up to an upper bound; a cross marks each true mean.

    The arm of the largest bound, which is pulled next, is drawn in another colour.
    """
    ax = plt.figure(figsize=(4.0, 3.4)).add_subplot() if ax is None else ax
    for arm, (estimate, bound) in enumerate(zip(Q, upper, strict=True)):
        colour = CYCLE[1] if arm == upper.argmax() else CYCLE[0]
        ax.plot([arm, arm], [estimate, bound], color=colour, linewidth=5, alpha=0.5)
        ax.plot([arm - 0.22, arm + 0.22], [bound, bound], color=colour)
        ax.plot(arm, estimate, marker="o", color=colour)
    ax.plot(np.arange(len(Q)), means, linestyle="none", marker="x", color="black", markersize=8)
    ax.set_xticks(range(len(Q)))
    ax.set(xlabel="arm", ylabel="reward (units)", title=title, xlim=(-0.6, len(Q) - 0.4))
    return ax.figure


@styled
def plot_beliefs(
    successes: Float[np.ndarray, " A"],
    failures: Float[np.ndarray, " A"],
    *,
    means: Float[np.ndarray, " A"],
    draws: Float[np.ndarray, " A"] | None = None,
    top: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """The Beta posterior of each arm; triangles on the axis mark the true probabilities.

    Args:
        successes, failures: Beta parameters, the prior's 1 included.
        means: the true probabilities, drawn as triangles below the curves.
        draws: one θ per arm, drawn as a dot on its curve.
        top: end of the vertical axis; default from the curves.
    """
    ax = plt.figure(figsize=(4.4, 3.4)).add_subplot() if ax is None else ax
    x = np.linspace(0.0, 1.0, 401)
    for arm in range(len(means)):
        colour, dashes = CYCLE[arm % 6], DASHES[arm % 6]
        belief = beta(successes[arm], failures[arm])
        ax.plot(x, belief.pdf(x), color=colour, linestyle=dashes, label=f"arm {arm}")
        ax.plot(means[arm], 0.0, marker="^", color=colour, markersize=9, clip_on=False)
        if draws is not None:
            ax.plot(draws[arm], belief.pdf(draws[arm]), marker="o", color=colour, markersize=8)
    ax.set(xlabel="probability of a reward", ylabel="density", title=title)
    ax.set(xlim=(0.0, 1.0), ylim=(0.0, top))
    ax.legend(loc="upper left")
    return ax.figure


# --- Thompson sampling, pull by pull ---------------------------------------------------------


@dataclass(frozen=True)
class Belief:
    """What a Thompson sampler knows before a pull, and what it then does.

    Attributes:
        successes, failures: Beta parameters [A].
        draws: one θ per arm [A]; the arm of the largest is pulled.
        arm, reward: the pull that follows, and what it paid.
    """

    successes: np.ndarray
    failures: np.ndarray
    draws: np.ndarray
    arm: int
    reward: float


def thompson_history(means: list[float], *, pulls: int, seed: int) -> list[Belief]:
    """One run of Thompson sampling on 0/1 arms: a Belief per pull, the first from the prior."""
    generator = np.random.default_rng(seed)
    bandit, agent = Bandit([means], noise=None), ThompsonBeta(1, len(means))
    history = []
    for _ in range(pulls):
        successes, failures = agent.successes[0].copy(), agent.failures[0].copy()
        draws = copy.deepcopy(generator).beta(successes, failures)  # those that choose will make
        arms = agent.choose(generator)
        rewards = bandit.pull(arms, generator)
        agent.learn(arms, rewards)
        history.append(Belief(successes, failures, draws, int(arms[0]), float(rewards[0])))
    return history


def draw_thompson(history: list[Belief], means: list[float], *, pull: int) -> tuple[Figure, str]:
    """The posteriors after ``pull`` pulls, with the draws that choose the next arm.

    The vertical axis reaches above the highest curve of the whole history.
    """
    now = history[pull]
    fig, (ax,) = panels(1, width=6.4, height=3.8)
    plot_beliefs(
        now.successes,
        now.failures,
        means=np.array(means, float),
        draws=now.draws,
        top=1.05 * max(_peak(belief) for belief in history),
        title=f"after {pull} pulls",
        ax=ax,
    )
    thetas = ", ".join(f"{theta:.2f}" for theta in now.draws)
    return fig, f"draws {thetas}: pull arm {now.arm}; it pays {now.reward:.0f}"


def _peak(belief: Belief) -> float:
    """The greatest density of a belief; that of an arm is at (a - 1) / (a + b - 2)."""
    successes, failures = belief.successes - 1.0, belief.failures - 1.0
    modes = successes / np.maximum(successes + failures, 1.0)
    return float(beta.pdf(modes, belief.successes, belief.failures).max())


def thompson_stepper(means: list[float], *, pulls: int = 100, seed: int = 0) -> ipywidgets.Widget:
    """Step through a run of Thompson sampling with a slider, or play it as a film."""
    history = thompson_history(means, pulls=pulls + 1, seed=seed)
    slider = ipywidgets.IntSlider(value=0, min=0, max=pulls, description="pull")
    film = ipywidgets.Play(value=0, min=0, max=pulls, interval=500)
    ipywidgets.jslink((film, "value"), (slider, "value"))

    def draw(pull: int) -> tuple[Figure, str]:
        return draw_thompson(history, means, pull=pull)

    return ipywidgets.VBox([film, controlled_figure(draw, pull=slider)])


# --- regret under the reader's own settings --------------------------------------------------


def draw_regret(
    *, epsilon: float, c: float, gap: float, pulls: int, runs: int = 200
) -> tuple[Figure, str]:
    """Mean regret of ε-greedy, UCB and Thompson sampling on two arms that pay 0.5 ± gap/2."""
    bandit = Bandit(np.tile([0.5 - gap / 2, 0.5 + gap / 2], (runs, 1)), noise=None)
    agents = {
        "ε-greedy": EpsilonGreedy(runs, 2, epsilon=epsilon),
        "UCB": UCB(runs, 2, c=c),
        "Thompson": ThompsonBeta(runs, 2),
    }
    regrets = {
        name: play(bandit, agent, pulls=pulls, generator=np.random.default_rng(0)).regret
        for name, agent in agents.items()
    }
    fig, (ax,) = panels(1, width=7.0, height=3.8)
    plot_curves(regrets, xlabel="pull (log axis)", ylabel="regret (rewards)", log_x=True, ax=ax)
    ax.set_ylim(bottom=0.0)
    words = ", ".join(f"{name} {regret[-1]:.1f}" for name, regret in regrets.items())
    return fig, f"regret after {pulls} pulls: {words}"


def bandit_explorer() -> ipywidgets.Widget:
    """Sliders for ε, c, the gap between two arms and the horizon; the regret curves follow."""

    def slider(name: str, value: float, low: float, high: float, step: float) -> ipywidgets.Widget:
        return ipywidgets.FloatSlider(
            value=value, min=low, max=high, step=step, description=name, continuous_update=False
        )

    return controlled_figure(
        draw_regret,
        epsilon=slider("ε", 0.1, 0.0, 1.0, 0.01),
        c=slider("c", 1.41, 0.0, 3.0, 0.01),
        gap=slider("gap", 0.2, 0.0, 1.0, 0.05),
        pulls=ipywidgets.IntSlider(
            value=1000, min=100, max=3000, step=100, description="pulls", continuous_update=False
        ),
    )

"""Pictures of actor and critic: which returns λ mixes, how wrong an estimate is and in which way,
and the advantages of one episode, action by action.

Values in, a figure and one line of text out; ``gae_sliders`` puts sliders on top.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure

from rlbook.functional.returns import gae
from rlbook.show.plots import BLUE, GREEN, ORANGE, STYLE, panels
from rlbook.show.widgets import controlled_figure
from rlbook.tabular.advantage_estimates import gae_error, lambda_return_weights
from rlbook.tabular.episodes import Episode, sample_episode
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.mdp import MDP
from rlbook.tabular.monte_carlo import epsilon_greedy
from rlbook.tabular.planning import policy_evaluation, value_iteration

# --- the weights of the λ-return -------------------------------------------------------------


def draw_weights(lams: Sequence[float], *, steps: int) -> tuple[Figure, str]:
    """A panel of bars per λ: how much each n-step return counts; the whole return in orange."""
    with plt.rc_context(STYLE):
        fig, axes = panels(len(lams), columns=len(lams), width=2.9, height=2.6)
        words = []
        for ax, lam in zip(axes, lams, strict=True):
            weights = lambda_return_weights(lam, steps)
            n = np.arange(1, steps + 1)
            ax.bar(n, weights, color=[BLUE] * (steps - 1) + [ORANGE])
            ax.set(xlabel="n (steps before the guess)", ylim=(0.0, 1.05), title=f"λ = {lam:g}")
            ax.set_xticks(n)
            words.append(f"λ = {lam:g}: last weight {weights[-1]:.2f}")
        axes[0].set_ylabel("weight of the n-step return")
        return fig, "; ".join(words)


# --- bias against variance -------------------------------------------------------------------


def error_curves(
    mdp: MDP,
    policy: Float[np.ndarray, "S A"],
    V: Float[np.ndarray, " S"],
    *,
    gamma: float,
    lams: Sequence[float] | np.ndarray,
    samples: int = 1,
) -> dict[str, Float[np.ndarray, " lams"]]:
    """What misleads, what only shakes, and their sum, against λ.

    Args:
        samples: how many independent estimates are averaged: the noise is divided by it.
    """
    parts = [gae_error(mdp, policy, V, gamma=gamma, lam=float(lam)) for lam in lams]
    bias = np.array([part.tilt for part in parts])
    noise = np.array([part.shift + part.variance for part in parts]) / samples
    return {"bias²": bias, "noise": noise, "sum": bias + noise}


def draw_error_curves(
    panels_of: Mapping[str, Mapping[str, np.ndarray]], *, lams: Sequence[float] | np.ndarray
) -> tuple[Figure, str]:
    """A panel per critic: bias², noise and their sum against λ, the best λ marked by a dot."""
    with plt.rc_context(STYLE):
        fig, axes = panels(len(panels_of), width=3.7, height=3.3)
        words = []
        for i, (ax, (name, curves)) in enumerate(zip(axes, panels_of.items(), strict=True)):
            styles = {"bias²": (BLUE, "--"), "noise": (ORANGE, "-."), "sum": (GREEN, "-")}
            for part, (colour, dashes) in styles.items():
                label = part if i == 0 else None
                ax.plot(lams, curves[part], color=colour, linestyle=dashes, label=label)
            best = int(np.argmin(curves["sum"]))
            ax.plot(lams[best], curves["sum"][best], "o", color=GREEN, markersize=9)
            ax.set(xlabel="λ", title=name, ylim=(0.0, 3.0 * curves["sum"][best]))
            ax.set_xlim(-0.02, 1.02)
            ax.grid(axis="y", color="#dddddd", linewidth=0.8)
            words.append(f"{name}: best λ {lams[best]:.2f}")
        axes[0].set_ylabel("squared error (reward²)")
        fig.legend(loc="outside right upper")
        return fig, "; ".join(words)


# --- one episode, action by action -----------------------------------------------------------


class Walk:
    """One fixed walk through a gridworld, with everything about its policy known exactly.

    Args:
        map: a text map. slip: of the world. explore: share of random actions of the policy,
            which is otherwise the optimal one.
        gamma: discount of the objective. seed: of the walk and of the critic's error.
    """

    def __init__(
        self, map: str, *, slip: float = 0.1, explore: float = 0.5, gamma: float = 1.0, seed: int
    ) -> None:
        self.grid = GridWorld(map, slip=slip)
        self.mdp = self.grid.mdp()
        best = value_iteration(self.mdp, gamma=gamma)
        self.policy = epsilon_greedy(best.Q, explore)
        exact = policy_evaluation(self.mdp, self.policy, gamma=gamma)
        self.advantages = exact.Q - exact.V[:, None]  # exact, [S, A]
        generator = np.random.default_rng(seed)
        self.episode: Episode = sample_episode(self.grid, self.policy, generator=generator)
        self.pattern = generator.normal(size=self.mdp.S)

    @property
    def exact(self) -> Float[np.ndarray, " T"]:
        """The exact advantage of each action of the walk, at the objective's discount."""
        return self.advantages[self.episode.states[:-1], self.episode.actions]

    def critic(self, *, gamma: float, error: float) -> Float[np.ndarray, " S"]:
        """V_π at a discount, wrong by ``error`` times a fixed pattern of standard deviation 1."""
        V = policy_evaluation(self.mdp, self.policy, gamma=gamma).V
        return np.where(self.mdp.terminal, 0.0, V + error * self.pattern)

    def estimates(self, *, gamma: float, lam: float, error: float) -> Float[np.ndarray, " T"]:
        """GAE of the walk's actions with such a critic."""
        V = torch.from_numpy(self.critic(gamma=gamma, error=error)[self.episode.states])[None]
        last = torch.arange(len(self.episode))[None] == len(self.episode) - 1
        ended = {"terminated": last & self.episode.terminated, "ended": last}
        rewards = torch.from_numpy(self.episode.rewards)[None]
        return gae(rewards, V[:, :-1], V[:, 1:], gamma=gamma, lam=lam, **ended)[0].numpy()


def draw_walk(walk: Walk, *, gamma: float, lam: float, error: float) -> tuple[Figure, str]:
    """GAE of each action of a walk as bars, beside the exact advantages."""
    estimates, exact = walk.estimates(gamma=gamma, lam=lam, error=error), walk.exact
    with plt.rc_context(STYLE):
        fig, (ax,) = panels(1, width=8.4, height=3.4)
        t = np.arange(len(exact))
        ax.bar(t - 0.2, exact, width=0.4, color=GREEN, label="exact")
        ax.bar(t + 0.2, estimates, width=0.4, color=ORANGE, label="GAE")
        ax.axhline(0.0, color="black", linewidth=0.8)
        names = ["↑→↓←"[a] for a in walk.episode.actions]
        ax.set_xticks(t, names)
        ax.set(xlabel="action t of the walk (its direction)", ylabel="advantage (reward)")
        ax.set_ylim(-15.0, 15.0)
        ax.legend(loc="upper left", ncols=2)
        distance = float(np.sqrt(np.mean((estimates - exact) ** 2)))
        agree = int((np.sign(estimates.round(9)) == np.sign(exact.round(9))).sum())
        return fig, (
            f"root mean square distance {distance:.2f}; the sign is right for {agree} of {len(t)}"
        )


def gae_sliders(map: str, *, seed: int = 0) -> ipywidgets.Widget:
    """Sliders for λ, γ and the critic's error; the advantages of one fixed walk follow them.

    Args:
        map: a text map. seed: of the walk and of the critic's error.
    """
    walk = Walk(map, seed=seed)

    def slider(name: str, value: float, high: float, step: float, low: float = 0.0) -> Any:
        return ipywidgets.FloatSlider(
            value=value, min=low, max=high, step=step, description=name, continuous_update=False
        )

    draw: Callable[..., tuple[Figure, str]] = lambda **values: draw_walk(walk, **values)  # noqa: E731
    return controlled_figure(
        draw,
        lam=slider("λ", 0.0, 1.0, 0.05),
        gamma=slider("γ", 1.0, 1.0, 0.05, 0.5),
        error=slider("critic error", 0.0, 5.0, 0.5),
    )

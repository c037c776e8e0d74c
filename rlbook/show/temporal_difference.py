"""Pictures of temporal-difference learning: what a target reads, and Q-learning episode by episode.

Values in, a figure and one line of text out; ``q_learning_stepper`` puts sliders on top.
"""

import functools
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from rlbook.show.plots import BLUE, STYLE, panels, plot_action_values, plot_grid
from rlbook.show.widgets import controlled_figure
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.planning import greedy_policy
from rlbook.tabular.td import q_learning

# --- what a target reads ---------------------------------------------------------------------


def next_action_weights(
    row: Float[np.ndarray, " A"], *, taken: int, epsilon: float
) -> dict[str, Float[np.ndarray, " A"]]:
    """How much of each next action's value goes into a target: r + γ Σ_a' w(a') Q(s', a').

    SARSA: 1 for the action taken. Q-learning: 1 for the best one. Expected SARSA: the
    probabilities of the ε-greedy policy.

    Args:
        row: Q(s', ·). taken: the action that followed. epsilon: share of random actions.
    """
    one, A = np.eye(len(row)), len(row)
    best = one[int(row.argmax())]
    return {
        "SARSA": one[taken],
        "expected SARSA": (1.0 - epsilon) * best + epsilon / A,
        "Q-learning": best,
    }


def draw_backups(
    row: Float[np.ndarray, " A"], *, taken: int, epsilon: float, reward: float, gamma: float
) -> tuple[Figure, str]:
    """The three targets of one transition as trees, the lines as wide as the weights."""
    with plt.rc_context(STYLE):
        fig, axes = panels(3, width=3.3, height=3.6)
        words = []
        weights = next_action_weights(row, taken=taken, epsilon=epsilon)
        for ax, (name, weight) in zip(axes, weights.items(), strict=True):
            target = reward + gamma * float(weight @ row)
            _draw_tree(ax, row, weight, reward)
            ax.set_title(f"{name}: target {target:.4g}")
            words.append(f"{name} {target:.4g}")
        return fig, "targets: " + ", ".join(words)


def _draw_tree(ax: Any, row: np.ndarray, weight: np.ndarray, reward: float) -> None:
    """(s, a) on top, the reward on the way down to s', and a branch for each next action."""
    ax.set(xlim=(-1.5, 1.5), ylim=(-0.75, 2.45))
    ax.axis("off")
    ax.plot([0, 0], [2, 1], color="black", linewidth=1.5, zorder=1)
    ax.plot(0, 2, "o", color="black", markersize=9)
    ax.text(0.16, 2, "(s, a)", va="center")
    ax.text(0.16, 1.5, f"reward {reward:g}", va="center")
    for x, value, share in zip(np.linspace(-1, 1, len(row)), row, weight, strict=True):
        colour = BLUE if share > 0.0 else "#bbbbbb"
        ax.plot([0, x], [1, 0], color=colour, linewidth=1.0 + 5.0 * share, zorder=1)
        ax.plot(x, 0, "o", color=colour, markersize=9)
        ax.text(x, -0.22, f"Q = {value:g}", ha="center", va="center", color="black")
        ax.text(x, -0.5, f"weight {share:.2g}", ha="center", va="center", color="#555555", size=10)
    ax.plot(0, 1, "o", color="black", markerfacecolor="white", markersize=13, zorder=2)
    ax.text(0.2, 1.06, "s'", va="center")


# --- greedy paths ----------------------------------------------------------------------------


def greedy_path(grid: GridWorld, Q: Float[np.ndarray, "S A"], *, start: int) -> list[int]:
    """The states on the way from start if the first best action is always taken, as if nothing
    were left to chance: up to an end, or to the first state that comes twice."""
    path = [start]
    while not grid.terminal[path[-1]]:
        path.append(int(grid.next_states[int(Q[path[-1]].argmax()), path[-1]]))
        if path[-1] in path[:-1]:
            break
    return path


# --- Q-learning, episode by episode ----------------------------------------------------------


def q_learning_tables(
    grid: GridWorld, *, gamma: float, alpha: float, epsilon: float, episodes: int, seed: int = 0
) -> list[Float[np.ndarray, "S A"]]:
    """Q_0 = 0, and Q after each of the episodes of Q-learning."""
    run = q_learning(
        grid,
        gamma=gamma,
        alpha=alpha,
        epsilon=epsilon,
        episodes=episodes,
        generator=np.random.default_rng(seed),
    )
    return [np.zeros((grid.S, 4)), *(report.Q.copy() for report in run)]


def draw_q_learning(
    grid: GridWorld, tables: list[Float[np.ndarray, "S A"]], *, episode: int
) -> tuple[Figure, str]:
    """Q after some episodes, beside its greedy actions and the path they take."""
    Q = tables[episode]
    path = greedy_path(grid, Q, start=int(grid.start.argmax()))
    height, width = grid.symbols.shape
    fig, axes = panels(2, width=0.82 * width + 0.4, height=0.82 * height + 0.6)
    plot_action_values(grid, Q, title=f"Q after episode {episode}", ax=axes[0])
    plot_grid(grid, policy=greedy_policy(Q), path=path, title="greedy actions", ax=axes[1])
    return fig, f"episode {episode}: the greedy path {_end_of(grid, path)}"


def _end_of(grid: GridWorld, path: list[int]) -> str:
    """How a greedy path ends: at a terminal cell, against a border or wall, or in a circle."""
    moves = f"{len(path) - 1} move{'s' * (len(path) > 2)}"
    if grid.terminal[path[-1]]:
        return f"reaches {grid.symbols[tuple(grid.cells[path[-1]])]} in {moves}"
    if path[-1] == path[-2]:
        return f"bumps into a border after {moves}"
    return f"runs in a circle after {moves}"


def q_learning_stepper(
    map: str, *, gamma: float = 1.0, episodes: int = 100, **rewards: float
) -> ipywidgets.Widget:
    """Sliders for the episode, α and ε; Q and the greedy path follow them.

    Args:
        map: a small text map. gamma: discount. episodes: where the slider ends.
        rewards: rewards of cells by symbol, such as ``P=-100.0``.
    """
    grid = GridWorld(map, rewards=rewards)

    @functools.lru_cache(maxsize=64)
    def tables(alpha: float, epsilon: float) -> list[np.ndarray]:
        return q_learning_tables(grid, gamma=gamma, alpha=alpha, epsilon=epsilon, episodes=episodes)

    def draw(episode: int, alpha: float, epsilon: float) -> tuple[Figure, str]:
        return draw_q_learning(grid, tables(alpha, epsilon), episode=episode)

    def share(name: str, value: float, low: float) -> ipywidgets.FloatSlider:
        return ipywidgets.FloatSlider(
            value=value, min=low, max=1.0, step=0.1, description=name, continuous_update=False
        )

    episode = ipywidgets.IntSlider(value=0, min=0, max=episodes, description="episodes")
    return controlled_figure(
        draw, episode=episode, alpha=share("α", 0.5, 0.1), epsilon=share("ε", 0.1, 0.0)
    )

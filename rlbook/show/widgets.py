"""Widgets: sliders beside a picture that changes.

Behind each widget stands a pure function ``draw_...`` from the values of its controls to a
figure and one line of text; ``controlled_figure`` joins it to the controls. The picture is an
image of constant size that is replaced in place, so that nothing on the page moves.
"""

from collections.abc import Callable
from typing import Any

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from rlbook.show.plots import panels, plot_grid, png_bytes
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.mdp import MDP
from rlbook.tabular.planning import Solution, action_values, greedy_policy, value_iteration


def controlled_figure(
    draw: Callable[..., tuple[Figure, str]], **controls: Any
) -> ipywidgets.Widget:
    """Join a drawing function to its controls.

    Args:
        draw: called with the value of each control by name; returns a figure and a line of text.
        controls: name → ipywidgets control with a ``value``.
    """
    # A box stretches its children to its own width: flex-start keeps the picture's own size.
    layout = ipywidgets.Layout(max_width="100%", align_self="flex-start")
    image = ipywidgets.Image(format="png", layout=layout)
    text = ipywidgets.Label()

    def update(_: Any = None) -> None:
        fig, text.value = draw(**{name: control.value for name, control in controls.items()})
        image.value = png_bytes(fig)

    for control in controls.values():
        control.observe(update, names="value")
    update()
    return ipywidgets.VBox([*controls.values(), text, image])


# --- value iteration, sweep by sweep ---------------------------------------------------------


def sweep_values(mdp: MDP, *, gamma: float, sweeps: int) -> list[np.ndarray]:
    """V_0 = 0, V_1, ..., V_sweeps of value iteration."""
    values = [np.zeros(mdp.S)]
    for _ in range(sweeps):
        values.append(action_values(mdp, values[-1], gamma=gamma).max(axis=1))
    return values


def draw_sweep(
    grid: GridWorld, values: list[np.ndarray], *, gamma: float, sweep: int
) -> tuple[Figure, str]:
    """V_k beside the greedy policy that it suggests, on one colour scale for all sweeps."""
    V = values[sweep]
    limits = (min(v.min() for v in values), max(v.max() for v in values))
    policy = greedy_policy(action_values(grid.mdp(), V, gamma=gamma))
    fig, axes = panels(2, width=4.2, height=4.0)
    plot_grid(grid, V=V, limits=limits, title=f"$V_{{{sweep}}}$", ax=axes[0])
    plot_grid(grid, policy=policy, title=f"greedy for $V_{{{sweep}}}$", ax=axes[1])
    change = np.abs(V - values[max(sweep - 1, 0)]).max()
    return fig, f"sweep {sweep}: largest change {change:.3g}"


def value_iteration_stepper(
    grid: GridWorld, *, gamma: float = 1.0, sweeps: int = 12
) -> ipywidgets.Widget:
    """Step through value iteration on a gridworld with a slider, or play it as a film."""
    values = sweep_values(grid.mdp(), gamma=gamma, sweeps=sweeps)
    slider = ipywidgets.IntSlider(value=0, min=0, max=sweeps, description="sweep")
    play = ipywidgets.Play(value=0, min=0, max=sweeps, interval=700)
    ipywidgets.jslink((play, "value"), (slider, "value"))

    def draw(sweep: int) -> tuple[Figure, str]:
        return draw_sweep(grid, values, gamma=gamma, sweep=sweep)

    return ipywidgets.VBox([play, controlled_figure(draw, sweep=slider)])


# --- how the optimal policy depends on the world ---------------------------------------------


def solve_grid(
    map: str, *, gamma: float, slip: float, noise: float, step_reward: float, **rewards: float
) -> tuple[GridWorld, Solution]:
    """The optimal values of a gridworld with these settings (rewards by symbol)."""
    grid = GridWorld(map, rewards=rewards, step_reward=step_reward, slip=slip, noise=noise)
    return grid, value_iteration(grid.mdp(), gamma=gamma)


def draw_solved_grid(map: str, **settings: float) -> tuple[Figure, str]:
    """Optimal values and all optimal actions for the settings of ``solve_grid``."""
    grid, solution = solve_grid(map, **settings)
    height, width = grid.symbols.shape
    fig, axes = panels(1, width=min(1.0 * width, 8.0) + 0.4, height=min(1.0 * height, 8.0) + 0.6)
    plot_grid(grid, V=solution.V, policy=solution.policy, decimals=2, ax=axes[0])
    start = float(grid.start @ solution.V)
    return fig, f"value of the start: {start:.3f}"


def gridworld_sliders(
    map: str,
    *,
    gamma: float = 0.9,
    slip: float = 0.0,
    noise: float = 0.0,
    step_reward: float = -0.04,
    **rewards: float,
) -> ipywidgets.Widget:
    """Sliders for discount, slip, noise and step reward; the optimal policy follows them.

    Args:
        map: a text map. gamma, slip, noise, step_reward: where the sliders begin.
        rewards: rewards of cells by symbol, such as ``G=1.0, P=-1.0``.
    """

    def slider(name: str, value: float, low: float, high: float, step: float) -> Any:
        return ipywidgets.FloatSlider(
            value=value, min=low, max=high, step=step, description=name, continuous_update=False
        )

    def draw(**settings: float) -> tuple[Figure, str]:
        return draw_solved_grid(map, **settings, **rewards)

    return controlled_figure(
        draw,
        gamma=slider("γ", gamma, 0.0, 1.0, 0.01),
        slip=slider("slip", slip, 0.0, 0.8, 0.05),
        noise=slider("noise", noise, 0.0, 0.8, 0.05),
        step_reward=slider("step", step_reward, -2.0, 0.0, 0.02),
    )

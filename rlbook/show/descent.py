"""Pictures of gradient descent: a bowl of two curvatures, a learning rate, momentum.

Values in, a figure and one line of text out; ``descent_sliders`` puts sliders on top.
"""

from collections.abc import Mapping

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlbook.show.plots import BLUE, RED, STYLE, panels
from rlbook.show.widgets import controlled_figure

CURVATURES = (1.0, 10.0)  # λ_1, λ_2: a long valley along the first axis
START = (-4.0, 2.0)
HALF_WIDTH, HALF_HEIGHT = 5.0, 3.0  # of the part of the plane that is drawn


def bowl(w: Float[np.ndarray, "*steps 2"]) -> Float[np.ndarray, "*steps"]:
    """The loss ½ (λ_1 w_1² + λ_2 w_2²), with λ from ``CURVATURES``."""
    return 0.5 * (np.square(w) * CURVATURES).sum(axis=-1)


def descent_path(*, rate: float, momentum: float, steps: int) -> Float[np.ndarray, "n 2"]:
    """The weights on the way, from ``START`` through n - 1 = steps steps of gradient descent.

    u ← μ u - α ∇L,  w ← w + u,  with the rate α and the momentum μ (Polyak 1964)
    """
    path, velocity = [np.array(START)], np.zeros(2)
    for _ in range(steps):
        velocity = momentum * velocity - rate * np.multiply(CURVATURES, path[-1])
        path.append(path[-1] + velocity)
    return np.array(path)


def plot_descents(paths: Mapping[str, Float[np.ndarray, "n 2"]]) -> Figure:
    """Each path, by title, on the contour lines of the bowl."""
    with plt.rc_context(STYLE):
        fig, axes = panels(len(paths), width=3.7, height=2.9)
        for ax, (title, path) in zip(axes, paths.items(), strict=True):
            _draw_path(ax, path)
            ax.set_title(title)
        return fig


def draw_descent(*, rate: float, momentum: float, steps: int) -> tuple[Figure, str]:
    """One path, and the loss along it."""
    path = descent_path(rate=rate, momentum=momentum, steps=steps)
    losses = bowl(path)
    with plt.rc_context(STYLE):
        fig, (left, right) = panels(2, width=4.6, height=3.3)
        _draw_path(left, path)
        left.set_title(f"rate {rate:.3g}, momentum {momentum:.2g}")
        right.plot(np.maximum(losses, 1e-12), color=BLUE)
        right.set(
            yscale="log", ylim=(1e-7, 1e5), xlabel="steps", ylabel="loss", title="loss on the way"
        )
    word = "falls" if losses[-1] < losses[0] else "grows"
    return fig, f"the loss {word} from {losses[0]:.3g} to {losses[-1]:.2g} in {steps} steps"


def descent_sliders() -> ipywidgets.Widget:
    """Sliders for the learning rate and the momentum; the path follows them."""

    def draw(rate: float, momentum: float) -> tuple[Figure, str]:
        return draw_descent(rate=rate, momentum=momentum, steps=40)

    return controlled_figure(
        draw,
        rate=ipywidgets.FloatSlider(
            value=0.05, min=0.005, max=0.25, step=0.005, readout_format=".3f", description="rate",
            continuous_update=False,
        ),
        momentum=ipywidgets.FloatSlider(
            value=0.0, min=0.0, max=0.95, step=0.05, description="momentum",
            continuous_update=False,
        ),
    )  # fmt: skip


def _draw_path(ax: Axes, path: np.ndarray) -> None:
    """The path in red on blue contour lines; it may leave the picture."""
    first, second = np.meshgrid(
        np.linspace(-HALF_WIDTH, HALF_WIDTH, 121), np.linspace(-HALF_HEIGHT, HALF_HEIGHT, 81)
    )
    losses = bowl(np.stack([first, second], axis=-1))
    ax.contour(
        first, second, losses, [0.5, 2, 5, 10, 18, 28, 40], colors=BLUE, alpha=0.5, linewidths=1
    )
    shown = np.clip(path, -1e3, 1e3)  # a diverging path would overflow the drawing
    ax.plot(shown[:, 0], shown[:, 1], color=RED, marker="o", markersize=3, linewidth=1.2)
    ax.plot(0, 0, marker="+", color="black", markersize=10, linestyle="none")
    ax.set(
        xlim=(-HALF_WIDTH, HALF_WIDTH),
        ylim=(-HALF_HEIGHT, HALF_HEIGHT),
        xlabel="weight w₁",
        ylabel="weight w₂",
    )

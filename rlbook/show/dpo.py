"""Pictures of preference losses: loss and weight over a pair's margin, and answers in a plane."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlbook.functional.preference_losses import dpo_loss, ipo_loss
from rlbook.show.plots import BLUE, ORANGE, STYLE, panels, plot_curves, styled
from rlbook.show.widgets import controlled_figure

REACH = 40.0  # nats of margin, to both sides


def pair_curves(
    h: Float[np.ndarray, " n"], *, beta: float, smoothing: float = 0.0
) -> dict[str, tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
    """Loss and weight -dL/dh of a pair with margin h, by the package's losses and autograd.

    Returns:
        "DPO", "smoothed" (where smoothing is above 0) and "IPO", each a pair of curves.
    """
    zero = torch.zeros(len(h), dtype=torch.float64)

    def both(loss: Any) -> tuple[np.ndarray, np.ndarray]:
        x = torch.tensor(h, dtype=torch.float64, requires_grad=True)
        losses = loss(x)
        (slope,) = torch.autograd.grad(losses.sum(), x)
        return losses.detach().numpy(), -slope.numpy()

    found = {"DPO": both(lambda x: dpo_loss(x, zero, zero, zero, beta=beta))}
    if smoothing > 0:
        found["smoothed"] = both(
            lambda x: dpo_loss(x, zero, zero, zero, beta=beta, label_smoothing=smoothing)
        )
    found["IPO"] = both(lambda x: ipo_loss(x, zero, zero, zero, beta=beta))
    return found


@styled
def plot_pair_loss(
    *, beta: float, smoothing: float = 0.0, mark: float | None = None, ipo: bool = False
) -> Figure:
    """Draw the loss of a pair over its margin h in nats, and beside it the weight -dL/dh.

    Args:
        mark: a margin to point at, on DPO's curves. ipo: draw IPO's loss too.
    """
    h = np.linspace(-REACH, REACH, 321)
    curves = pair_curves(h, beta=beta, smoothing=smoothing)
    if not ipo:
        del curves["IPO"]
    fig, axes = panels(2, width=4.8, height=3.4)
    for i, (ax, name) in enumerate(zip(axes, ("loss", "weight -dL/dh"), strict=True)):
        plot_curves(
            {arm: curve[i] for arm, curve in curves.items()},
            x=h,
            xlabel="margin h of the log-ratios (nats)",
            ylabel=name,
            ax=ax,
        )
        if mark is not None:
            at = pair_curves(np.array([mark]), beta=beta)["DPO"][i][0]
            ax.plot([mark], [at], "o", color=BLUE, markersize=8)
    if ax.get_legend() is not None:
        axes[0].get_legend().remove()
    top = float(curves["DPO"][0].max()) * 1.1
    axes[0].set_ylim(-0.05 * top, top)
    return fig


def draw_pair_loss(*, beta: float, h: float, smoothing: float) -> tuple[Figure, str]:
    """Loss and weight at one margin, in words and on DPO's curves; the label's probability."""
    with plt.rc_context(STYLE):
        fig = plot_pair_loss(beta=beta, smoothing=smoothing, mark=h)
    curves = pair_curves(np.array([h]), beta=beta, smoothing=smoothing)
    p = 1 / (1 + np.exp(-beta * h))
    words = f"β h = {beta * h:.2f}: P(chosen ≻ rejected) = {p:.3f}"
    for name in [name for name in ("DPO", "smoothed") if name in curves]:
        loss, weight = (float(curve[0]) for curve in curves[name])
        words += f"; {name}: loss {loss:.3f}, weight {round(weight, 4) + 0.0:.4f}"  # not -0.0000
    return fig, words


def pair_loss_sliders(
    *, beta: float = 0.1, h: float = 0.0, smoothing: float = 0.0
) -> ipywidgets.Widget:
    """Sliders for β, the margin of a pair and label smoothing; loss and weight follow."""

    def slider(name: str, value: float, low: float, high: float, step: float) -> Any:
        return ipywidgets.FloatSlider(
            value=value, min=low, max=high, step=step, description=name, continuous_update=False
        )

    return controlled_figure(
        draw_pair_loss,
        beta=slider("β", beta, 0.02, 1.0, 0.02),
        h=slider("h (nats)", h, -REACH, REACH, 1.0),
        smoothing=slider("smoothing", smoothing, 0.0, 0.4, 0.05),
    )


@styled
def plot_answer_plane(
    rows: Float[np.ndarray, "A 2"],
    names: Sequence[str],
    directions: Mapping[str, tuple[int, int]],
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draw the rows of answers in a plane, and for each direction an arrow from 0.

    Args:
        rows: one point per answer: its row of the unembedding.
        directions: name → (chosen, rejected), numbers of answers; the arrow is the difference of
            their rows, which is where the hidden vector goes.
    """
    ax = panels(1, width=5.0, height=4.0)[1][0] if ax is None else ax
    ax.axhline(0.0, color="#cccccc", linewidth=0.8)
    ax.axvline(0.0, color="#cccccc", linewidth=0.8)
    ax.plot(rows[:, 0], rows[:, 1], "o", color=BLUE)
    for name, (x, y) in zip(names, rows, strict=True):
        ax.annotate(name, (x, y), xytext=(6, 5), textcoords="offset points")
    arrows = {name: rows[a] - rows[b] for name, (a, b) in directions.items()}
    for name, (dx, dy) in arrows.items():
        ax.annotate(
            "", (dx, dy), (0.0, 0.0), arrowprops={"arrowstyle": "-|>", "color": ORANGE, "lw": 2}
        )
        away = (6, -4) if dx >= 0 else (-12, 9)  # of the arrow's own line
        ax.annotate(name, (dx, dy), xytext=away, textcoords="offset points", color=ORANGE)
    reach = 1.25 * float(np.abs(np.vstack([rows, *arrows.values()])).max())
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="first axis", ylabel="second axis")
    return ax.figure

"""Pictures of deep Q-learning: two states that share a weight, and a ring of memory slots.

Values in, a figure and one line of text out; ``two_states_sliders`` puts sliders on top.
"""

from collections.abc import Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from rlbook.show.plots import BLUE, ORANGE, STYLE, panels, plot_curves
from rlbook.show.widgets import controlled_figure

# --- two states that share a weight ----------------------------------------------------------


def two_state_weights(
    *, gamma: float, alpha: float, share: float, period: int = 1, steps: int, first: float = 1.0
) -> Float[np.ndarray, " steps_and_one"]:
    """The weight w under expected semi-gradient TD, where V(A) = w and V(B) = 2w.

        w ← w + α [ (1 - μ) (2γ w̄ - w) + μ · 2 (0 - 2w) ]

    A leads to B, B to an end, and all rewards are 0: the right weight is 0. Of the updates a
    share 1 - μ is made in A, with the target γ V(B), and a share μ in B, with the target 0.

    Args:
        gamma: discount. alpha: step size. share: μ; acting in this world gives ½.
        period: updates between copies of w into w̄; 1 is a target that follows at once.
        steps: updates. first: where w begins.

    Book: 06_dqn. Source: after Tsitsiklis and Van Roy (1996); Sutton and Barto (2018),
    section 11.2.
    """
    weights = np.empty(steps + 1)
    weights[0] = w = slow = first
    for k in range(steps):
        if k % period == 0:
            slow = w
        w += alpha * ((1.0 - share) * (2.0 * gamma * slow - w) - 4.0 * share * w)
        weights[k + 1] = w
    return weights


def draw_two_states(
    *, gamma: float, alpha: float, share: float, period: int = 1, steps: int = 60
) -> tuple[Figure, str]:
    """The little world beside |w| over the updates, on a logarithmic axis."""
    weights = two_state_weights(gamma=gamma, alpha=alpha, share=share, period=period, steps=steps)
    with plt.rc_context(STYLE):
        fig, (world, curve) = plt.subplots(
            1, 2, figsize=(9.2, 3.2), width_ratios=[1.15, 1.5], layout="constrained"
        )
        _draw_world(world, gamma, share)
        floor = 1e-6
        sizes = np.maximum(np.abs(weights), floor)
        plot_curves({"w": sizes}, x=np.arange(steps + 1), xlabel="update", ylabel="|w|",
                    log_y=True, ax=curve)  # fmt: skip
        curve.axhline(1.0, color="#777777", linestyle=":", linewidth=1.5)
        curve.set_ylim(floor / 2, max(10.0, 2.0 * sizes.max()))
        last = abs(weights[-1])
        size = f"{last:.3g}" if last >= floor else f"below {floor:g}"
        moves = "grows" if last > 1.0 else "shrinks" if last < 1.0 else "stays"
        return fig, f"|w| {moves}: {size} after {steps} updates"


def _draw_world(ax: Any, gamma: float, share: float) -> None:
    ax.set(xlim=(-0.6, 4.6), ylim=(-1.5, 1.4))
    ax.axis("off")
    for x, name, value in ((0.2, "A", "w"), (2.0, "B", "2w")):
        ax.plot(x, 0, "o", markersize=40, color="white", markeredgecolor=BLUE, markeredgewidth=2)
        ax.text(x, 0, value, ha="center", va="center", size=13)
        ax.text(x, 0.78, name, ha="center", va="center", size=12)
    ax.plot(3.9, 0, "s", markersize=22, color="#777777")
    ax.text(3.9, 0.78, "end", ha="center", va="center", size=12)
    for x in (0.2, 2.0):
        ax.annotate(
            "",
            xy=(x + 1.3, 0),
            xytext=(x + 0.5, 0),
            arrowprops={"arrowstyle": "->", "lw": 1.8},
        )
        ax.text(x + 0.9, 0.22, "0", ha="center", va="center", color="#555555")
    for x, part, target in ((0.2, 1.0 - share, f"{gamma:.3g} · 2w"), (2.0, share, "0")):
        ax.text(x, -0.85, f"{part:.0%} updates", ha="center", size=9, color="#555555")
        ax.text(x, -1.2, f"target {target}", ha="center", size=9, color="#555555")


def two_states_sliders(*, steps: int = 60) -> ipywidgets.Widget:
    """Sliders for γ, α, the share of updates in B, and the period of the target's copies."""

    def slider(name: str, value: float, low: float, high: float, step: float) -> Any:
        return ipywidgets.FloatSlider(
            value=value, min=low, max=high, step=step, description=name, continuous_update=False
        )

    def draw(gamma: float, alpha: float, share: float, period: int) -> tuple[Figure, str]:
        return draw_two_states(gamma=gamma, alpha=alpha, share=share, period=period, steps=steps)

    return controlled_figure(
        draw,
        gamma=slider("γ", 0.9, 0.0, 1.0, 0.05),
        alpha=slider("α", 0.1, 0.02, 0.4, 0.02),
        share=slider("μ (in B)", 0.0, 0.0, 1.0, 0.01),
        period=ipywidgets.IntSlider(
            value=1, min=1, max=30, description="period", continuous_update=False
        ),
    )


# --- a ring of memory slots ------------------------------------------------------------------


def draw_ring(slots: int, counts: Sequence[int]) -> tuple[Figure, str]:
    """What each slot of a ring holds after so many items 0, 1, 2, ...: one row for each count.

    The seam, between the newest item and the oldest, is marked.
    """
    fig, axes = panels(len(counts), columns=1, width=0.75 * slots + 1.4, height=0.75)
    words = []
    for ax, count in zip(axes, counts, strict=True):
        held = ring_contents(slots, count)
        ax.set(xlim=(-0.5, slots - 0.5), ylim=(-0.5, 0.5), xticks=[], yticks=[])
        ax.set_ylabel(f"after {count}", rotation=0, ha="right", va="center")
        for side in ax.spines.values():
            side.set_visible(False)
        for slot, item in enumerate(held):
            newest = item == count - 1
            face = ORANGE if newest else "#dcebf5" if item is not None else "white"
            ax.add_patch(
                plt.Rectangle((slot - 0.48, -0.42), 0.96, 0.84, facecolor=face, edgecolor=BLUE)
            )
            ax.text(slot, 0, "" if item is None else str(item), ha="center", va="center")
        if count >= slots:
            seam = count % slots - 0.5
            ax.plot([seam, seam], [-0.5, 0.5], color="black", linewidth=3, clip_on=False)
        oldest = max(count - slots, 0)
        words.append(f"after {count}: items {oldest} to {count - 1}")
    return fig, "; ".join(words)


def ring_contents(slots: int, count: int) -> list[int | None]:
    """The item in each slot after items 0 ... count - 1 went round; None where it is empty."""
    return [
        None if slot >= count else slot + slots * ((count - 1 - slot) // slots)
        for slot in range(slots)
    ]

"""Pictures of blackjack: values and policies by the player's sum and the dealer's card."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rlbook.show.plots import BLUE, ORANGE, panels, plot_heat_map, styled
from rlbook.tabular.blackjack import HIT, decision_states

CARDS = ("A", *map(str, range(2, 11)))
SUMS = tuple(map(str, range(21, 11, -1)))  # 21 on top, as in the book by Sutton and Barto
HANDS = ("no usable ace", "usable ace")
LABELS = {"xlabel": "dealer's showing card", "ylabel": "player's sum"}


@styled
def plot_blackjack_values(
    V: Float[np.ndarray, " S"], *, title: str = "", colour_label: str = "value (units of reward)"
) -> Figure:
    """Two heat maps of a number per state: without a usable ace, and with one.

    Args:
        V: a number for each of the 704 states of ``blackjack_mdp``; the 200 with a sum of
            12..21 are drawn. One colour scale serves both maps.
        title: stands before the name of each map. colour_label: what is drawn, with its unit.

    Book: 04_monte_carlo.
    """
    fig, axes = panels(2, columns=2, width=4.9, height=4.0)
    tables = V[decision_states()]
    for ax, table, hand in zip(axes, tables, HANDS, strict=True):
        plot_heat_map(
            table[::-1],
            colour_label=colour_label,
            title=_joined(title, hand),
            x_names=CARDS,
            y_names=SUMS,
            ax=ax,
            **LABELS,
        )
        ax.images[0].set_clim(tables.min(), max(tables.max(), tables.min() + 1e-9))
    return fig


@styled
def plot_blackjack_policy(
    policy: Float[np.ndarray, "S A"],
    *,
    other: Float[np.ndarray, "S A"] | None = None,
    title: str = "",
) -> Figure:
    """Where a policy hits (H) and sticks (S): without a usable ace, and with one.

    Args:
        policy: π(a|s), [704, 2]. A state with both actions shows the chance of hitting.
        other: another policy; states where the likelier action differs get a frame.
        title: stands before the name of each map.

    Book: 04_monte_carlo. Source: Sutton and Barto (2018), figure 5.2 (the layout).
    """
    fig, axes = panels(2, columns=2, width=4.2, height=4.0)
    hits = policy[decision_states(), HIT]
    differ = np.zeros(hits.shape, bool)
    if other is not None:
        differ = (hits > 0.5) != (other[decision_states(), HIT] > 0.5)
    for ax, table, odd, hand in zip(axes, hits, differ, HANDS, strict=True):
        _draw_actions(ax, table[::-1], odd[::-1])
        ax.set(title=_joined(title, hand), **LABELS)
    return fig


def _draw_actions(ax: Axes, hits: np.ndarray, framed: np.ndarray) -> None:
    """One table of chances of hitting [sums, cards], top row first."""
    ax.imshow(hits > 0.5, cmap=ListedColormap([BLUE, ORANGE]), vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(CARDS)), CARDS)
    ax.set_yticks(range(len(SUMS)), SUMS)
    ax.tick_params(length=0)
    for (row, column), chance in np.ndenumerate(hits):
        word = {0.0: "S", 1.0: "H"}.get(float(chance), f"{chance:.1f}".lstrip("0"))
        ink = "black" if chance > 0.5 else "white"
        ax.text(column, row, word, ha="center", va="center", color=ink, size=9)
        if framed[row, column]:
            corner, frame = (column - 0.43, row - 0.43), {"edgecolor": "black", "linewidth": 2}
            ax.add_patch(Rectangle(corner, 0.86, 0.86, facecolor="none", **frame))


def _joined(title: str, hand: str) -> str:
    return f"{title}: {hand}" if title else hand

"""Text in the notebook: the source of a function, and responses coloured token by token."""

import inspect
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlbook.show.plots import panels, styled


def show_source(function: Callable) -> None:
    """Show the source code of a function or class with colours (plain text elsewhere).

    Cells that call this are tagged ``nbval-ignore-output``: any edit of the source changes them.
    """
    from IPython.display import Code, display

    display(Code(inspect.getsource(function), language="python"))


@styled
def plot_tokens(
    rows: Sequence[Sequence[str]],
    numbers: Sequence[Sequence[float]],
    *,
    colour_label: str,
    names: Sequence[str] | None = None,
    signed: bool = True,
    limits: tuple[float, float] | None = None,
    decimals: int = 2,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Responses as rows of tokens, each on the colour of its number: a token heat map.

    Args:
        rows: the tokens of each response as text; rows may differ in length.
        numbers: one for each token: an advantage, a value, a log-probability.
        names: what to write before each row.
        signed: colours that part at 0 (purple below, green above) instead of dark to bright.
        limits: lowest and highest number of the colour scale. Default: from the numbers, and the
            same on both sides of 0 if signed.
        decimals: of the number written below each token.

    Raises ValueError unless there is one number per token, and at least one token.
    """
    if [len(row) for row in rows] != [len(row) for row in numbers] or not any(rows):
        raise ValueError(
            f"rows of {[len(row) for row in rows]} tokens and {[len(row) for row in numbers]} "
            "numbers: give one number per token"
        )
    T = max(len(row) for row in rows)
    grid = np.full((len(rows), T), np.nan)
    for b, row in enumerate(numbers):
        grid[b, : len(row)] = row
    if limits is None:
        reach = float(np.nanmax(np.abs(grid)))
        limits = (-reach, reach) if signed else (float(np.nanmin(grid)), float(np.nanmax(grid)))
    ax = panels(1, width=2.2 + 0.85 * T, height=0.9 + 0.62 * len(rows))[1][0] if ax is None else ax
    colours = plt.cm.PRGn if signed else plt.cm.viridis
    picture = ax.imshow(grid, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    ax.figure.colorbar(picture, ax=ax, label=colour_label)
    for b, row in enumerate(rows):
        for t, token in enumerate(row):
            red, green, blue, _ = picture.cmap(picture.norm(grid[b, t]))
            ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
            number = f"{round(grid[b, t], decimals) + 0.0:.{decimals}f}"  # + 0.0: no -0.00
            ax.text(t, b - 0.12, token, ha="center", va="center", color=ink, weight="bold")
            ax.text(t, b + 0.26, number, ha="center", va="center", color=ink, size=8)
    ax.set_xticks(range(T), [str(t + 1) for t in range(T)])
    ax.set_yticks(range(len(rows)), [""] * len(rows) if names is None else list(names))
    ax.set(xlabel="token", title=title)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax.figure

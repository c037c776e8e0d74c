"""Figures: arrays in, a matplotlib figure out, in one style.

Colours are safe for colour-blind readers (Okabe and Ito 2008; viridis). Every figure reaches
the notebook through ``show_figure``, which asks for its alt text.
"""

import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlbook.statistics import Interval, mean_interval
from rlbook.tabular import maps
from rlbook.tabular.gridworld import MOVES, GridWorld

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "lines.linewidth": 2,
    "legend.frameon": False,
}
TERMINAL_COLOURS = {maps.GOAL: GREEN, maps.PIT: RED}


def styled(plot: Callable) -> Callable:
    """Draw with the book's style, whatever the reader's own settings."""

    @functools.wraps(plot)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with plt.rc_context(STYLE):
            return plot(*args, **kwargs)

    return wrapper


# --- reaching the notebook -------------------------------------------------------------------


def show_figure(fig: Figure, alt: str) -> None:
    """Show a figure in the notebook with its alt text, and close it.

    The alt text is stored with the picture and is its plain-text form, so that it is read
    aloud, searched, and compared when the book is validated.

    Args:
        fig: any matplotlib figure.
        alt: what a reader who cannot see it needs to know, in one or two sentences.
    """
    from IPython.display import display

    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the figure shows")
    bundle = {"image/png": png_bytes(fig), "text/plain": f"Figure: {alt}"}
    display(bundle, raw=True, metadata={"image/png": {"alt": alt}})


def png_bytes(fig: Figure) -> bytes:
    """The figure as a PNG of its full size (no cropping, so that frames do not jump); closes it."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=fig.dpi)
    plt.close(fig)
    return buffer.getvalue()


@styled
def panels(
    count: int, *, columns: int = 3, width: float = 3.4, height: float = 3.2
) -> tuple[Figure, list[Axes]]:
    """An empty figure with ``count`` axes in rows of ``columns``; sizes in inches per panel."""
    columns = min(count, columns)
    rows = -(-count // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
    )
    for spare in axes.ravel()[count:]:
        spare.axis("off")
    return fig, list(axes.ravel()[:count])


# --- gridworlds ------------------------------------------------------------------------------


@styled
def plot_grid(
    grid: GridWorld,
    *,
    V: Float[np.ndarray, " S"] | None = None,
    policy: Float[np.ndarray, "S A"] | None = None,
    path: Sequence[int] | None = None,
    title: str = "",
    decimals: int = 1,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw a gridworld: walls, goals and pits, with values, arrows and a path on top.

    Args:
        grid: the gridworld.
        V: a value per state: colours the cells and is written into them.
        policy: π(a|s): one arrow per action with probability above 0, longer where likelier.
        path: states visited one after another, drawn as a line.
        title, decimals: of the figure, and of the numbers written into cells.
        limits: lowest and highest value of the colour scale; default from V.
        ax: draw here instead of into a new figure.
    """
    ax = _new_axes(grid) if ax is None else ax
    _draw_cells(grid, ax, V, limits)
    _outline_terminals(grid, ax)
    dark = _dark_cells(V, limits)
    for s, (row, column) in enumerate(grid.cells.tolist()):
        ink = "white" if dark is not None and dark[s] and not grid.terminal[s] else "black"
        symbol = grid.symbols[row, column]
        if grid.terminal[s]:
            ax.text(column, row, symbol, ha="center", va="center", weight="bold", color="white")
            continue
        if V is not None:
            below = 0.35 if policy is not None else 0.0
            size = 10 if policy is None else 8
            ax.text(
                column,
                row + below,
                _number(V[s], decimals),
                ha="center",
                va="center",
                color=ink,
                size=size,
            )
        elif symbol != maps.FLOOR and policy is None:
            ax.text(column, row, symbol, ha="center", va="center", color=ink)
        if policy is not None:
            _draw_arrows(ax, row - (0.14 if V is not None else 0.0), float(column), policy[s], ink)
    if path is not None:
        rows, columns = grid.cells[list(path)].T
        ax.plot(columns, rows, color=ORANGE, linewidth=3, marker="o", markersize=5, alpha=0.9)
    ax.set_title(title)
    return ax.figure


@styled
def plot_action_values(
    grid: GridWorld,
    Q: Float[np.ndarray, "S A"],
    *,
    title: str = "",
    decimals: int = 1,
    ax: Axes | None = None,
) -> Figure:
    """Draw Q(s, a): each cell cut into four triangles, one per direction of moving.

    The best actions of a cell (ties included) are printed in bold.
    """
    from rlbook.tabular.planning import optimal_actions

    ax = _new_axes(grid, cell=1.25) if ax is None else ax
    _draw_cells(grid, ax, None, None)
    _outline_terminals(grid, ax)
    live = ~grid.terminal
    norm = plt.Normalize(Q[live].min(), max(Q[live].max(), Q[live].min() + 1e-9))
    best = optimal_actions(Q)
    corners = np.array([(-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5)])  # clockwise
    for s, (row, column) in enumerate(grid.cells.tolist()):
        if grid.terminal[s]:
            symbol = grid.symbols[row, column]
            ax.text(column, row, symbol, ha="center", va="center", weight="bold", color="white")
            continue
        for a, move in enumerate(MOVES):
            side = corners[[a, (a + 1) % 4]]
            triangle = np.array([(row, column), *np.add(side, (row, column))])
            shade = norm(Q[s, a])
            colour = plt.cm.viridis(shade)
            ax.fill(triangle[:, 1], triangle[:, 0], color=colour, edgecolor="white", linewidth=0.6)
            ax.text(
                column + 0.31 * move[1],
                row + 0.31 * move[0],
                _number(Q[s, a], decimals),
                ha="center",
                va="center",
                size=8,
                weight="bold" if best[s, a] else "normal",
                color="white" if shade < 0.55 else "black",
            )
    ax.set_title(title)
    return ax.figure


def _number(value: float, decimals: int) -> str:
    return f"{round(float(value), decimals) + 0.0:.{decimals}f}"  # + 0.0 turns -0.0 into 0.0


def _new_axes(grid: GridWorld, cell: float = 0.85) -> Axes:
    height, width = grid.symbols.shape
    size = min(cell, 9.0 / width)
    return plt.figure(figsize=(size * width + 0.3, size * height + 0.5)).add_subplot()


def _draw_cells(
    grid: GridWorld, ax: Axes, V: np.ndarray | None, limits: tuple[float, float] | None
) -> None:
    height, width = grid.symbols.shape
    ax.set_facecolor("#4a4a4a")  # walls
    floor = np.where(grid.symbols == maps.WALL, np.nan, 0.0)
    if V is None:
        ax.imshow(floor, cmap="Greys", vmin=-0.1, vmax=1.0)
    else:
        low, high = _limits(V, limits)
        ax.imshow(grid.to_grid(V), cmap="viridis", vmin=low, vmax=high)
    ax.set_xticks(range(width))
    ax.set_yticks(range(height))
    ax.tick_params(length=0, labelsize=8, colors="#777777")
    if max(height, width) > 15:
        ax.set_xticks([]), ax.set_yticks([])
    else:
        for line in np.arange(-0.5, max(height, width)):
            ax.axhline(line, color="white", linewidth=0.8)
            ax.axvline(line, color="white", linewidth=0.8)
    ax.set_xlim(-0.5, width - 0.5), ax.set_ylim(height - 0.5, -0.5)
    ax.spines[:].set_visible(False)


def _outline_terminals(grid: GridWorld, ax: Axes) -> None:
    for row, column in grid.cells[grid.terminal]:
        colour = TERMINAL_COLOURS[str(grid.symbols[row, column])]
        ax.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour))


def _draw_arrows(ax: Axes, row: float, column: float, probabilities: np.ndarray, ink: str) -> None:
    for (down, right), probability in zip(MOVES, probabilities, strict=True):
        if probability > 0.0:
            length = 0.14 + 0.2 * probability
            ax.annotate(
                "",
                (column + length * right, row + length * down),
                (column, row),
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": ink,
                    "lw": 1.4,
                    "shrinkA": 0,
                    "shrinkB": 0,
                },
            )


def _limits(V: np.ndarray, limits: tuple[float, float] | None) -> tuple[float, float]:
    low, high = (float(V.min()), float(V.max())) if limits is None else limits
    return low, max(high, low + 1e-9)


def _dark_cells(
    V: np.ndarray | None, limits: tuple[float, float] | None
) -> Bool[np.ndarray, " S"] | None:
    """True where the colour of a value is too dark for black ink."""
    if V is None:
        return None
    low, high = _limits(V, limits)
    return (V - low) / (high - low) < 0.55


# --- curves and matrices ---------------------------------------------------------------------


@styled
def plot_curves(
    curves: Mapping[str, Sequence[float] | np.ndarray],
    *,
    xlabel: str,
    ylabel: str,
    x: Sequence[float] | np.ndarray | None = None,
    log_y: bool = False,
    log_x: bool = False,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw named curves (convergence, learning, sweeps of a parameter) with units on both axes.

    Args:
        curves: name → heights; told apart by colour and by dashes, the first 36 of them.
            Points that a logarithmic axis cannot show (zero or less) are left out.
        x: positions shared by all curves; default 1, 2, 3, ...
        log_x, log_y: logarithmic axes.
    """
    ax = _curve_axes() if ax is None else ax
    for i, (name, y) in enumerate(curves.items()):
        y = np.asarray(y, float)
        position = np.arange(1, len(y) + 1) if x is None else np.asarray(x, float)
        y = np.where(y > 0.0, y, np.nan) if log_y else y
        ax.plot(position, y, label=name, color=CYCLE[i % 6], linestyle=DASHES[(i + i // 6) % 6])
    if log_y:
        ax.set_yscale("log")
    if log_x:
        ax.set_xscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.grid(axis="y", color="#dddddd", linewidth=0.8)
    if len(curves) > 1:
        _legend_outside(ax)
    return ax.figure


@styled
def plot_bands(
    curves: Mapping[str, np.ndarray],
    *,
    xlabel: str,
    ylabel: str,
    x: Sequence[float] | np.ndarray | None = None,
    log_y: bool = False,
    log_x: bool = False,
    references: Mapping[str, float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw named curves over several seeds: their mean, and the 95% interval of it as a band.

    The band is Student's t at each position by itself (``rlbook.statistics.mean_interval``):
    how sure the mean is, not how far single seeds spread. One seed has no band.

    Args:
        curves: name → heights [seeds, T], as ``load_run(name).curves(measure)`` gives them.
        references: name → height of a dotted grey line, such as a known optimum.
        x, log_x, log_y, title, ax: as for ``plot_curves``.
    """
    bands = {}
    for name, samples in curves.items():
        samples = np.asarray(samples, float)
        if samples.ndim != 2 or len(samples) == 0:
            raise ValueError(f"curve {name!r} must have shape [seeds, T]; it is {samples.shape}")
        single = len(samples) == 1
        bands[name] = Interval(*samples[[0, 0, 0]]) if single else mean_interval(samples)
    ax = _curve_axes() if ax is None else ax
    drawn = len(ax.lines)
    means = {name: band.mean for name, band in bands.items()}
    labels = {"xlabel": xlabel, "ylabel": ylabel, "title": title}
    plot_curves(means, x=x, log_y=log_y, log_x=log_x, ax=ax, **labels)
    for line, band in zip(ax.lines[drawn:], bands.values(), strict=True):
        shown = np.stack([band.low, band.high])
        if log_y and (shown > 0.0).any():  # a band that reaches 0 is cut at the lowest point shown
            shown = np.maximum(shown, shown[shown > 0.0].min())
        ax.fill_between(line.get_xdata(), *shown, color=line.get_color(), alpha=0.2, linewidth=0)
    for name, height in (references or {}).items():
        ax.axhline(height, color="#777777", linestyle=":", linewidth=1.5, label=name)
    if len(curves) + len(references or {}) > 1:
        _legend_outside(ax)
    return ax.figure


def _curve_axes() -> Axes:
    return plt.figure(figsize=(6.4, 3.6)).add_subplot()


def _legend_outside(ax: Axes) -> None:
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


@styled
def plot_heat_map(
    matrix: Float[np.ndarray, "rows columns"],
    *,
    xlabel: str,
    ylabel: str,
    colour_label: str,
    title: str = "",
    x_names: Iterable[str] | None = None,
    y_names: Iterable[str] | None = None,
    decimals: int | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw a matrix as colours, with a colour bar, and its numbers if ``decimals`` is given."""
    rows, columns = matrix.shape
    if ax is None:
        ax = plt.figure(figsize=(1.8 + 0.62 * columns, 1.2 + 0.5 * rows)).add_subplot()
    picture = ax.imshow(matrix, cmap="viridis", aspect="auto", interpolation="nearest")
    ax.figure.colorbar(picture, ax=ax, label=colour_label)
    if x_names is not None:
        ax.set_xticks(range(columns), list(x_names))
    if y_names is not None:
        ax.set_yticks(range(rows), list(y_names))
    if decimals is not None:
        low, high = np.nanmin(matrix), np.nanmax(matrix)
        for (row, column), value in np.ndenumerate(matrix):
            ink = "white" if value - low <= 0.55 * (high - low) else "black"
            ax.text(column, row, f"{value:.{decimals}f}", ha="center", va="center", color=ink)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return ax.figure

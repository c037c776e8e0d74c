"""The chapter map: where its boxes and arrows go (pure functions), and how they are drawn.

Rows are the parts, top to bottom (y = 0, -1, -2, ...); a box is centred on its column and is
``2 * HALF_WIDTH`` wide and ``2 * HALF_HEIGHT`` high, so that free lanes stay between the boxes.
"""

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path

from rlbook.show.plots import BLUE, ORANGE, styled

Edge = tuple[str, str]  # (needed chapter, chapter that needs it)
Point = tuple[float, float]

HALF_WIDTH, HALF_HEIGHT = 0.41, 0.27


def transitive_reduction(edges: Iterable[Edge]) -> list[Edge]:
    """Leave out every edge that a longer way implies: 1→3 goes where 1→2 and 2→3 are there.

    The graph must have no circle. The edges that stay keep their order.
    """
    edges = list(dict.fromkeys(edges))
    after: dict[str, set[str]] = {}
    for before, node in edges:
        after.setdefault(before, set()).add(node)

    def reaches(start: str, target: str) -> bool:
        return any(node == target or reaches(node, target) for node in after.get(start, ()))

    return [
        (before, node)
        for before, node in edges
        if not any(reaches(other, node) for other in after[before] - {node})
    ]


def place(parts: Mapping[str, Sequence[str]], edges: Iterable[Edge]) -> dict[str, Point]:
    """Put each part on a row, in its own order, and shift the rows so that arrows are short.

    Of all shifts by halves of a column that keep within the longest row, the one with the least
    sideways travel of the arrows between rows.
    """
    rows = list(parts.values())
    longest = max(map(len, rows))
    slot = {slug: (y, i) for y, row in enumerate(rows) for i, slug in enumerate(row)}
    between = [(slot[a], slot[b]) for a, b in edges if slot[a][0] != slot[b][0]]
    choices = [[k / 2 for k in range(2 * (longest - len(row)) + 1)] for row in rows]

    def travel(shift: tuple[float, ...]) -> float:
        return sum(abs(i + shift[y] - j - shift[z]) for (y, i), (z, j) in between)

    shift = min(itertools.product(*choices), key=travel)
    return {slug: (i + shift[y], -float(y)) for slug, (y, i) in slot.items()}


def way(at: Mapping[str, Point], edge: Edge) -> list[Point]:
    """The corners of an arrow, from the edge of one box to the edge of another.

    Neighbours on a row are joined straight; others on a row by a bow below them (two control
    points, to be drawn as a Bézier curve); boxes on different rows by a way from the bottom of
    the first to the top of the second, through a free lane of every row that lies between.
    """
    (x0, y0), (x1, y1) = at[edge[0]], at[edge[1]]
    if y0 == y1:
        side = HALF_WIDTH if x1 > x0 else -HALF_WIDTH
        if not any(y == y0 and min(x0, x1) < x < max(x0, x1) for x, y in at.values()):
            return [(x0 + side, y0), (x1 - side, y0)]
        low = y0 - HALF_HEIGHT
        dip = low - 0.14 - 0.1 * abs(x1 - x0)
        inwards = 0.2 * (1 if x1 > x0 else -1)
        return [(x0 + inwards, low), (x0 + 2 * inwards, dip), (x1 - 2 * inwards, dip), (x1, low)]
    down = -1 if y1 < y0 else 1
    points = [(x0, y0 + down * HALF_HEIGHT)]
    for y in range(int(y0) + down, int(y1), down):
        x = points[-1][0] + (x1 - points[-1][0]) / 2
        lane = min(_lanes(at, float(y)), key=lambda lane: (abs(lane - x), lane))
        points += [(lane, y - down * HALF_HEIGHT), (lane, y + down * HALF_HEIGHT)]
    return [*points, (x1, y1 - down * HALF_HEIGHT)]


def _lanes(at: Mapping[str, Point], y: float) -> list[float]:
    """The columns of a row, in halves, on which no box lies."""
    taken = [x for x, row in at.values() if row == y]
    halves = range(-1, 2 * int(max(x for x, _ in at.values())) + 3)
    return [k / 2 for k in halves if all(abs(k / 2 - x) >= 0.5 for x in taken)]


# --- drawing ---------------------------------------------------------------------------------


@styled
def plot_chapter_map(
    parts: Mapping[str, Sequence[str]],
    edges: Iterable[tuple[str, str]],
    *,
    planned: Iterable[str] = (),
    highlight: Iterable[str] = (),
    numbers_only: bool = False,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw the book: one row per part, an arrow from each chapter to those that need it.

    Arrows that others imply are left out; none crosses a box.

    Args:
        parts: name of the part (a colon breaks its line) → its chapters (slugs such as
            "03_planning").
        edges: (prerequisite, chapter).
        planned: chapters in preparation, drawn hollow.
        highlight: chapters drawn in orange, such as a route or the current one.
        numbers_only: small boxes without names, for several maps side by side.
        ax: draw here instead of into a new figure.
    """
    planned, highlight = set(planned), set(highlight)
    edges = transitive_reduction(edges)
    at = place(parts, edges)
    right = max(x for x, _ in at.values()) + 0.5
    left = -0.6 if numbers_only else -1.75
    bottom = 0.6 - len(parts) - (0.3 if _bows_below(at, edges, 1.0 - len(parts)) else 0.0)
    if ax is None:
        size = 0.5 if numbers_only else 1.3
        fig = plt.figure(figsize=(size * (right - left), size * (0.5 - bottom) + 0.35))
        ax = fig.add_subplot()
    for edge in edges:
        strong = highlight.issuperset(edge)
        _draw_way(ax, way(at, edge), strong, 8.0 if numbers_only else 12.0)
    for slug, centre in at.items():
        _draw_chapter(ax, slug, centre, slug in planned, slug in highlight, numbers_only)
    if not numbers_only:
        for row, name in enumerate(parts):
            label = "\n".join(textwrap.fill(line.strip(), 18) for line in name.split(":"))
            ax.text(left, -row, label, size=10, weight="bold", color="#333333", va="center")
        _explain_boxes(ax, planned, highlight, set(at))
    ax.set(xlim=(left, right), ylim=(bottom, 0.4), title=title)
    ax.axis("off")
    return ax.figure


def _bows_below(at: Mapping[str, tuple[float, float]], edges: Iterable, row: float) -> bool:
    ways = (way(at, edge) for edge in edges)
    return any(y < row - HALF_HEIGHT - 1e-9 for way in ways for _, y in way)


def _draw_way(ax: Axes, points: list[tuple[float, float]], strong: bool, scale: float) -> None:
    bow = len(points) == 4 and points[0][1] == points[-1][1]
    codes = [Path.MOVETO] + [Path.CURVE4 if bow else Path.LINETO] * (len(points) - 1)
    arrow = FancyArrowPatch(
        path=Path(points, codes),
        arrowstyle="-|>",
        mutation_scale=scale,
        linewidth=1.8 if strong else 1.1,
        shrinkA=0,
        shrinkB=0,
        color="#B87700" if strong else "#808080",
        joinstyle="round",
        zorder=2 if strong else 1,
    )
    ax.add_patch(arrow)


def _draw_chapter(
    ax: Axes,
    slug: str,
    centre: tuple[float, float],
    planned: bool,
    highlighted: bool,
    number_only: bool,
) -> None:
    colour = ORANGE if highlighted else BLUE
    number, _, words = slug.partition("_")
    label = number if number_only else f"{number}\n" + words.replace("_", "\n", 1).replace("_", " ")
    half_width, half_height = HALF_WIDTH, HALF_HEIGHT
    box = FancyBboxPatch(
        (centre[0] - half_width, centre[1] - half_height),
        2 * half_width,
        2 * half_height,
        boxstyle="round,pad=0,rounding_size=0.06",
        facecolor="white" if planned else colour,
        edgecolor=colour if highlighted or not planned else "#777777",
        linestyle="--" if planned else "-",
        linewidth=1.8 if highlighted else 1.2,
        zorder=3,
    )
    ax.add_patch(box)
    ink = "#333333" if planned else ("black" if highlighted else "white")
    ax.text(*centre, label, ha="center", va="center", size=9.5, color=ink, zorder=4)


def _explain_boxes(ax: Axes, planned: set[str], highlight: set[str], slugs: set[str]) -> None:
    """A line above the map: what filled, hollow and orange boxes mean, where there are any."""
    kinds = {
        "written": (slugs - planned - highlight, {"facecolor": BLUE, "edgecolor": BLUE}),
        "in preparation": (planned, {"facecolor": "white", "edgecolor": "#777777", "ls": "--"}),
        "marked": (highlight, {"facecolor": ORANGE, "edgecolor": ORANGE}),
    }
    keys = [
        Rectangle((0, 0), 1, 1, label=name, **look) for name, (any_, look) in kinds.items() if any_
    ]
    ax.legend(handles=keys, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncol=3, fontsize=9.5)

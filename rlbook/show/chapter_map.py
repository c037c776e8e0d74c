"""Where the boxes and arrows of the chapter map go: pure functions from names to coordinates.

Rows are the parts, top to bottom (y = 0, -1, -2, ...); a box is centred on its column and is
``2 * HALF_WIDTH`` wide and ``2 * HALF_HEIGHT`` high, so that free lanes stay between the boxes.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

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

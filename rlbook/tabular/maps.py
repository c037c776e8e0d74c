"""Text maps: a gridworld drawn with one character per cell.

    S . . #        S  the start         #  a wall
    . # . .        G  a goal  (ends)    .  floor
    . . P G        P  a pit   (ends)    any other symbol must be declared

(drawn without the spaces). The same maps come back in chapter 12 as prompts of a language model.
"""

from collections import deque

import numpy as np
from jaxtyping import Bool, Float

WALL, FLOOR, START, GOAL, PIT = "#", ".", "S", "G", "P"
SYMBOLS = WALL + FLOOR + START + GOAL + PIT

CORRIDOR = "S...G"

OPEN_5X5 = """
....G
.....
.....
.....
S....
"""

# Russell and Norvig, Artificial Intelligence: A Modern Approach, figure 17.1 (3rd edition).
AIMA_4X3 = """
...G
.#.P
S...
"""

MAZE = """
S.#.....
..#.###.
..#.#...
....#.#.
.####.#.
.P....#G
"""

# The shape of Sutton, Precup and Singh (1999), "Between MDPs and semi-MDPs", figure 2.
FOUR_ROOMS = """
#############
#S....#.....#
#.....#.....#
#...........#
#.....#.....#
#.....#.....#
##.####.....#
#.....###.###
#.....#.....#
#.....#.....#
#...........#
#.....#....G#
#############
"""

# Sutton and Barto, Reinforcement Learning (2nd edition), example 6.5: with WINDY_COLUMNS the
# shortest path takes 15 moves.
WINDY = """
..........
..........
..........
S......G..
..........
..........
..........
"""
WINDY_COLUMNS = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)


def parse_map(text: str, *, extra_symbols: str = "") -> np.ndarray:
    """Turn a text map into an array of single characters [height, width].

    Blank lines before and after the map and spaces around its lines are ignored.

    Args:
        text: the map, one line per row.
        extra_symbols: symbols allowed beside ``# . S G P``.

    Raises:
        ValueError: the map is empty or ragged (which line), or a symbol is unknown (where).

    Book: 02_gridworld.
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    if not lines or not lines[0]:
        raise ValueError("the map is empty: draw at least one row, such as 'S...G'")
    width = len(lines[0])
    for row, line in enumerate(lines):
        if len(line) != width:
            raise ValueError(
                f"the map is ragged: row {row} ({line!r}) has {len(line)} cells, row 0 has "
                f"{width}; pad the short row with '#' or '.'"
            )
        for column, symbol in enumerate(line):
            if symbol not in SYMBOLS + extra_symbols:
                raise ValueError(
                    f"unknown symbol {symbol!r} at row {row}, column {column}: the map knows "
                    f"{' '.join(SYMBOLS + extra_symbols)}; declare a new one with "
                    f"rewards={{{symbol!r}: ...}}"
                )
    return np.array([list(line) for line in lines])


def find(symbols: np.ndarray, symbol: str) -> list[tuple[int, int]]:
    """All cells (row, column) that show ``symbol``, in reading order."""
    return [(int(row), int(column)) for row, column in np.argwhere(symbols == symbol)]


def start_cell(symbols: np.ndarray) -> tuple[int, int]:
    """The one cell marked S.

    Raises:
        ValueError: the map has no start, or several (where they are).
    """
    starts = find(symbols, START)
    if len(starts) != 1:
        where = f" at {', '.join(map(str, starts))}" if starts else ""
        raise ValueError(
            f"the map has {len(starts)} starts{where}, and exactly one is needed: mark one cell S"
        )
    return starts[0]


def shortest_distances(
    symbols: np.ndarray, targets: list[tuple[int, int]]
) -> Float[np.ndarray, "height width"]:
    """Number of moves from each cell to the nearest target, walking around walls; inf if cut off.

    A breadth-first search. Pits count as floor: this measures walls only.
    """
    distances = np.full(symbols.shape, np.inf)
    queue = deque(targets)
    for cell in targets:
        distances[cell] = 0.0
    while queue:
        row, column = queue.popleft()
        for near in ((row - 1, column), (row, column + 1), (row + 1, column), (row, column - 1)):
            inside = 0 <= near[0] < symbols.shape[0] and 0 <= near[1] < symbols.shape[1]
            if inside and symbols[near] != WALL and np.isinf(distances[near]):
                distances[near] = distances[row, column] + 1.0
                queue.append(near)
    return distances


def check_goals_reachable(symbols: np.ndarray) -> None:
    """Raise ValueError if walls cut a goal off from the start, or, in a map without S, from
    any open cell (names the cells)."""
    from_where = find(symbols, START) or np.argwhere(symbols != WALL).tolist()
    for goal in find(symbols, GOAL):
        distances = shortest_distances(symbols, [goal])
        for row, column in from_where:
            if np.isinf(distances[row, column]):
                raise ValueError(
                    f"the goal at {goal} cannot be reached from the cell ({row}, {column}): "
                    "walls cut it off; open a path"
                )


def random_map(
    height: int, width: int, *, wall_share: float, generator: np.random.Generator
) -> str:
    """Draw a random map with one start and one goal that can be reached from it.

    Args:
        height, width: in cells; together at least 2 cells.
        wall_share: share of the cells that are walls, in [0, 0.6]. Cells that the walls cut
            off from the start are filled in as walls, so every open cell is connected.
        generator: source of randomness.

    Raises:
        ValueError: size or wall_share out of range.
    """
    if height * width < 2 or min(height, width) < 1:
        raise ValueError(f"a map of {height} x {width} has no room for S and G: use at least 1 x 2")
    if not 0.0 <= wall_share <= 0.6:
        raise ValueError(f"wall_share={wall_share} must lie in [0, 0.6]")
    while True:
        symbols = np.where(generator.random((height, width)) < wall_share, WALL, FLOOR)
        open_cells = find(symbols, FLOOR)
        if len(open_cells) < 2:
            continue
        start, goal = (open_cells[i] for i in generator.permutation(len(open_cells))[:2])
        connected: Bool[np.ndarray, "height width"] = np.isfinite(
            shortest_distances(symbols, [start])
        )
        if connected[goal]:
            symbols[~connected] = WALL
            symbols[start], symbols[goal] = START, GOAL
            return "\n".join("".join(row) for row in symbols)

"""Grid paths: the gridworld as text. A map, a start and a goal are named; moves are the tokens.

    prompt    open 40>04:       on the map "open", from row 4, column 0 to row 0, column 4
    response  UURRUURR.         up, right, ...; the full stop says "I am there"

Moves follow ``tabular.gridworld`` without chance: a move into a wall or over the edge leaves the
walker where it is, and entering a pit ends the walk for good. The goal is the cell that the prompt
names; a G drawn on the map is floor like any other. So the language model's task *is* chapter
02's gridworld: at -1 per move, V*(cell) = -``distance``.

The walkers who demonstrate are biased: wanting to go left they write R, wanting to go down they
write U, in ``bias`` of the cases, and do not notice: they carry on from where they believe they
are. Each of their moves is sound (nothing bumps, nobody dies) as often as not, and the path ends
somewhere else. Now and then they make a random move, knowingly (``noise``).
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from rlbook.lm.tasks.task import Problem, Task, check_probability, noisy_opinions
from rlbook.tabular import maps

Cell = tuple[int, int]

MOVES = {"U": (-1, 0), "R": (0, 1), "D": (1, 0), "L": (0, -1)}
TAKEN_FOR = {"L": "R", "D": "U"}  # what a biased walker writes for what is meant
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # a row or a column as one character
PROMPT = re.compile(r"([a-z]+) ([0-9a-z])([0-9a-z])>([0-9a-z])([0-9a-z]):")
SPARE_MOVES = 4  # beyond the longest shortest path, before the length limit cuts
SLIP_NEEDS = 2  # moves to spare before a walker dares a random one, which may cost two
BOOK_MAPS = {"open": maps.OPEN_5X5, "aima": maps.AIMA_4X3}  # both from chapter 02


class GridPath(Task):
    """Find the way on a map that is named, not shown.

    The reward is ``1 - step_cost · moves`` iff the moves reach the goal with their last one, no
    earlier, no pit entered, and a full stop ends the text; else 0.

    Args:
        named_maps: text maps by name (lower-case letters), at most 36 rows and columns.
            Default: chapter 02's two.
        bias: probability, per move left or down, that a demonstrator writes the opposite.
        noise: probability, per move, that a demonstrator makes a random one.
        step_cost: price of a move, at least 0; small enough that no shortest path costs 1.
        moves_per_step: moves that make one step of the response, at least 1.

    Raises:
        ValueError: an argument out of range, or a map that is malformed or has no path.

    Book: 12_text_as_mdp.
    """

    name = "gridpath"

    def __init__(
        self,
        named_maps: Mapping[str, str] | None = None,
        *,
        bias: float = 0.7,
        noise: float = 0.03,
        step_cost: float = 0.0,
        moves_per_step: int = 1,
    ) -> None:
        self.grids = {name: _grid(name, text) for name, text in (named_maps or BOOK_MAPS).items()}
        self.bias = check_probability("bias", bias)
        self.noise = check_probability("noise", noise)
        if moves_per_step < 1:
            raise ValueError(f"moves_per_step={moves_per_step} must be at least 1")
        self.step_cost, self.moves_per_step = float(step_cost), moves_per_step
        self._landings = {name: landings(grid) for name, grid in self.grids.items()}
        self._pits = {name: set(maps.find(grid, maps.PIT)) for name, grid in self.grids.items()}
        self._distances: dict[tuple[str, Cell], dict[Cell, float]] = {}
        self._best: dict[tuple[str, Cell, Cell], list[str]] = {}
        self._trips = {name: self._find_trips(name) for name in self.grids}
        longest = max(self.distance(problem) for trips in self._trips.values() for problem in trips)
        if not 0.0 <= step_cost * longest < 1.0:
            raise ValueError(
                f"step_cost={step_cost} must lie in [0, {1 / longest:.3g}): the longest shortest "
                f"path has {longest} moves and must earn more than nothing"
            )
        names = "".join(self.grids)
        self.characters = "".join(sorted({*names, *DIGITS, *MOVES, *" >:."}))
        self.max_moves = longest + SPARE_MOVES
        self.max_new_tokens = self.max_moves + 2  # the full stop and EOS

    # --- problems and rewards ---

    def draw(self, n: int, generator: torch.Generator) -> list[Problem]:
        trips = list(self._trips.values())
        which = torch.randint(0, len(trips), (n,), generator=generator).tolist()
        places = torch.rand(n, generator=generator, dtype=torch.float64).tolist()
        return [
            trips[i][int(place * len(trips[i]))] for i, place in zip(which, places, strict=True)
        ]

    def all_problems(self, split: str | None = None) -> list[Problem]:
        """Every (map, start, goal), of one split or of both, in reading order."""
        every = [problem for trips in self._trips.values() for problem in trips]
        return [problem for problem in every if split in (None, self.split_of(problem))]

    def score(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        return [
            1.0 - self.step_cost * (len(text) - 1) if self.arrives(problem, text) else 0.0
            for problem, text in zip(problems, texts, strict=True)
        ]

    def arrives(self, problem: Problem, text: str) -> bool:
        """Whether the text is a walk whose last move, and no earlier one, enters the goal."""
        moves = text.removesuffix(".")
        if moves == text or set(moves) - set(MOVES):
            return False
        cells = self.cells(problem, moves)
        goal = parse(problem.prompt)[2]
        return goal in cells and cells.index(goal) == len(moves)

    def cells(self, problem: Problem, text: str) -> list[Cell]:
        """Where the walk stands before and after each move; it stops inside a pit it enters.

        Characters that are no moves are passed over.
        """
        name, cell, _ = parse(problem.prompt)
        found = [cell]
        for move in text:
            if cell in self._pits[name]:
                break
            if move in MOVES:
                cell = self._landings[name][cell][move]
                found.append(cell)
        return found

    def distance(self, problem: Problem, cell: Cell | None = None) -> int | float:
        """Moves from the start (or from a cell) to the goal around walls and pits; inf in a pit.

        With -1 per move and γ = 1 this is -V* of chapter 02's gridworld; the best reward here is
        1 - step_cost · distance.
        """
        name, start, goal = parse(problem.prompt)
        distance = self._distances_to(name, goal)[cell or start]
        return int(distance) if np.isfinite(distance) else float("inf")

    # --- steps ---

    def step_boundaries(self, text: str) -> list[int]:
        """After every ``moves_per_step`` characters; the full stop belongs to the last step."""
        moves = len(text.removesuffix("."))
        inner = range(self.moves_per_step, moves, self.moves_per_step)
        return [*inner, len(text)]

    def steps_right(self, problem: Problem, text: str) -> list[bool]:
        """For each step: does every move in it bring the walker nearer to the goal?

        A full stop is right at the goal alone, and nothing is right after a pit or past the goal.
        """
        verdicts = []
        cells = self.cells(problem, text)
        distances = [self.distance(problem, cell) for cell in cells]
        moved = 0
        for character in text:
            if character == ".":
                verdicts.append(distances[moved] == 0)
            elif character in MOVES and moved + 1 < len(cells) and distances[moved] > 0:
                moved += 1
                verdicts.append(distances[moved] < distances[moved - 1])
            else:
                verdicts.append(False)
        return self._by_step(text, verdicts)

    def steps_sound(self, problem: Problem, text: str) -> list[bool]:
        """For each step: is every move in it possible, wherever it leads? No bump, no pit.

        The goal plays no part: a sound path may miss it, and a path that bumps may reach it.
        """
        name = parse(problem.prompt)[0]
        cells = self.cells(problem, text)
        verdicts, moved = [], 0
        for character in text:
            if character in MOVES and moved + 1 < len(cells):
                moved += 1
                stays = cells[moved] == cells[moved - 1]
                verdicts.append(not stays and cells[moved] not in self._pits[name])
            else:
                verdicts.append(character == "." and cells[-1] not in self._pits[name])
        return self._by_step(text, verdicts)

    def judge_steps(
        self, problem: Problem, text: str, generator: torch.Generator, *, error: float = 0.1
    ) -> list[bool]:
        """A noisy judge's opinion of each step: ``steps_sound``, wrong with probability error.

        It knows the map and the walk so far, not the goal.
        """
        return noisy_opinions(self.steps_sound(problem, text), generator, error=error)

    def _by_step(self, text: str, verdicts: Sequence[bool]) -> list[bool]:
        ends = self.step_boundaries(text)
        return [all(verdicts[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    # --- demonstrations ---

    def demonstrations(
        self, n: int, generator: torch.Generator, *, clean: bool = False
    ) -> list[tuple[str, str]]:
        """n pairs (prompt, response) on training problems, by the biased, noisy walkers.

        A walker takes one of the shortest ways from where it believes to be, each best move
        equally likely. ``clean=True``: no bias and no noise, so every path is a shortest one.
        """
        bias, noise = (0.0, 0.0) if clean else (self.bias, self.noise)
        problems = self.problems(n, generator)
        chances = torch.rand((n, self.max_moves, 3), generator=generator).tolist()
        return [
            (problem.prompt, self._walk(problem, rolls, bias, noise))
            for problem, rolls in zip(problems, chances, strict=True)
        ]

    def documents(self, n: int, generator: torch.Generator) -> list[str]:
        """n clean documents for pretraining: prompt and a shortest path in one text."""
        return [
            prompt + response for prompt, response in self.demonstrations(n, generator, clean=True)
        ]

    def demonstrator_accuracy(self, problem: Problem, *, greedy: bool = False) -> float:
        """Exact probability that a demonstration on this problem arrives.

        Follows the joint distribution of (believed cell, true cell) move by move.
        ``greedy=True``: of the walkers with the likelier of right and wrong everywhere and no
        noise, averaged over the best moves they choose among.
        """
        bias, noise = (float(self.bias > 0.5), 0.0) if greedy else (self.bias, self.noise)
        name, start, goal = parse(problem.prompt)
        landing, distances = self._landings[name], self._distances_to(name, goal)
        careful = {cell: self._choices(name, goal, cell, bias, 0.0) for cell in distances}
        relaxed = {cell: self._choices(name, goal, cell, bias, noise) for cell in distances}
        pairs = {(start, start): 1.0}
        arrived = 0.0
        for moves_left in range(self.max_moves, 0, -1):
            following: dict[tuple[Cell, Cell], float] = {}
            for (believed, true), mass in pairs.items():
                may_slip = moves_left >= distances[believed] + SLIP_NEEDS
                for meant, written, chance in (relaxed if may_slip else careful)[believed]:
                    now = landing[believed][meant], landing[true][written]
                    if now == (goal, goal):
                        arrived += mass * chance
                    elif goal not in now and now[1] not in self._pits[name]:
                        following[now] = following.get(now, 0.0) + mass * chance
            pairs = following
        return arrived

    def _walk(
        self, problem: Problem, rolls: Sequence[Sequence[float]], bias: float, noise: float
    ) -> str:
        name, believed, goal = parse(problem.prompt)
        distances = self._distances_to(name, goal)
        text = ""
        while believed != goal:
            slips, which, mistakes = rolls[len(text)]
            may_slip = self.max_moves - len(text) >= distances[believed] + SLIP_NEEDS
            if slips < noise and may_slip:
                safe = self._safe_moves(name, believed)
                meant = written = safe[int(which * len(safe))]
            else:
                best = self._best_moves(name, goal, believed)
                meant = best[int(which * len(best))]
                written = TAKEN_FOR.get(meant, meant) if mistakes < bias else meant
            believed = self._landings[name][believed][meant]
            text += written
        return text + "."

    def _choices(
        self, name: str, goal: Cell, believed: Cell, bias: float, noise: float
    ) -> list[tuple[str, str, float]]:
        """(move meant, move written, probability) of a walker's next move."""
        best, safe = self._best_moves(name, goal, believed), self._safe_moves(name, believed)
        choices = [(move, move, noise / len(safe)) for move in safe]
        for move in best:
            share = (1 - noise) / len(best)
            choices.append((move, TAKEN_FOR.get(move, move), share * bias))
            choices.append((move, move, share * (1 - bias)))
        return [choice for choice in choices if choice[2] > 0]

    def _best_moves(self, name: str, goal: Cell, cell: Cell) -> list[str]:
        if (name, goal, cell) not in self._best:
            distances = self._distances_to(name, goal)
            nearer = distances[cell] - 1
            self._best[name, goal, cell] = [
                move
                for move, landing in self._landings[name][cell].items()
                if distances[landing] == nearer
            ]
        return self._best[name, goal, cell]

    def _safe_moves(self, name: str, cell: Cell) -> list[str]:
        """The moves that enter no pit; all four where no path leads anywhere else."""
        moves = self._landings[name][cell].items()
        return [move for move, landing in moves if landing not in self._pits[name]] or list(MOVES)

    # --- the grid ---

    def _distances_to(self, name: str, goal: Cell) -> dict[Cell, float]:
        """Moves to the goal from each open cell, around walls and pits; inf where cut off."""
        if (name, goal) not in self._distances:
            grid = self.grids[name]
            barred = np.where(grid == maps.PIT, maps.WALL, grid)
            found = maps.shortest_distances(barred, [goal])
            self._distances[name, goal] = {
                cell: float(found[cell]) for cell in self._landings[name]
            }
        return self._distances[name, goal]

    def _find_trips(self, name: str) -> list[Problem]:
        """Every start and goal that a path connects, as problems."""
        open_cells = [
            (int(row), int(column))
            for row, column in np.argwhere(~np.isin(self.grids[name], [maps.WALL, maps.PIT]))
        ]
        trips = [
            as_problem(name, start, goal)
            for start in open_cells
            for goal in open_cells
            if start != goal and self._distances_to(name, goal)[start] < np.inf
        ]
        if not trips:
            raise ValueError(f"the map {name!r} has no two cells that a path connects")
        return trips


def landings(grid: np.ndarray) -> dict[Cell, dict[str, Cell]]:
    """Where each move leads from each open cell: one further, or nowhere at a wall or edge."""
    open_cells = {(int(row), int(column)) for row, column in np.argwhere(grid != maps.WALL)}
    found: dict[Cell, dict[str, Cell]] = {}
    for row, column in open_cells:
        near = {move: (row + down, column + right) for move, (down, right) in MOVES.items()}
        found[row, column] = {
            move: cell if cell in open_cells else (row, column) for move, cell in near.items()
        }
    return found


def as_problem(name: str, start: Cell, goal: Cell) -> Problem:
    """The problem of going from start to goal; its answer is the goal's two characters."""
    row, column = DIGITS[goal[0]], DIGITS[goal[1]]
    prompt = f"{name} {DIGITS[start[0]]}{DIGITS[start[1]]}>{row}{column}:"
    return Problem(prompt, row + column)


def parse(prompt: str) -> tuple[str, Cell, Cell]:
    """``open 40>04:`` as ("open", (4, 0), (0, 4)); ValueError for anything else."""
    found = PROMPT.fullmatch(prompt)
    if found is None:
        raise ValueError(f"{prompt!r} is not a grid-path prompt such as 'open 40>04:'")
    name, *places = found.groups()
    a, b, c, d = (DIGITS.index(place) for place in places)
    return name, (a, b), (c, d)


def _grid(name: str, text: str) -> np.ndarray:
    if not re.fullmatch(r"[a-z]+", name):
        raise ValueError(f"the map's name {name!r} must be lower-case letters, such as 'open'")
    grid = maps.parse_map(text)
    if max(grid.shape) > len(DIGITS):
        raise ValueError(f"the map {name!r} is {grid.shape}: at most 36 rows and columns")
    return grid

"""GridWorld: a gymnasium environment made from a text map.

An agent stands on one open cell and moves up, right, down or left. A move into a wall or over
the edge leaves it where it is. The reward of a move is ``step_reward`` plus the reward of the
cell entered (also when the agent bumps and re-enters its own cell). Entering a goal or a pit
ends the episode.

Two kinds of chance: with probability ``slip`` the agent slides to one of the two sides of the
chosen direction, half each; with probability ``noise`` a direction drawn uniformly from all
four replaces the chosen one. ``wind`` lifts the agent upward, by the strength of the column it
leaves, in the same step as the move; it carries over what lies between, and where the landing
cell is a wall the agent stays.
"""

from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from jaxtyping import Float, Int, Shaped
from scipy import sparse

from rlbook.tabular import maps
from rlbook.tabular.mdp import MDP

ACTIONS = ("up", "right", "down", "left")
ARROWS = ("↑", "→", "↓", "←")
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # (row, column); row 0 is the top
DEFAULT_REWARDS = {maps.GOAL: 0.0, maps.PIT: -10.0}
DENSE_STATES = 1_000  # above this many states, mdp() is sparse unless told otherwise

COLOURS = {
    maps.WALL: (70, 70, 70),
    maps.FLOOR: (245, 245, 245),
    maps.START: (245, 245, 245),
    maps.GOAL: (0, 158, 115),
    maps.PIT: (213, 94, 0),
}
AGENT_COLOUR = (0, 114, 178)


class GridWorld(gym.Env):
    """A gridworld drawn as text, playable as an environment and solvable as an MDP.

    States are the open cells in reading order (walls are not states); an observation is the
    state's number. Actions are 0 up, 1 right, 2 down, 3 left.

    Args:
        map: a text map (see ``rlbook.tabular.maps``). With one S, episodes start there; with
            none, in any open cell that does not end the episode, uniformly.
        rewards: reward for entering a cell, by symbol; added to the defaults
            G: 0 and P: -10. A symbol that is new here is a floor cell with that reward.
        step_reward: reward of every move.
        slip: probability of sliding sideways, in [0, 1].
        noise: probability that a random direction replaces the chosen one, in [0, 1].
        wind: upward shift in cells, one integer per column.
        render_mode: "ansi" (text), "rgb_array" (picture) or None.

    Raises:
        ValueError: a bad map (ragged, unknown symbol, two starts, a goal that walls cut off),
            a probability outside [0, 1], a reward that is not finite, wind of the wrong length.

    Book: 02_gridworld.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012 (gymnasium)

    def __init__(
        self,
        map: str = maps.OPEN_5X5,
        *,
        rewards: Mapping[str, float] | None = None,
        step_reward: float = -1.0,
        slip: float = 0.0,
        noise: float = 0.0,
        wind: Sequence[Any] | np.ndarray | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.rewards = _checked_rewards({**DEFAULT_REWARDS, **(rewards or {})}, step_reward)
        self.symbols = maps.parse_map(map, extra_symbols="".join(self.rewards))
        if maps.find(self.symbols, maps.START):
            maps.start_cell(self.symbols)
        maps.check_goals_reachable(self.symbols)
        self.step_reward = float(step_reward)
        self.slip = _checked_probability("slip", slip)
        self.noise = _checked_probability("noise", noise)
        self.wind = _checked_wind(wind, self.symbols.shape[1])
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode={render_mode!r} is not one of 'ansi', 'rgb_array', None")
        self.render_mode = render_mode

        self.cells = np.argwhere(self.symbols != maps.WALL)
        self.state_of_cell = np.full(self.symbols.shape, -1)
        self.state_of_cell[tuple(self.cells.T)] = np.arange(len(self.cells))
        self.terminal = np.isin(self._symbol_of_state(), [maps.GOAL, maps.PIT])
        self.directions = direction_probabilities(self.slip, self.noise)
        self.next_states = self._next_states()
        self.entry_rewards = self.step_reward + np.array(
            [self.rewards.get(symbol, 0.0) for symbol in self._symbol_of_state()]
        )
        self.start = self._start_distribution()
        self.observation_space = spaces.Discrete(len(self.cells))
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.state: int | None = None

    # --- the grid ---

    @property
    def S(self) -> int:
        """Number of states: the open cells."""
        return len(self.cells)

    def state_at(self, row: int, column: int) -> int:
        """The number of the state at a cell; ValueError for a wall or a cell off the map."""
        height, width = self.symbols.shape
        if not (0 <= row < height and 0 <= column < width) or self.state_of_cell[row, column] < 0:
            raise ValueError(
                f"({row}, {column}) is not an open cell of this {height} x {width} map"
            )
        return int(self.state_of_cell[row, column])

    def to_grid(
        self, values: Shaped[np.ndarray, "S ..."]
    ) -> Shaped[np.ndarray, "height width ..."]:
        """Lay numbers per state out on the map: [S, ...] → [height, width, ...], NaN on walls."""
        grid = np.full((*self.symbols.shape, *values.shape[1:]), np.nan)
        grid[tuple(self.cells.T)] = values
        return grid

    def mdp(self, *, as_sparse: bool | None = None) -> MDP:
        """This gridworld as an MDP, with P dense up to 1,000 states and sparse above.

        P(s'|s, a) = Σ_d  Pr(direction d | action a) · [moving in direction d from s lands on s']
        R(s, a)    = Σ_s' P(s'|s, a) · (step_reward + reward of cell s')

        Args:
            as_sparse: True or False decides the form of P whatever the size.
        """
        A, S = len(ACTIONS), self.S
        state, action, direction = (index.ravel() for index in np.indices((S, A, len(MOVES))))
        P: Any = sparse.csr_array(
            (
                self.directions[action, direction],
                (state * A + action, self.next_states[direction, state]),
            ),
            shape=(S * A, S),
        )
        R = (P @ self.entry_rewards).reshape(S, A)
        if as_sparse is None:
            as_sparse = S > DENSE_STATES
        P.eliminate_zeros()
        if not as_sparse:
            P = P.toarray().reshape(S, A, S)
        return MDP.absorbing(P, R, self.terminal, self.start)

    # --- the environment ---

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        """Begin an episode; ``options={"state": s}`` begins it in state s."""
        super().reset(seed=seed)
        if options and "state" in options:
            state = int(options["state"])
            if not 0 <= state < self.S or self.terminal[state]:
                raise ValueError(f"cannot start in state {state}: it is off the map or terminal")
            self.state = state
        else:
            self.state = int(self.np_random.choice(self.S, p=self.start))
        return self.state, {}

    def step(self, action: SupportsIndex) -> tuple[int, float, bool, bool, dict]:
        """Move once: observation, reward, terminated, truncated (never), info."""
        if self.state is None:
            raise RuntimeError("call reset() before step(): no episode is running")
        if self.terminal[self.state]:
            raise RuntimeError("the episode has ended: call reset() before the next step()")
        if not self.action_space.contains(int(action)):
            raise ValueError(f"action {action} is not one of 0 up, 1 right, 2 down, 3 left")
        direction = self.np_random.choice(len(MOVES), p=self.directions[action])
        self.state = int(self.next_states[direction, self.state])
        reward = float(self.entry_rewards[self.state])
        return self.state, reward, bool(self.terminal[self.state]), False, {}

    def render(self) -> str | np.ndarray | None:
        """The map with the agent: text ("ansi", agent @) or a picture [height, width, 3]."""
        if self.render_mode == "ansi":
            symbols = self.symbols.copy()
            if self.state is not None:
                symbols[tuple(self.cells[self.state])] = "@"
            return "\n".join("".join(row) for row in symbols)
        if self.render_mode == "rgb_array":
            agent = None if self.state is None else tuple(self.cells[self.state].tolist())
            return paint(self.symbols, agent)
        return None

    # --- how it is made ---

    def _symbol_of_state(self) -> np.ndarray:
        return self.symbols[tuple(self.cells.T)]

    def _start_distribution(self) -> Float[np.ndarray, " S"]:
        starts = self._symbol_of_state() == maps.START
        if not starts.any():
            starts = ~self.terminal
        if not starts.any():
            raise ValueError("every open cell ends the episode: leave a floor cell to start in")
        return starts / starts.sum()

    def _next_states(self) -> Int[np.ndarray, "D S"]:
        """Where each of the four directions leads from each state, wind included."""
        height, width = self.symbols.shape
        lift = np.stack([self.wind[self.cells[:, 1]], np.zeros(self.S, int)], axis=1)
        landing = self.cells + MOVES[:, None, :] - lift
        landing = np.clip(landing, 0, [height - 1, width - 1])
        reached = self.state_of_cell[landing[..., 0], landing[..., 1]]
        return np.where(reached < 0, np.arange(self.S), reached)  # a wall: stay


class GridImage(gym.ObservationWrapper):
    """A gridworld seen as a stack of planes, for networks with convolutions.

    An observation is float32 [4, rows, columns], 1 where there is a wall, a goal, a pit, the
    agent (in this order), and 0 elsewhere.
    ``gym.make("rlbook.tabular.gridworld:rlbook/GridImage-v0", map=...)`` makes one from a map.

    Args:
        env: a GridWorld, possibly inside wrappers such as a time limit.

    Book: 06_dqn, 08_actor_critic.
    """

    PLANES = ("wall", "goal", "pit", "agent")

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        if not isinstance(env.unwrapped, GridWorld):
            raise ValueError(f"GridImage shows a GridWorld; this is {type(env.unwrapped).__name__}")
        self.grid: GridWorld = env.unwrapped
        symbols = (maps.WALL, maps.GOAL, maps.PIT)
        self.map_planes = np.stack([self.grid.symbols == symbol for symbol in symbols])
        shape = (len(self.PLANES), *self.grid.symbols.shape)
        self.observation_space = spaces.Box(0.0, 1.0, shape, np.float32)

    def observation(self, observation: int) -> Float[np.ndarray, "4 rows columns"]:
        """The planes with the agent in this state."""
        image = np.zeros(self.observation_space.shape, np.float32)
        image[:-1] = self.map_planes
        image[-1][tuple(self.grid.cells[observation])] = 1.0
        return image


def direction_probabilities(slip: float, noise: float) -> Float[np.ndarray, "A D"]:
    """Probability that direction d is carried out when action a is chosen.

    (1 - noise) · [1 - slip straight on, slip/2 to each side] + noise / 4
    """
    ahead = np.eye(4)
    sideways = 0.5 * (np.roll(ahead, 1, axis=1) + np.roll(ahead, -1, axis=1))
    return (1.0 - noise) * ((1.0 - slip) * ahead + slip * sideways) + noise / 4.0


def paint(
    symbols: np.ndarray, agent: tuple[int, int] | None = None, *, cell_pixels: int = 32
) -> np.ndarray:
    """A picture of the map as uint8 [height·cell_pixels, width·cell_pixels, 3]."""
    colours = np.array([[COLOURS.get(s, (240, 228, 66)) for s in row] for row in symbols], np.uint8)
    picture = np.repeat(np.repeat(colours, cell_pixels, axis=0), cell_pixels, axis=1)
    picture[::cell_pixels] = picture[:, ::cell_pixels] = (200, 200, 200)
    if agent is not None:
        y, x = np.indices(picture.shape[:2]) + 0.5
        centre_y, centre_x = (np.array(agent) + 0.5) * cell_pixels
        disc = (y - centre_y) ** 2 + (x - centre_x) ** 2 < (0.32 * cell_pixels) ** 2
        picture[disc] = AGENT_COLOUR
    return picture


def _checked_rewards(rewards: Mapping[str, float], step_reward: float) -> dict[str, float]:
    for symbol in rewards:
        if len(symbol) != 1 or symbol == maps.WALL:
            raise ValueError(f"{symbol!r} cannot carry a reward: use one character that is not '#'")
    for name, reward in {**rewards, "step_reward": step_reward}.items():
        if not np.isfinite(reward):
            raise ValueError(f"the reward of {name!r} is {reward}: it must be a finite number")
    return {symbol: float(reward) for symbol, reward in rewards.items()}


def _checked_probability(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}={value} is not a probability: it must lie in [0, 1]")
    return float(value)


def _checked_wind(wind: Sequence[Any] | np.ndarray | None, width: int) -> Int[np.ndarray, " width"]:
    strength = np.zeros(width, int) if wind is None else np.array(wind)
    if strength.shape != (width,) or not np.issubdtype(strength.dtype, np.integer):
        raise ValueError(
            f"wind must hold one integer per column ({width}); it is {strength.tolist()}"
        )
    return strength


# ``gym.make("rlbook.tabular.gridworld:rlbook/GridWorld-v0", map=...)`` imports this module first.
gym.register(id="rlbook/GridWorld-v0", entry_point="rlbook.tabular.gridworld:GridWorld")
gym.register(
    id="rlbook/GridImage-v0",
    entry_point=lambda **options: GridImage(GridWorld(**options)),
    disable_env_checker=True,  # it takes any three axes for a picture of bytes
)

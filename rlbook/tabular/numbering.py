"""Numbers for observations that come in several parts, so that a table can hold them."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class NumberedObservations(gym.ObservationWrapper):
    """An environment whose observation (x_0, ..., x_k) is one number: the state of a table.

        s = (...((x_0 - low_0) · n_1 + x_1 - low_1) · n_2 + ...) + x_k - low_k

    It is the order of ``np.ravel_multi_index``: the last part counts fastest, so that
    ``V.reshape(env.sizes)`` lays a table out again by its parts.

    Args:
        env: an environment with a Tuple of Discrete spaces, or MultiDiscrete, as observations.

    Attributes:
        sizes: how many values each part takes (n_0, ..., n_k).

    Raises:
        ValueError: another observation space (which).

    Book: 04_monte_carlo.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.sizes, self.lows = _parts(env.observation_space)
        self.observation_space = spaces.Discrete(int(np.prod(self.sizes)))

    def state_of(self, observation: Sequence[Any] | np.ndarray) -> int:
        """The number of an observation; ValueError if it lies outside the space."""
        state = 0
        for x, size, low in zip(observation, self.sizes, self.lows, strict=True):
            if not 0 <= x - low < size:
                raise ValueError(
                    f"observation {tuple(observation)} has no number: {x} is not in "
                    f"{low}..{low + size - 1}"
                )
            state = state * size + int(x) - low
        return state

    def observation_of(self, state: int) -> tuple[int, ...]:
        """The observation with a number, as Python integers; the reverse of ``state_of``."""
        if not 0 <= state < self.observation_space.n:
            raise ValueError(f"state {state} is not in 0..{self.observation_space.n - 1}")
        parts: list[int] = []
        for size, low in zip(self.sizes[::-1], self.lows[::-1], strict=True):
            state, x = divmod(state, size)
            parts.append(int(x) + low)
        return tuple(parts[::-1])

    def observation(self, observation: Sequence[Any] | np.ndarray) -> int:
        """What the agent sees: the number (gymnasium calls this after every step and reset)."""
        return self.state_of(observation)


def _parts(space: spaces.Space) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Size and lowest value of every part of a space."""
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return tuple(space.nvec.tolist()), tuple(space.start.tolist())
    if isinstance(space, spaces.Tuple) and all(isinstance(p, spaces.Discrete) for p in space):
        return tuple(int(p.n) for p in space), tuple(int(p.start) for p in space)
    raise ValueError(
        f"the observation space is {space}, which has no numbering here: it takes a Tuple of "
        "Discrete spaces or a MultiDiscrete of one dimension"
    )

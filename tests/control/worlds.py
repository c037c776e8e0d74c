"""Small environments for the tests of rlbook.control, and vectors of them that never reset."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation
from torch import nn

from rlbook.control.networks import ActorCritic, Network, sizes


def vector(*makers: Callable[[], gym.Env], **options: Any) -> SyncVectorEnv:
    """The environments side by side; states become one-hot rows."""
    options = {"autoreset_mode": AutoresetMode.DISABLED} | options
    return SyncVectorEnv([_flat(make) for make in makers], **options)


def _flat(make: Callable[[], gym.Env]) -> Callable[[], gym.Env]:
    def build() -> gym.Env:
        env = make()
        discrete = isinstance(env.observation_space, spaces.Discrete)
        return FlattenObservation(env) if discrete else env

    return build


class Rows(gym.Env):
    """Plays written rows (reward, observation after it, terminated, truncated), then repeats."""

    def __init__(self, *rows: tuple[float, list[float], bool, bool]) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(rows[0][1]),), np.float64)
        self.action_space = spaces.Discrete(2)
        self.rows = rows

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self.t = 0
        return np.zeros(self.observation_space.shape), {}

    def step(self, action: int):
        reward, observation, terminated, truncated = self.rows[self.t % len(self.rows)]
        self.t += 1
        return np.array(observation), reward, terminated, truncated, {}


class Corridor(gym.Env):
    """Five cells in a row, start at the left: action 1 goes right, 0 left; -0.1 for each step,
    +1 at the right end, which ends the episode. At most 20 steps. The best return is 0.6."""

    observation_space = spaces.Box(0.0, 1.0, (5,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.cell, self.t = 0, 0
        return self._observation(), {}

    def step(self, action: int):
        self.t += 1
        self.cell = max(0, self.cell + (1 if action == 1 else -1))
        there = self.cell == 4
        return self._observation(), -0.1 + 1.0 * there, there, self.t == 20 and not there, {}

    def _observation(self) -> np.ndarray:
        return np.eye(5, dtype=np.float32)[self.cell]


def actor_critic(envs: SyncVectorEnv, *, seed: int = 0, **options: Any) -> ActorCritic:
    return ActorCritic(*sizes(envs), seed=seed, **options)


def q_network(envs: SyncVectorEnv, *, seed: int = 0, **options: Any) -> Network:
    generator = torch.Generator().manual_seed(seed)
    return Network(*sizes(envs), generator=generator, **options)


def uniform(envs: SyncVectorEnv) -> Callable[[torch.Tensor], torch.Tensor]:
    """The policy that takes every action alike."""
    _, A = sizes(envs)
    return lambda observations: torch.zeros(len(observations), A)


def flat(module: nn.Module) -> torch.Tensor:
    """All parameters in one row, a copy."""
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()]).clone()


def flat_gradient(module: nn.Module) -> torch.Tensor:
    """The gradients that the last step left, in one row."""
    return torch.cat([p.grad.reshape(-1) for p in module.parameters()]).clone()


def last(reports: Iterator) -> Any:
    """Run a loop to its end; its last report."""
    return deque(reports, maxlen=1).pop()

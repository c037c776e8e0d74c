"""Small environments whose every step is known, for the tests of learning from samples."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlbook.tabular.mdp import MDP


class Scripted(gym.Env):
    """Plays written transitions, whatever the agent does, and remembers the agent's actions.

    A transition is (state, reward, next state, how): how is "" (goes on), "terminated" or
    "truncated". Episodes after the last one written repeat it.
    """

    def __init__(self, *episodes: list[tuple[int, float, int, str]], S: int, A: int = 1) -> None:
        self.observation_space, self.action_space = spaces.Discrete(S), spaces.Discrete(A)
        self.episodes, self.played = episodes, -1
        self.actions: list[int] = []

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        self.played = min(self.played + 1, len(self.episodes) - 1)
        self.t = 0
        return self.episodes[self.played][0][0], {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        self.actions.append(int(action))
        _, reward, s_next, how = self.episodes[self.played][self.t]
        self.t += 1
        return s_next, reward, how == "terminated", how == "truncated", {}


class Sampled(gym.Env):
    """Draws from an MDP: reward R(s, a), next state from P, an end in each terminal state."""

    def __init__(self, mdp: MDP) -> None:
        self.observation_space, self.action_space = spaces.Discrete(mdp.S), spaces.Discrete(mdp.A)
        self.R, self.terminal = mdp.R.tolist(), mdp.terminal.tolist()
        self.cumulative, self.start = mdp.to_dense().P.cumsum(axis=2), mdp.start.cumsum()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.state = int(self.start.searchsorted(self.np_random.random(), side="right"))
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        reward, row = self.R[self.state][action], self.cumulative[self.state, action]
        self.state = int(row.searchsorted(self.np_random.random() * row[-1], side="right"))
        return self.state, reward, self.terminal[self.state], False, {}


class Recorded(gym.Wrapper):
    """Keeps each episode as a list of (state, reward)."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.episodes: list[list[tuple[int, float]]] = []

    def reset(self, **options: Any) -> tuple[int, dict]:
        self.state, info = self.env.reset(**options)
        self.episodes.append([])
        return self.state, info

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        s_next, reward, *rest = self.env.step(action)
        self.episodes[-1].append((self.state, reward))
        self.state = s_next
        return s_next, reward, *rest


class Ticking(gym.Env):
    """One state, reward 1 for ever; only a time limit ends an episode."""

    def __init__(self, limit: int = 5, A: int = 2) -> None:
        self.observation_space, self.action_space = spaces.Discrete(1), spaces.Discrete(A)
        self.limit = limit

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        self.t = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        self.t += 1
        return 0, 1.0, False, self.t == self.limit, {}


def layered_mdp(seed: int = 0) -> MDP:
    """Seven states in three layers (1, 2, 3) and a terminal one: every episode has 3 actions."""
    generator = np.random.default_rng(seed)
    P = np.zeros((7, 2, 7))
    for s, successors in {0: (1, 2), 1: (3, 4, 5), 2: (3, 4, 5), 3: (6,), 4: (6,), 5: (6,)}.items():
        for a in range(2):
            P[s, a, list(successors)] = generator.dirichlet(np.ones(len(successors)))
    terminal, start = np.arange(7) == 6, np.eye(7)[0]
    P[6, :, 6] = 1.0
    R = np.where(terminal[:, None], 0.0, generator.normal(1.0, 1.0, size=(7, 2)))
    return MDP(P, R, terminal, start)


def trajectories(mdp: MDP, policy: np.ndarray, state: int):
    """Every way an episode of an MDP without cycles can go from a state.

    Yields its probability, and the list of (state, action, reward).
    """
    if mdp.terminal[state]:
        yield 1.0, []
        return
    for a in range(mdp.A):
        for s_next in np.flatnonzero(mdp.P[state, a]):
            chance = policy[state, a] * mdp.P[state, a, s_next]
            for rest_chance, rest in trajectories(mdp, policy, int(s_next)):
                yield chance * rest_chance, [(state, a, mdp.R[state, a]), *rest]

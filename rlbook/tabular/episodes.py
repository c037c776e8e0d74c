"""Episodes: what an agent that follows a policy sees, one step after another."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Episode:
    """One run from reset to end. With T actions there are T + 1 states.

    Attributes:
        states: s_0 ... s_T [T + 1]. actions: a_0 ... a_{T-1} [T].
        rewards: r_0 ... r_{T-1} [T], where r_t follows action a_t.
        terminated: the last state is terminal (its value is 0).
        truncated: a time limit cut the episode (the last state still has a value).
    """

    states: Int[np.ndarray, " states"]
    actions: Int[np.ndarray, " T"]
    rewards: Float[np.ndarray, " T"]
    terminated: bool
    truncated: bool

    def __len__(self) -> int:
        return len(self.actions)


def sample_episode(
    env: Any,
    policy: Float[np.ndarray, "S A"],
    *,
    generator: np.random.Generator,
    max_steps: int = 10_000,
) -> Episode:
    """Run one episode of a gymnasium environment with discrete spaces under a policy.

    Args:
        env: any environment whose observations and actions are integers from 0.
        policy: π(a|s), one row per state.
        generator: draws the actions and the environment's seed.
        max_steps: the episode is truncated after so many actions.
    """
    sizes = (env.observation_space.n, env.action_space.n)
    if policy.shape != sizes or (np.abs(policy.sum(axis=1) - 1.0) > 1e-6).any():
        raise ValueError(
            f"policy must be a table [S, A] = {tuple(map(int, sizes))} whose rows sum to 1; it has "
            f"shape {policy.shape} and row sums from {policy.sum(axis=-1).min():.3g} to "
            f"{policy.sum(axis=-1).max():.3g}"
        )
    choose = functools.partial(_draw_action, policy.cumsum(axis=1), generator)
    state, _ = env.reset(seed=int(generator.integers(2**31)))
    return play(env, int(state), choose, max_steps=max_steps)


def _draw_action(cumulative: np.ndarray, generator: np.random.Generator, state: int) -> int:
    draw = generator.random() * cumulative[state, -1]
    return int(np.searchsorted(cumulative[state], draw, side="right"))


def play(env: Any, state: int, choose: Callable[[int], int], *, max_steps: int = 10_000) -> Episode:
    """Finish an episode that stands in ``state``: ``choose`` maps each state to an action."""
    states, actions, rewards = [state], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        action = choose(states[-1])
        s_next, reward, terminated, truncated, _ = env.step(action)
        states.append(int(s_next))
        actions.append(action)
        rewards.append(float(reward))
        truncated = truncated or (len(actions) >= max_steps and not terminated)
    return Episode(np.array(states), np.array(actions), np.array(rewards), terminated, truncated)


def discounted_return(rewards: Sequence[float] | np.ndarray, *, gamma: float) -> float:
    """The return of one episode: G_0 = r_0 + γ r_1 + γ² r_2 + ...

    Computed backwards by G_t = r_t + γ G_{t+1}.

    Book: 02_gridworld. Source: Sutton and Barto (2018), equations 3.8 and 3.9.
    """
    total = 0.0
    for reward in reversed(list(rewards)):
        total = reward + gamma * total
    return float(total)

"""Temporal-difference learning: learning a guess from a guess, one step at a time.

Every function is a generator that yields one ``TDReport`` per episode, so the notebook owns the
loop: it can plot, stop early, or take the last report. V and Q in a report are the live tables.

Works on any gymnasium environment whose observations and actions are integers from 0. A
terminated transition has no future; a truncated one is bootstrapped like any other, and only
ends the episode.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from jaxtyping import Float

Schedule = float | Callable[[int], float]  # a number, or a function of the episode 0, 1, ...


class TDReport(NamedTuple):
    """One finished episode.

    Attributes:
        episode: 0, 1, ...  steps: actions taken in it.  episode_return: undiscounted.
        V: state values [S] (prediction), or None.  Q: action values [S, A] (control), or None.
    """

    episode: int
    steps: int
    episode_return: float
    V: np.ndarray | None = None
    Q: np.ndarray | None = None


# --- prediction: how good is this policy? ----------------------------------------------------


def td0(
    env: Any,
    policy: Float[np.ndarray, "S A"],
    *,
    gamma: float,
    alpha: Schedule,
    episodes: int,
    generator: np.random.Generator,
    V: Float[np.ndarray, " S"] | None = None,
) -> Iterator[TDReport]:
    """TD(0): move V(s) towards the reward plus the guess for the next state.

        V(s) ← V(s) + α [ r + γ V(s') - V(s) ],     V(terminal) = 0

    Args:
        env, policy: the policy π(a|s) [S, A] acts in env.
        gamma: discount in [0, 1].
        alpha: step size in (0, 1], or a function of the episode.
        episodes: how many to run.
        generator: draws actions, and the seed of the environment.
        V: first guess; default 0. It is copied.

    Book: 05_temporal_difference. Source: Sutton (1988); Sutton and Barto (2018), equation 6.2.
    """
    yield from n_step_td(
        env, policy, n=1, gamma=gamma, alpha=alpha, episodes=episodes, generator=generator, V=V
    )


def n_step_td(
    env: Any,
    policy: Float[np.ndarray, "S A"],
    *,
    n: int,
    gamma: float,
    alpha: Schedule,
    episodes: int,
    generator: np.random.Generator,
    V: Float[np.ndarray, " S"] | None = None,
) -> Iterator[TDReport]:
    """n-step TD: n rewards, then the guess.

        V(s_t) ← V(s_t) + α [ r_t + γ r_{t+1} + ... + γ^{n-1} r_{t+n-1} + γ^n V(s_{t+n}) - V(s_t) ]

    At the end of an episode the sums are cut short there. Large n approaches Monte Carlo.
    Arguments as for ``td0``; n at least 1.

    Book: 08_actor_critic. Source: Sutton and Barto (2018), equation 7.2.
    """
    if n < 1:
        raise ValueError(f"n={n} must be at least 1 step")
    check_discount(gamma)
    V = state_table(env, V)
    actor = _Actor(env, policy, generator)
    for episode in range(episodes):
        alpha_now = scheduled(alpha, episode, "alpha")
        state = begin(env, episode, generator)
        window: deque[tuple[int, float]] = deque()  # (state, reward after it), n at most
        steps, total, ended = 0, 0.0, False
        while not ended:
            s_next, reward, terminated, truncated, _ = env.step(actor.draw(state))
            window.append((state, reward))
            state, steps, total, ended = s_next, steps + 1, total + reward, terminated or truncated
            bootstrap = 0.0 if terminated else V[state]
            while window and (ended or len(window) == n):
                target = bootstrap
                for _, later_reward in reversed(window):
                    target = later_reward + gamma * target
                s, _ = window.popleft()
                V[s] += alpha_now * (target - V[s])
                bootstrap = 0.0 if terminated else V[state]
        yield TDReport(episode, steps, total, V=V)


def td_lambda(
    env: Any,
    policy: Float[np.ndarray, "S A"],
    *,
    lam: float,
    gamma: float,
    alpha: Schedule,
    episodes: int,
    generator: np.random.Generator,
    V: Float[np.ndarray, " S"] | None = None,
) -> Iterator[TDReport]:
    """TD(λ) with accumulating traces: every recent state learns from every TD error.

        δ = r + γ V(s') - V(s);     z ← γ λ z,  z(s) ← z(s) + 1;     V ← V + α δ z

    λ = 0 is TD(0). Arguments as for ``td0``; lam in [0, 1].

    Book: 08_actor_critic. Source: Sutton (1988); Sutton and Barto (2018), section 12.2.
    """
    if not 0.0 <= lam <= 1.0:
        raise ValueError(f"lam={lam} must lie in [0, 1]")
    check_discount(gamma)
    V = state_table(env, V)
    actor = _Actor(env, policy, generator)
    for episode in range(episodes):
        alpha_now = scheduled(alpha, episode, "alpha")
        state = begin(env, episode, generator)
        trace = np.zeros(len(V))
        steps, total, ended = 0, 0.0, False
        while not ended:
            s_next, reward, terminated, truncated, _ = env.step(actor.draw(state))
            error = reward + (0.0 if terminated else gamma * V[s_next]) - V[state]
            trace *= gamma * lam
            trace[state] += 1.0
            V += alpha_now * error * trace
            state, steps, total, ended = s_next, steps + 1, total + reward, terminated or truncated
        yield TDReport(episode, steps, total, V=V)


# --- control: what should I do? --------------------------------------------------------------


def sarsa(
    env: Any,
    *,
    gamma: float,
    alpha: Schedule,
    epsilon: Schedule,
    episodes: int,
    generator: np.random.Generator,
    Q: Float[np.ndarray, "S A"] | None = None,
) -> Iterator[TDReport]:
    """SARSA: learn the value of the ε-greedy policy that is being followed.

        Q(s, a) ← Q(s, a) + α [ r + γ Q(s', a') - Q(s, a) ],     a' the action taken next

    Args:
        env: a gymnasium environment with discrete spaces.
        gamma: discount in [0, 1].
        alpha: step size in (0, 1], or a function of the episode.
        epsilon: share of random actions in [0, 1], or a function of the episode.
        episodes: how many to run.
        generator: draws actions, and the seed of the environment.
        Q: first guess [S, A]; default 0. It is copied. An entry of -inf says that the state does
            not offer that action: it is never taken.

    Book: 05_temporal_difference. Source: Rummery and Niranjan (1994); Sutton and Barto (2018),
    equation 6.7.
    """
    check_discount(gamma)
    Q = action_table(env, Q)
    explorer = Explorer(generator)
    for episode in range(episodes):
        alpha_now = scheduled(alpha, episode, "alpha")
        epsilon_now = scheduled(epsilon, episode, "epsilon")
        state = begin(env, episode, generator)
        action = explorer.draw(Q[state], epsilon_now)
        steps, total, ended = 0, 0.0, False
        while not ended:
            s_next, reward, terminated, truncated, _ = env.step(action)
            a_next = explorer.draw(Q[s_next], epsilon_now)
            target = reward + (0.0 if terminated else gamma * Q[s_next, a_next])
            Q[state, action] += alpha_now * (target - Q[state, action])
            state, action = s_next, a_next
            steps, total, ended = steps + 1, total + reward, terminated or truncated
        yield TDReport(episode, steps, total, Q=Q)


def expected_sarsa(
    env: Any,
    *,
    gamma: float,
    alpha: Schedule,
    epsilon: Schedule,
    episodes: int,
    generator: np.random.Generator,
    Q: Float[np.ndarray, "S A"] | None = None,
) -> Iterator[TDReport]:
    """Expected SARSA: average over the next action instead of drawing it.

        Q(s, a) ← Q(s, a) + α [ r + γ Σ_a' π(a'|s') Q(s', a') - Q(s, a) ],     π = ε-greedy(Q)

    Arguments as for ``sarsa``.

    Book: 05_temporal_difference. Source: van Seijen et al. (2009); Sutton and Barto (2018),
    equation 6.9.
    """

    def value(row: np.ndarray, epsilon: float) -> float:
        return (1.0 - epsilon) * row.max() + epsilon * row[row > -np.inf].mean()

    yield from _one_step_control(env, value, gamma, alpha, epsilon, episodes, generator, Q)


def q_learning(
    env: Any,
    *,
    gamma: float,
    alpha: Schedule,
    epsilon: Schedule,
    episodes: int,
    generator: np.random.Generator,
    Q: Float[np.ndarray, "S A"] | None = None,
) -> Iterator[TDReport]:
    """Q-learning: learn the value of the greedy policy while following an exploring one.

        Q(s, a) ← Q(s, a) + α [ r + γ max_a' Q(s', a') - Q(s, a) ]

    Arguments as for ``sarsa``.

    Book: 05_temporal_difference. Source: Watkins (1989); Sutton and Barto (2018), equation 6.8.
    """

    def value(row: np.ndarray, _: float) -> float:
        return row.max()

    yield from _one_step_control(env, value, gamma, alpha, epsilon, episodes, generator, Q)


def double_q_learning(
    env: Any,
    *,
    gamma: float,
    alpha: Schedule,
    epsilon: Schedule,
    episodes: int,
    generator: np.random.Generator,
    Q: Float[np.ndarray, "S A"] | None = None,
) -> Iterator[TDReport]:
    """Double Q-learning: one table chooses the best next action, the other says what it is worth.

    With probability one half (else with the tables exchanged):

        Q₁(s, a) ← Q₁(s, a) + α [ r + γ Q₂(s', argmax_a' Q₁(s', a')) - Q₁(s, a) ]

    The behaviour is ε-greedy in Q₁ + Q₂; the report's Q is their mean. Arguments as for
    ``sarsa``; ties in the argmax are broken at random.

    Book: 05_temporal_difference. Source: van Hasselt (2010), algorithm 1; Sutton and Barto
    (2018), equation 6.10.
    """
    check_discount(gamma)
    pair = np.stack([action_table(env, Q)] * 2)
    explorer = Explorer(generator)
    for episode in range(episodes):
        alpha_now = scheduled(alpha, episode, "alpha")
        epsilon_now = scheduled(epsilon, episode, "epsilon")
        state = begin(env, episode, generator)
        steps, total, ended = 0, 0.0, False
        while not ended:
            action = explorer.draw(pair[0, state] + pair[1, state], epsilon_now)
            s_next, reward, terminated, truncated, _ = env.step(action)
            chooser, judge = pair if explorer.uniform() < 0.5 else pair[::-1]
            best = explorer.draw(chooser[s_next], 0.0)
            target = reward + (0.0 if terminated else gamma * judge[s_next, best])
            chooser[state, action] += alpha_now * (target - chooser[state, action])
            state, steps, total, ended = s_next, steps + 1, total + reward, terminated or truncated
        yield TDReport(episode, steps, total, Q=pair.mean(axis=0))


# --- the parts they share --------------------------------------------------------------------


def _one_step_control(
    env: Any,
    value_of: Callable[[np.ndarray, float], float],
    gamma: float,
    alpha: Schedule,
    epsilon: Schedule,
    episodes: int,
    generator: np.random.Generator,
    Q: np.ndarray | None,
) -> Iterator[TDReport]:
    """Act ε-greedily; move Q(s, a) towards r + γ · value_of(Q(s', ·), ε)."""
    check_discount(gamma)
    Q = action_table(env, Q)
    explorer = Explorer(generator)
    for episode in range(episodes):
        alpha_now = scheduled(alpha, episode, "alpha")
        epsilon_now = scheduled(epsilon, episode, "epsilon")
        state = begin(env, episode, generator)
        steps, total, ended = 0, 0.0, False
        while not ended:
            action = explorer.draw(Q[state], epsilon_now)
            s_next, reward, terminated, truncated, _ = env.step(action)
            target = reward + (0.0 if terminated else gamma * value_of(Q[s_next], epsilon_now))
            Q[state, action] += alpha_now * (target - Q[state, action])
            state, steps, total, ended = s_next, steps + 1, total + reward, terminated or truncated
        yield TDReport(episode, steps, total, Q=Q)


class Explorer:
    """Draws ε-greedy actions, ties at random; never one whose value is -inf. Uniform numbers are
    drawn in blocks: one call of numpy per action would cost more than the learning."""

    BLOCK = 4096

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self.numbers: list[float] = []

    def uniform(self) -> float:
        if not self.numbers:
            self.numbers = self.generator.random(self.BLOCK).tolist()
        return self.numbers.pop()

    def draw(self, row: np.ndarray, epsilon: float) -> int:
        values = row.tolist()
        if epsilon > 0.0 and self.uniform() < epsilon:
            offered = [action for action, value in enumerate(values) if value > -math.inf]
            return offered[int(self.uniform() * len(offered))]
        best = max(values)
        ties = [action for action, value in enumerate(values) if value == best]
        return ties[0] if len(ties) == 1 else ties[int(self.uniform() * len(ties))]


class _Actor:
    """Draws actions of a fixed policy π(a|s)."""

    def __init__(self, env: Any, policy: Any, generator: np.random.Generator) -> None:
        policy, sizes = np.asarray(policy, float), table_sizes(env)
        if policy.shape != sizes:
            raise ValueError(f"policy must have shape [S, A] = {sizes}; it is {policy.shape}")
        if not (policy >= 0.0).all() or np.abs(policy.sum(axis=1) - 1.0).max() > 1e-8:
            raise ValueError("every row of policy must hold probabilities >= 0 that sum to 1")
        self.cumulative = policy.cumsum(axis=1)
        self.explorer = Explorer(generator)

    def draw(self, state: int) -> int:
        row = self.cumulative[state]
        return int(row.searchsorted(self.explorer.uniform() * row[-1], side="right"))


def table_sizes(env: Any) -> tuple[int, int]:
    """S and A of an environment with discrete spaces that begin at 0; else ValueError."""
    for name, space in (("observation", env.observation_space), ("action", env.action_space)):
        if not isinstance(space, spaces.Discrete) or space.start != 0:
            raise ValueError(
                f"the {name} space is {space}, but a table needs Discrete(n) starting at 0: "
                "number the states first (rlbook.tabular.numbering.NumberedObservations), or use "
                "a network (chapter 06)"
            )
    return int(env.observation_space.n), int(env.action_space.n)


def action_table(env: Any, Q: Any = None) -> Float[np.ndarray, "S A"]:
    """A fresh table [S, A] for an environment: zeros, or a checked copy of ``Q``.

    Entries of -inf mark actions that a state does not offer; every state offers one at least.
    """
    return _checked_copy(Q, table_sizes(env), "Q")


def state_table(env: Any, V: Any = None) -> Float[np.ndarray, " S"]:
    """A fresh table [S] for an environment: zeros, or a checked copy of ``V``."""
    return _checked_copy(V, table_sizes(env)[:1], "V")


def _checked_copy(table: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    table = np.zeros(shape) if table is None else np.array(table, float)
    if table.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; it has shape {table.shape}")
    finite, withheld = np.isfinite(table), (table == -np.inf) & (table.ndim == 2)
    if not ((finite | withheld).all() and finite.any(axis=-1).all()):
        raise ValueError(f"{name} must hold finite numbers")
    return table


def check_discount(gamma: float) -> None:
    """gamma must lie in [0, 1]; else ValueError."""
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma={gamma} is not a discount: it must lie in [0, 1]")


def scheduled(schedule: Schedule, episode: int, name: str) -> float:
    """The value of a schedule in an episode: in [0, 1], and not 0 if it is the step size."""
    value = schedule(episode) if callable(schedule) else schedule
    if not 0.0 <= value <= 1.0 or (name == "alpha" and value == 0.0):
        interval = "(0, 1]" if name == "alpha" else "[0, 1]"
        raise ValueError(f"{name}={value} in episode {episode}: it must lie in {interval}")
    return value


def begin(env: Any, episode: int, generator: np.random.Generator) -> int:
    """Start an episode; the first one seeds the environment from the generator."""
    seed = int(generator.integers(2**31)) if episode == 0 else None
    return int(env.reset(seed=seed)[0])

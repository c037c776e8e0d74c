"""Monte Carlo: learning values from the returns of whole episodes, with no model and no guess.

A return needs an end: an episode that is truncated has no return, so these functions refuse it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rlbook.tabular.episodes import Episode, play, sample_episode
from rlbook.tabular.mdp import MDP
from rlbook.tabular.planning import policy_evaluation
from rlbook.tabular.rollouts import check_covered
from rlbook.tabular.td import (
    Explorer,
    Schedule,
    action_table,
    begin,
    check_discount,
    scheduled,
    state_table,
)


class MonteCarloReport(NamedTuple):
    """What is known after one more episode.

    Attributes:
        episode: 0, 1, ...  episode_return: undiscounted.
        counts: how many returns each entry has averaged (a sum of weights, off-policy).
        V: state values [S] (prediction), or None.  Q: action values [S, A] (control), or None.
    """

    episode: int
    episode_return: float
    counts: np.ndarray
    V: np.ndarray | None = None
    Q: np.ndarray | None = None


def returns_to_go(rewards: Float[np.ndarray, " T"], *, gamma: float) -> Float[np.ndarray, " T"]:
    """The return after each step of an episode: G_t = r_t + γ G_{t+1}, G_T = 0.

    Book: 04_monte_carlo. Source: Sutton and Barto (2018), equation 3.9.
    """
    check_discount(gamma)
    G = np.zeros(len(rewards) + 1)
    for t in reversed(range(len(rewards))):
        G[t] = rewards[t] + gamma * G[t + 1]
    return G[:-1]


def first_visits(states: Int[np.ndarray, " T"]) -> Int[np.ndarray, " F"]:
    """The times at which a state is seen for the first time in an episode, in order."""
    first: dict[int, int] = {}
    for t, state in enumerate(states.tolist()):
        first.setdefault(state, t)
    return np.array(list(first.values()), int)


def monte_carlo_prediction(
    env: Any,
    policy: Float[np.ndarray, "S A"],
    *,
    gamma: float,
    episodes: int,
    generator: np.random.Generator,
    every_visit: bool = False,
    step_size: float | None = None,
    V: Float[np.ndarray, " S"] | None = None,
) -> Iterator[MonteCarloReport]:
    """Estimate V of a policy by the average return after visits to each state.

        V(s) ← V(s) + [ G_t - V(s) ] / n(s),     n(s) visits so far

    Args:
        env, policy: the policy π(a|s) [S, A] acts in env, whose episodes must end.
        gamma: discount in [0, 1].
        episodes: how many to run. generator: the source of randomness.
        every_visit: average over every visit (biased for finite samples, consistent) instead
            of the first visit in each episode (unbiased).
        step_size: a constant in (0, 1] instead of 1/n(s): recent returns count more.
        V: first guess [S]; default 0. It is copied; with 1/n(s) the first return replaces it.

    Raises:
        ValueError: an episode is truncated: it has no return (which episode).

    Book: 04_monte_carlo. Source: Sutton and Barto (2018), section 5.1; Singh and Sutton (1996).
    """
    if step_size is not None:
        scheduled(step_size, 0, "alpha")
    V, counts = state_table(env, V), np.zeros(len(policy))
    for i in range(episodes):
        episode = _whole_episode(env, policy, i, generator)
        visited = episode.states[:-1]
        G = returns_to_go(episode.rewards, gamma=gamma)
        for t in range(len(G)) if every_visit else first_visits(visited):
            counts[visited[t]] += 1
            V[visited[t]] += (step_size or 1.0 / counts[visited[t]]) * (G[t] - V[visited[t]])
        yield MonteCarloReport(i, float(episode.rewards.sum()), counts, V=V)


def monte_carlo_control(
    env: Any,
    *,
    gamma: float,
    epsilon: Schedule,
    episodes: int,
    generator: np.random.Generator,
    step_size: float | None = None,
) -> Iterator[MonteCarloReport]:
    """On-policy control: act ε-greedily in Q, and average the returns of first visits.

        Q(s, a) ← Q(s, a) + [ G_t - Q(s, a) ] / n(s, a)

    Args:
        env: a gymnasium environment with discrete spaces whose episodes end under any
            ε-greedy policy. gamma: discount. episodes, generator: as for prediction.
        epsilon: a number in [0, 1], or a function of the episode.
        step_size: a constant in (0, 1] that forgets old policies' returns, instead of 1/n.

    Book: 04_monte_carlo. Source: Sutton and Barto (2018), section 5.4.
    """
    if step_size is not None:
        scheduled(step_size, 0, "alpha")
    check_discount(gamma)
    Q = action_table(env)
    counts = np.zeros_like(Q)
    explorer = Explorer(generator)
    for i in range(episodes):
        epsilon_now = scheduled(epsilon, i, "epsilon")
        episode = play(
            env, begin(env, i, generator), lambda s, e=epsilon_now: explorer.draw(Q[s], e)
        )
        _check_ended(episode, i)
        _average_first_visits(Q, counts, episode, gamma, step_size)
        yield MonteCarloReport(i, float(episode.rewards.sum()), counts, Q=Q)


def monte_carlo_exploring_starts(
    env: Any,
    starts: Int[np.ndarray, " starts"],
    *,
    gamma: float,
    episodes: int,
    generator: np.random.Generator,
    step_size: float | None = None,
    horizon: int | None = None,
) -> Iterator[MonteCarloReport]:
    """Control with exploring starts: begin anywhere, with any action, then act greedily in Q.

        (s_0, a_0) uniform over starts × actions;     a_t = argmax_a Q(s_t, a), ties at random
        Q(s, a) ← Q(s, a) + [ G_t - Q(s, a) ] / n(s, a)     at first visits of (s, a)

    Only the first action explores, so a greedy policy may never end: in a gridworld it bumps
    into a wall for ever where the bump is the best action known. Such an episode is refused,
    unless a ``horizon`` is given.

    Args:
        env: a gymnasium environment with discrete spaces that starts where it is told,
            ``reset(options={"state": s})``: GridWorld and NumberedBlackjack do.
        starts: the states to start in, none of them terminal.
        gamma: discount. episodes, generator, step_size: as for ``monte_carlo_control``.
        horizon: an episode that lasts so many steps ends there, and what it has earned is its
            return: Q is then learned for a task with this time limit, not for the endless one.

    Raises:
        ValueError: the environment starts elsewhere; an episode that does not end (which).

    Book: 04_monte_carlo. Source: Sutton and Barto (2018), section 5.3 (Monte Carlo ES).
    """
    if step_size is not None:
        scheduled(step_size, 0, "alpha")
    if len(starts) == 0:
        raise ValueError("starts is empty: name the states to start in")
    if horizon is not None and horizon < 1:
        raise ValueError(f"horizon={horizon} must be at least 1 step")
    check_discount(gamma)
    Q = action_table(env)
    counts = np.zeros_like(Q)
    explorer = Explorer(generator)
    first: list[int] = []  # the first action of an episode, until it is taken

    def choose(s: int) -> int:
        return first.pop() if first else explorer.draw(Q[s], 0.0)

    for i in range(episodes):
        state = _begin_in(env, int(starts[int(explorer.uniform() * len(starts))]), i, generator)
        first[:] = [int(explorer.uniform() * Q.shape[1])]
        episode = play(env, state, choose, max_steps=horizon or 10_000)
        if len(episode) != horizon:
            _check_ended(episode, i, "a horizon= that ends the task, ")
        _average_first_visits(Q, counts, episode, gamma, step_size)
        yield MonteCarloReport(i, float(episode.rewards.sum()), counts, Q=Q)


def off_policy_prediction(
    env: Any,
    policy: Float[np.ndarray, "S A"],
    behaviour: Float[np.ndarray, "S A"],
    *,
    gamma: float,
    episodes: int,
    generator: np.random.Generator,
    weighted: bool = True,
) -> Iterator[MonteCarloReport]:
    """Estimate V of ``policy`` from episodes of another policy, by importance sampling.

        ρ_t = Π_{k ≥ t} π(a_k|s_k) / b(a_k|s_k)
        ordinary:  V(s) = Σ ρ_t G_t / n          unbiased, its variance can be infinite
        weighted:  V(s) = Σ ρ_t G_t / Σ ρ_t      biased, the bias vanishes; steadier

    Sums run over first visits of s. Arguments as for ``monte_carlo_prediction``.

    Raises:
        ValueError: the behaviour never takes an action that the policy takes (where).

    Book: 04_monte_carlo. Source: Precup, Sutton and Singh (2000); Sutton and Barto (2018),
    equations 5.5 and 5.6.
    """
    check_covered(policy, behaviour)
    weighted_sum, weights, visits = np.zeros((3, len(policy)))
    for i in range(episodes):
        episode = _whole_episode(env, behaviour, i, generator)
        visited = episode.states[:-1]
        G = returns_to_go(episode.rewards, gamma=gamma)
        taken = visited, episode.actions
        rho = np.cumprod((policy[taken] / behaviour[taken])[::-1])[::-1]
        first = first_visits(visited)
        weighted_sum[visited[first]] += rho[first] * G[first]
        weights[visited[first]] += rho[first]
        visits[visited[first]] += 1.0
        divisor = weights if weighted else visits
        V = np.divide(weighted_sum, divisor, out=np.zeros_like(weights), where=divisor > 0.0)
        yield MonteCarloReport(i, float(episode.rewards.sum()), divisor, V=V)


def epsilon_greedy(Q: Float[np.ndarray, "S A"], epsilon: float) -> Float[np.ndarray, "S A"]:
    """π(a|s) = ε/A, plus (1 - ε) shared by the actions whose Q(s, a) is the largest."""
    best = Q == Q.max(axis=1, keepdims=True)
    return epsilon / Q.shape[1] + (1.0 - epsilon) * best / best.sum(axis=1, keepdims=True)


def return_variance(
    mdp: MDP,
    policy: Float[np.ndarray, "S A"],
    *,
    gamma: float,
    entry_rewards: Float[np.ndarray, " S"] | None = None,
) -> Float[np.ndarray, " S"]:
    """The exact variance of the return from each state, IF NO REWARD IS A MATTER OF CHANCE.

        Var(s) = Σ_a π(a|s) Σ_s' P(s'|s, a) { [r + γ V(s') - V(s)]² + γ² Var(s') }

    It is a Bellman equation with discount γ² and the squared TD error as its reward, so
    ``policy_evaluation`` solves it. The mean of K independent returns has variance Var(s)/K
    and no bias: chapter 20 (VinePPO) estimates values so.

    Warning: an MDP keeps only the mean reward R(s, a), and r = R(s, a) is taken here. Where the
    reward of one (s, a) varies, the result is WRONG, too small or too large, with no error:
    each step lacks Var(r|s, a) + 2 γ Cov(r, V(s')|s, a). So it is for a slippery GridWorld whose
    goal or pit pays, for FrozenLake, and for sticking in Blackjack. Where the landing state
    decides the reward, give ``entry_rewards``, and it is exact again.

    Args:
        mdp, policy: the world and π(a|s). gamma: discount in [0, 1].
        entry_rewards: r(s') [S], paid on landing in s', as ``GridWorld.entry_rewards``.

    Raises:
        ValueError: entry_rewards do not have the means R(s, a) of the MDP (where).

    Book: 04_monte_carlo. Source: Sobel (1982), theorem 1.
    """
    fixed, landing = mdp.R, np.zeros(mdp.S)  # r = fixed(s, a) + landing(s')
    if entry_rewards is not None:
        _check_entry_rewards(mdp, entry_rewards)
        fixed, landing = np.zeros_like(mdp.R), entry_rewards
    V = policy_evaluation(mdp, policy, gamma=gamma).V
    # with c = fixed - V and W = landing + γV', E[(c + W)²] = c² + 2c E[W] + E[W²]
    c, W = fixed - V[:, None], landing + gamma * V
    squared_error = c**2 + 2.0 * c * mdp.expected_next(W) + mdp.expected_next(W**2)
    squared_error[mdp.terminal] = 0.0
    second = MDP(mdp.P, squared_error, mdp.terminal, mdp.start)
    return np.maximum(policy_evaluation(second, policy, gamma=gamma**2).V, 0.0)  # rounding


def _check_entry_rewards(mdp: MDP, entry_rewards: np.ndarray) -> None:
    means = np.where(mdp.terminal[:, None], 0.0, mdp.expected_next(entry_rewards))
    wrong = np.argwhere(~np.isclose(means, mdp.R, rtol=1e-9, atol=1e-9))
    if len(wrong):
        s, a = wrong[0]
        raise ValueError(
            f"entry_rewards have the mean {means[s, a]:g} after action {a} in state {s}, but "
            f"R[{s}, {a}] = {mdp.R[s, a]:g}: give the rewards from which this MDP was made"
        )


def _average_first_visits(
    Q: np.ndarray,
    counts: np.ndarray,
    episode: Episode,
    gamma: float,
    step_size: float | None,
) -> None:
    G = returns_to_go(episode.rewards, gamma=gamma)
    pairs = episode.states[:-1] * Q.shape[1] + episode.actions
    for t in first_visits(pairs):
        s, a = episode.states[t], episode.actions[t]
        counts[s, a] += 1
        Q[s, a] += (step_size or 1.0 / counts[s, a]) * (G[t] - Q[s, a])


def _begin_in(env: Any, state: int, number: int, generator: np.random.Generator) -> int:
    """Start an episode in a state; the first one seeds the environment."""
    seed = int(generator.integers(2**31)) if number == 0 else None
    begun = int(env.reset(seed=seed, options={"state": state})[0])
    if begun != state:
        raise ValueError(
            f"{type(env.unwrapped).__name__} began in state {begun}, not in {state} as told: "
            'exploring starts need an environment that obeys reset(options={"state": s}); '
            "use monte_carlo_control"
        )
    return begun


def _whole_episode(
    env: Any, policy: np.ndarray, number: int, generator: np.random.Generator
) -> Episode:
    episode = sample_episode(env, policy, generator=generator)
    _check_ended(episode, number)
    return episode


def _check_ended(episode: Episode, number: int, remedy: str = "") -> None:
    if not episode.terminated:
        raise ValueError(
            f"episode {number} was cut after {len(episode)} steps, so its return is unknown: "
            f"Monte Carlo needs episodes that end; use {remedy}a policy that ends them, or TD "
            "(chapter 05)"
        )

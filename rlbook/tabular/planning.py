"""Planning: computing values and policies when the model (P, R) is known.

Every planner ends the same way: it backs its V up once more and reports how far the true values
can be (see ``rlbook.tabular.bellman``).
"""

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.sparse.linalg import spsolve

from rlbook.tabular.bellman import (
    ROUNDING,
    FiniteHorizonSolution,
    Iteration,
    Solution,
    action_values,
    best_values,
    bracket,
    can_end,
    check_gamma,
    checked_policy,
    greedy_policy,
    half_width,
    optimal_actions,
    record,
)
from rlbook.tabular.mdp import MDP, deterministic_policy, uniform_policy

__all__ = [
    "FiniteHorizonSolution",
    "Iteration",
    "Solution",
    "action_values",
    "finite_horizon",
    "greedy_policy",
    "in_place_value_iteration",
    "modified_policy_iteration",
    "optimal_actions",
    "policy_evaluation",
    "policy_iteration",
    "prioritised_value_iteration",
    "value_iteration",
]

# --- evaluation ------------------------------------------------------------------------------


def policy_evaluation(
    mdp: MDP,
    policy: Float[np.ndarray, "S A"],
    *,
    gamma: float,
    method: str = "exact",
    tol: float = 1e-10,
    max_sweeps: int = 100_000,
    keep_values: bool = False,
) -> Solution:
    """The values of a policy.

        V(s) = Σ_a π(a|s) [ R(s, a) + γ Σ_s' P(s'|s, a) V(s') ]

    Args:
        mdp, policy: π(a|s) as a table [S, A] whose rows sum to 1.
        gamma: discount in [0, 1]; 1 needs a policy that ends from every state.
        method: "exact" solves (I - γ P_π) V = R_π; "iterative" sweeps V ← R_π + γ P_π V from
            V = 0 until the error bound is at most ``tol`` (at gamma = 1: the largest change).
        tol: in units of reward.
        max_sweeps: give up after so many sweeps.
        keep_values: store V after every sweep in the history.

    Raises:
        ValueError: gamma outside [0, 1]; a policy that is not a distribution (which state) or,
            at gamma = 1, does not end (from which state); no convergence.

    Book: 03_planning. Source: Sutton and Barto (2018), section 4.1.
    """
    policy = checked_policy(mdp, policy)
    gamma = check_gamma(mdp, gamma, policy)
    P_pi, R_pi = mdp.under(policy)
    V = np.zeros(mdp.S)
    if method == "exact":
        V = _solve_linear(mdp, P_pi, R_pi, gamma)
        bound = half_width(V, R_pi + gamma * (P_pi @ V), gamma)
        history = [Iteration(float(np.abs(V).max()), bound, mdp.S, V if keep_values else None)]
    elif method == "iterative":
        history = []
        while True:
            V, done = record(history, V, R_pi + gamma * (P_pi @ V), gamma, tol, keep_values)
            if done:
                break
            _check_budget(history, max_sweeps, "policy_evaluation", tol)
    else:
        raise ValueError(f"method={method!r} is not one of 'exact', 'iterative'")
    V, bound = bracket(mdp, V, R_pi + gamma * (P_pi @ V), gamma)
    return Solution(V, action_values(mdp, V, gamma=gamma), policy, bound, tuple(history))


# --- control ---------------------------------------------------------------------------------


def policy_iteration(
    mdp: MDP,
    *,
    gamma: float,
    policy: Float[np.ndarray, "S A"] | None = None,
    max_improvements: int = 1_000,
    keep_values: bool = False,
) -> Solution:
    """Evaluate the policy exactly, improve it greedily, repeat until nothing improves.

        π'(s) = argmax_a Q_π(s, a);     V_π' ≥ V_π in every state

    A state keeps its action unless another is better by more than rounding, so ties cannot
    make the loop run for ever.

    Args:
        mdp: the decision process.
        gamma: discount in [0, 1]; at 1 every state must be able to reach a terminal one.
        policy: where to begin [S, A]. Default: the uniform random policy; at gamma = 1 one that
            heads for a terminal state.
        max_improvements: give up after so many.
        keep_values: store the value of every policy met in the history.

    Raises:
        ValueError: as for ``policy_evaluation``; at gamma = 1 also where a loop gains reward
            for ever, so that values are infinite.

    Book: 03_planning. Source: Howard (1960); Sutton and Barto (2018), section 4.3.
    """
    gamma = check_gamma(mdp, gamma)
    if policy is None:
        policy = uniform_policy(mdp) if gamma < 1.0 else _ending_policy(mdp)
    policy = checked_policy(mdp, policy)
    check_gamma(mdp, gamma, policy)
    history: list[Iteration] = []
    V = np.zeros(mdp.S)
    while True:
        P_pi, R_pi = mdp.under(policy)
        V_old, V = V, _solve_linear(mdp, P_pi, R_pi, gamma)
        Q = action_values(mdp, V, gamma=gamma)
        _, bound = bracket(mdp, V, best_values(Q), gamma)
        residual = float(np.abs(V - V_old).max())
        history.append(Iteration(residual, bound, mdp.S, V if keep_values else None))
        improved = _improve(policy, Q, gamma)
        # Each improvement raises the sum of the values; if it does not, the rest is rounding.
        if improved is policy or (len(history) > 1 and V.sum() <= V_old.sum()):
            return _solution(mdp, V, gamma, history)
        if gamma == 1.0 and not _ends(mdp, improved):
            _refuse_gaining_loop(mdp, improved)
            return _solution(mdp, V, gamma, history)  # a free loop gains by rounding only
        policy = improved
        _check_budget(history, max_improvements, "policy_iteration", 0.0)


def modified_policy_iteration(
    mdp: MDP,
    *,
    gamma: float,
    tol: float = 1e-10,
    evaluation_sweeps: int = 20,
    max_improvements: int = 100_000,
    keep_values: bool = False,
) -> Solution:
    """Improve the policy greedily, then evaluate it by a few sweeps only, and repeat.

        π = greedy(V);     V ← T_π^m V        (m = 1: value iteration; m → ∞: policy iteration)

    Begins with V = 0 for gamma < 1. At gamma = 1 it begins with the values of a policy that
    heads for a terminal state, from where V only rises.

    Args:
        mdp, gamma, keep_values: as for ``policy_iteration``.
        tol: stop when the error bound (at gamma = 1: the largest change) is at most this.
        evaluation_sweeps: m, at least 1.
        max_improvements: give up after so many.

    Book: 03_planning. Source: Puterman and Shin (1978); Puterman (1994), section 6.5.
    """
    gamma = check_gamma(mdp, gamma)
    if evaluation_sweeps < 1:
        raise ValueError(f"evaluation_sweeps={evaluation_sweeps} must be at least 1")
    V = np.zeros(mdp.S)
    if gamma == 1.0:
        V = policy_evaluation(mdp, _ending_policy(mdp), gamma=1.0).V
    history: list[Iteration] = []
    while True:
        Q = action_values(mdp, V, gamma=gamma)
        V, done = record(
            history, V, best_values(Q), gamma, tol, keep_values, mdp.S * evaluation_sweeps
        )
        if done:
            return _solution(mdp, V, gamma, history)
        _check_budget(history, max_improvements, "modified_policy_iteration", tol)
        P_pi, R_pi = mdp.choosing(Q.argmax(axis=1))
        for _ in range(evaluation_sweeps - 1):
            V = R_pi + gamma * (P_pi @ V)


def value_iteration(
    mdp: MDP,
    *,
    gamma: float,
    tol: float = 1e-10,
    max_sweeps: int = 100_000,
    keep_values: bool = False,
) -> Solution:
    """Back every state up from the old values, all at once, until they settle.

        V_{k+1}(s) = max_a [ R(s, a) + γ Σ_s' P(s'|s, a) V_k(s') ],     V_0 = 0

    V_k is the best expected return of k actions. The maximum is taken after the average over
    s': the agent chooses its action before it knows where it lands.

    Args:
        mdp: the decision process.
        gamma: discount in [0, 1]; at 1 every state must be able to reach a terminal one.
        tol: stop when the error bound (at gamma = 1: the largest change) is at most this,
            in units of reward.
        max_sweeps: give up after so many.
        keep_values: store V after every sweep in the history.

    Raises:
        ValueError: gamma outside [0, 1]; at gamma = 1, a state from which no terminal state
            can be reached (which), or one from which it is best never to end, because going
            round is free (``policy_iteration`` chooses among policies that end); no convergence.

    Book: 03_planning. Source: Sutton and Barto (2018), equation 4.10.
    """
    gamma = check_gamma(mdp, gamma)
    history: list[Iteration] = []
    V = np.zeros(mdp.S)
    while True:
        V_new = best_values(action_values(mdp, V, gamma=gamma))
        V, done = record(history, V, V_new, gamma, tol, keep_values)
        if done:
            return _solution(mdp, V, gamma, history)
        _check_budget(history, max_sweeps, "value_iteration", tol)


def in_place_value_iteration(
    mdp: MDP,
    *,
    gamma: float,
    tol: float = 1e-10,
    max_sweeps: int = 100_000,
    keep_values: bool = False,
) -> Solution:
    """Value iteration that uses each new value at once (Gauss-Seidel).

        for s in states:  V(s) ← max_a [ R(s, a) + γ Σ_s' P(s'|s, a) V(s') ]

    News travels as far as the order of the states lets it in one sweep. One state at a time
    in Python: for teaching and for up to about 10⁴ states.

    Arguments and errors: as for ``value_iteration``.

    Book: 03_planning. Source: Sutton and Barto (2018), section 4.4.
    """
    gamma = check_gamma(mdp, gamma)
    backup = _single_state_backup(mdp, gamma)
    history: list[Iteration] = []
    V = np.zeros(mdp.S)
    while True:
        V_old = V.copy()
        for s in range(mdp.S):
            V[s] = backup(s, V)
        # The sweep is a contraction of modulus γ too, but without the span bound: report the
        # contraction bound here, and let the last backup tighten it.
        residual = float(np.abs(V - V_old).max())
        bound = gamma / (1.0 - gamma) * residual if gamma < 1.0 else np.inf
        history.append(Iteration(residual, bound, mdp.S, V.copy() if keep_values else None))
        reached = bound if gamma < 1.0 else residual
        if reached <= tol or residual <= ROUNDING * np.abs(V).max():
            return _solution(mdp, V, gamma, history)
        _check_budget(history, max_sweeps, "in_place_value_iteration", tol)


def prioritised_value_iteration(
    mdp: MDP,
    *,
    gamma: float,
    tol: float = 1e-10,
    max_sweeps: int = 100_000,
    keep_values: bool = False,
) -> Solution:
    """Value iteration that always backs up the state whose value is most out of date.

        s = argmax_s |TV(s) - V(s)|;     V(s) ← TV(s);     then look again at what leads to s

    Behind each change of a value stands one backup of every state that leads to s, to renew
    the priorities; the history counts those, and has a line for every S changes. It pays where
    few states lead to each, as on a grid. One state at a time in Python: for teaching.

    Arguments and errors: as for ``value_iteration``; stops when every |TV(s) - V(s)| is at most
    tol · (1 - gamma), which bounds the error by tol (at gamma = 1: at most tol).

    Book: 03_planning. Source: Moore and Atkeson (1993), with exact residuals as priorities.
    """
    gamma = check_gamma(mdp, gamma)
    backup = _single_state_backup(mdp, gamma)
    leads_to = _predecessors(mdp)
    threshold = tol * (1.0 - gamma) if gamma < 1.0 else tol
    V = np.zeros(mdp.S)
    target = best_values(action_values(mdp, V, gamma=gamma))
    queue = [(-abs(target[s]), s) for s in range(mdp.S) if abs(target[s]) > threshold]
    heapq.heapify(queue)
    history: list[Iteration] = []
    changes, backups, largest = 0, mdp.S, 0.0
    while queue:
        priority, s = heapq.heappop(queue)
        gap = abs(target[s] - V[s])
        if gap == -priority:  # else the entry is out of date, and a newer one is in the queue
            V[s] = target[s]
            for p in leads_to[s]:
                target[p] = backup(p, V)
                gap_p = abs(target[p] - V[p])
                if gap_p > max(threshold, ROUNDING * abs(V[p])):
                    heapq.heappush(queue, (-gap_p, p))
            changes, largest = changes + 1, max(largest, gap)
            backups += len(leads_to[s])
        if changes == mdp.S or (changes and not queue):
            remaining = float(np.abs(target - V).max())
            bound = remaining / (1.0 - gamma) if gamma < 1.0 else np.inf
            values = V.copy() if keep_values else None
            history.append(Iteration(float(largest), bound, backups, values))
            changes, backups, largest = 0, 0, 0.0
            if remaining > threshold:
                _check_budget(history, max_sweeps, "prioritised_value_iteration", tol)
    return _solution(mdp, V, gamma, history)


def finite_horizon(mdp: MDP, *, horizon: int, gamma: float = 1.0) -> FiniteHorizonSolution:
    """The best policy for a fixed number of actions, by backward induction.

        V_0 = 0;     Q_h(s, a) = R(s, a) + γ Σ_s' P(s'|s, a) V_{h-1}(s');     V_h = max_a Q_h

    The best action may depend on h, the number of actions left. Any gamma in [0, 1] will do.

    Book: 03_planning. Source: Puterman (1994), section 4.5.
    """
    if horizon < 1:
        raise ValueError(f"horizon={horizon} must be at least 1 action")
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma={gamma} is not a discount: it must lie in [0, 1]")
    V = np.zeros((horizon + 1, mdp.S))
    Q = np.zeros((horizon, mdp.S, mdp.A))
    for h in range(1, horizon + 1):
        Q[h - 1] = action_values(mdp, V[h - 1], gamma=gamma)
        V[h] = best_values(Q[h - 1])
    return FiniteHorizonSolution(V, Q, greedy_policy(Q))


# --- the parts that planners share -----------------------------------------------------------


def _solution(mdp: MDP, V: np.ndarray, gamma: float, history: list[Iteration]) -> Solution:
    """Back V up once more, centre it in its bracket, and read off all optimal actions."""
    TV = best_values(action_values(mdp, V, gamma=gamma))
    V, bound = bracket(mdp, V, TV, gamma)
    Q = action_values(mdp, V, gamma=gamma)
    policy = greedy_policy(Q)
    if gamma == 1.0 and not _ends(mdp, policy):
        state = int(np.flatnonzero(~can_end(mdp.under(policy)[0], mdp.terminal))[0])
        raise ValueError(
            f"gamma=1, and from state {state} it is best never to end: a loop there is free or "
            "gains reward. Use gamma < 1, give every move a cost, or use policy_iteration, which "
            "chooses among policies that end"
        )
    return Solution(V, Q, policy, bound, tuple(history))


def _ends(mdp: MDP, policy: np.ndarray) -> bool:
    return bool(can_end(mdp.under(policy)[0], mdp.terminal).all())


def _ending_policy(mdp: MDP) -> Float[np.ndarray, "S A"]:
    """A policy that ends: each state takes the action likeliest to bring it a step nearer to a
    terminal state (steps counted over what can happen)."""
    near, actions = mdp.terminal.copy(), np.zeros(mdp.S, int)
    while True:
        nearer = mdp.expected_next(near.astype(float))
        new = (nearer.max(axis=1) > 0.0) & ~near
        if not new.any():
            return deterministic_policy(actions, mdp.A)
        actions[new] = nearer[new].argmax(axis=1)
        near |= new


def _solve_linear(mdp: MDP, P_pi: Any, R_pi: np.ndarray, gamma: float) -> np.ndarray:
    """Solve V = R_π + γ P_π V, where a terminal state's equation reads V = 0."""
    discount = np.where(mdp.terminal, 0.0, gamma)
    if mdp.is_sparse:
        system = sparse.eye_array(mdp.S) - sparse.diags_array(discount) @ P_pi
        return spsolve(sparse.csc_array(system), R_pi)
    return np.linalg.solve(np.eye(mdp.S) - discount[:, None] * P_pi, R_pi)


def _improve(policy: np.ndarray, Q: np.ndarray, gamma: float) -> np.ndarray:
    """Move each state to its best action where that gains more than rounding; the same object
    comes back when no state gains."""
    gain = Q.max(axis=1) - (policy * Q).sum(axis=1)
    # At gamma = 1 a tie taken for a gain could make the policy go round for ever.
    negligible = (ROUNDING if gamma < 1.0 else 1e-12) * max(1.0, np.abs(Q).max())
    gains = gain > negligible
    if not gains.any():
        return policy
    return np.where(gains[:, None], np.eye(Q.shape[1])[Q.argmax(axis=1)], policy)


def _refuse_gaining_loop(mdp: MDP, policy: np.ndarray) -> None:
    """Raise if a policy gains reward where it never ends: values are infinite at gamma = 1."""
    P_pi, R_pi = mdp.under(policy)
    gaining = ~can_end(P_pi, mdp.terminal) & (R_pi > 0.0)
    if gaining.any():
        raise ValueError(
            f"gamma=1, and a loop through state {np.flatnonzero(gaining)[0]} gains reward for "
            "ever, so values are infinite: use gamma < 1 or make the loop cost something"
        )


def _single_state_backup(mdp: MDP, gamma: float) -> Callable[[int, np.ndarray], float]:
    """A function (s, V) → max_a [ R(s, a) + γ Σ_s' P(s'|s, a) V(s') ] for one state."""
    if not mdp.is_sparse:
        return lambda s, V: (mdp.R[s] + gamma * (mdp.P[s] @ V)).max()
    ends, columns, weights = mdp.P.indptr, mdp.P.indices, mdp.P.data

    def backup(s: int, V: np.ndarray) -> float:
        rows = range(s * mdp.A, (s + 1) * mdp.A)
        spans = [slice(ends[row], ends[row + 1]) for row in rows]
        expected = np.array([weights[span] @ V[columns[span]] for span in spans])
        return (mdp.R[s] + gamma * expected).max()

    return backup


def _predecessors(mdp: MDP) -> list[list[int]]:
    """For each state, the non-terminal states from which some action can lead to it."""
    rows = sparse.coo_array(mdp.rows)
    origin = rows.row // mdp.A
    counts = (~mdp.terminal[origin]).astype(float)
    links = sparse.csc_array((counts, (origin, rows.col)), shape=(mdp.S, mdp.S))
    links.eliminate_zeros()
    return [states.tolist() for states in np.split(links.indices, links.indptr[1:-1])]


def _check_budget(history: list[Iteration], limit: int, name: str, tol: float) -> None:
    if len(history) >= limit:
        raise ValueError(
            f"{name} has not converged after {limit} iterations: the largest change is "
            f"{history[-1].residual:.3g} (tol={tol:g}); allow more, or, at gamma=1, look for a "
            "loop that gains reward for ever"
        )

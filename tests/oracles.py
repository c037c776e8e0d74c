"""Slow and independent ways to the same numbers: what the tests of rlbook.tabular compare with.

Nothing here calls a planner of the book. Loops are spelt out, one state at a time.
"""

import itertools

import numpy as np
from scipy import sparse
from scipy.optimize import linprog
from scipy.stats import chi2

from rlbook.tabular.mdp import MDP


def dense(mdp: MDP) -> np.ndarray:
    """P as [S, A, S]."""
    return mdp.P.toarray().reshape(mdp.S, mdp.A, mdp.S) if sparse.issparse(mdp.P) else mdp.P


def naive_action_values(mdp: MDP, V: np.ndarray, gamma: float) -> np.ndarray:
    """Q(s, a) by three nested loops."""
    P, Q = dense(mdp), np.zeros((mdp.S, mdp.A))
    for s in range(mdp.S):
        for a in range(mdp.A):
            total = 0.0
            for s_next in range(mdp.S):
                total += P[s, a, s_next] * (mdp.R[s, a] + gamma * V[s_next])
            Q[s, a] = total
    return Q


def naive_sweep(mdp: MDP, V: np.ndarray, gamma: float, policy: np.ndarray | None = None):
    """One synchronous Bellman backup of every state: of a policy, or the optimality backup."""
    Q = naive_action_values(mdp, V, gamma)
    if policy is None:
        return np.array([max(row) for row in Q.tolist()])
    return np.array([sum(policy[s, a] * Q[s, a] for a in range(mdp.A)) for s in range(mdp.S)])


def chain_values(P: np.ndarray, R: np.ndarray, terminal: np.ndarray, gamma: float) -> np.ndarray:
    """Values of a Markov chain with rewards, solved on its non-terminal states only."""
    V, live = np.zeros(len(R)), np.flatnonzero(~terminal)
    V[live] = np.linalg.solve(np.eye(len(live)) - gamma * P[np.ix_(live, live)], R[live])
    return V


def policy_values(mdp: MDP, policy: np.ndarray, gamma: float) -> np.ndarray:
    """Values of a stochastic policy by a linear solve on the non-terminal states."""
    P = dense(mdp)
    P_pi, R_pi = np.zeros((mdp.S, mdp.S)), np.zeros(mdp.S)
    for s, a in itertools.product(range(mdp.S), range(mdp.A)):
        P_pi[s] += policy[s, a] * P[s, a]
        R_pi[s] += policy[s, a] * mdp.R[s, a]
    return chain_values(P_pi, R_pi, mdp.terminal, gamma)


def lp_values(mdp: MDP, gamma: float) -> np.ndarray:
    """Optimal values by linear programming: min Σ V(s) with V(s) ≥ R(s,a) + γ Σ P V.

    The program names the optimal policy (its tightest constraints); that policy's values are
    then solved for, so that the answer does not carry the tolerance of the solver. Values at
    gamma = 1 need a unique solution: every loop must cost something.
    """
    rows = sparse.csr_array(mdp.P if mdp.is_sparse else mdp.P.reshape(-1, mdp.S))
    own = sparse.kron(sparse.eye_array(mdp.S), np.ones((mdp.A, 1)), format="csr")
    live = np.repeat(~mdp.terminal, mdp.A)
    bounds = [(0.0, 0.0) if end else (None, None) for end in mdp.terminal]
    answer = linprog(
        np.ones(mdp.S),
        A_ub=sparse.csr_matrix((gamma * rows - own)[live]),
        b_ub=-mdp.R.ravel()[live],
        bounds=bounds,
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    assert answer.status == 0, answer.message
    best = naive_best(rows, mdp, answer.x, gamma)
    V = chain_values(
        rows.toarray()[np.arange(mdp.S) * mdp.A + best],
        mdp.R[np.arange(mdp.S), best],
        mdp.terminal,
        gamma,
    )
    assert np.abs(V - answer.x).max() < 1e-6 * max(1.0, np.abs(V).max())
    return V


def naive_best(rows: sparse.csr_array, mdp: MDP, V: np.ndarray, gamma: float) -> np.ndarray:
    """The action of each state whose constraint of the linear program is tightest. Among equal
    ones (1e-9), the likeliest to leave the state, so that the policy can end."""
    best = np.zeros(mdp.S, int)
    for s in range(mdp.S):
        value = [mdp.R[s, a] + gamma * float((rows[[s * mdp.A + a]] @ V)[0]) for a in range(mdp.A)]
        stay = [rows[s * mdp.A + a, s] for a in range(mdp.A)]
        close = [a for a in range(mdp.A) if value[a] > max(value) - 1e-9]
        best[s] = min(close, key=lambda a: stay[a])
    return best


def best_stationary_values(mdp: MDP, gamma: float) -> np.ndarray:
    """Optimal values by trying all A^S deterministic policies (gamma < 1)."""
    P, states = dense(mdp), np.arange(mdp.S)
    values = [
        chain_values(P[states, list(choice)], mdp.R[states, list(choice)], mdp.terminal, gamma)
        for choice in itertools.product(range(mdp.A), repeat=mdp.S)
    ]
    return np.max(values, axis=0)


def best_finite_horizon_values(mdp: MDP, horizon: int, gamma: float) -> np.ndarray:
    """Best return of ``horizon`` actions by trying all A^(S·horizon) time-dependent policies,
    each followed forward from every state as a distribution over states."""
    P, states = dense(mdp), np.arange(mdp.S)
    best = np.full(mdp.S, -np.inf)
    for plan in itertools.product(itertools.product(range(mdp.A), repeat=mdp.S), repeat=horizon):
        where, total = np.eye(mdp.S), np.zeros(mdp.S)
        for t, choice in enumerate(plan):
            total += gamma**t * (where @ mdp.R[states, list(choice)])
            where = where @ P[states, list(choice)]
        best = np.maximum(best, total)
    return best


def sampled_returns(
    mdp: MDP,
    policy: np.ndarray,
    start: int,
    *,
    gamma: float,
    steps: int,
    samples: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Discounted returns of ``samples`` simulated runs of ``steps`` actions each."""
    P = dense(mdp)
    state, total = np.full(samples, start), np.zeros(samples)
    for t in range(steps):
        action = (generator.random(samples)[:, None] > policy.cumsum(axis=1)[state]).sum(axis=1)
        action = np.minimum(action, mdp.A - 1)
        total += gamma**t * mdp.R[state, action]
        cumulative = P.cumsum(axis=2)[state, action]
        state = (generator.random(samples)[:, None] > cumulative).sum(axis=1)
        state = np.minimum(state, mdp.S - 1)
    return total


def walking_distances(symbols: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Moves to the target from every cell by relaxing every pair of neighbours, over and over."""
    height, width = symbols.shape
    distances = np.full((height, width), np.inf)
    distances[target] = 0.0
    for _ in range(height * width):
        for r, c in itertools.product(range(height), range(width)):
            for q, d in itertools.product(range(height), range(width)):
                neighbours = abs(r - q) + abs(c - d) == 1
                if neighbours and symbols[r, c] != "#" and symbols[q, d] != "#":
                    distances[r, c] = min(distances[r, c], distances[q, d] + 1)
    return distances


def moves_to_end(table: dict, state: int) -> int:
    """Fewest actions that end an episode of a deterministic gymnasium table ``env.P``."""
    frontier, seen, moves = {state}, {state}, 0
    while frontier:
        moves += 1
        reached = set()
        for s in frontier:
            for transitions in table[s].values():
                for probability, s_next, _, terminated in transitions:
                    if probability > 0 and terminated:
                        return moves
                    reached.add(s_next)
        frontier = reached - seen
        seen |= reached
    raise AssertionError("no episode ends")


def chi_square_p(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """p-value of counts [n, k] against n rows of probabilities, pooled; 0 outside the support."""
    if (counts[probabilities == 0.0] > 0).any():
        return 0.0
    expected = probabilities * counts.sum(axis=1, keepdims=True)
    inside = expected > 0
    statistic = ((counts - expected)[inside] ** 2 / expected[inside]).sum()
    return float(chi2.sf(statistic, inside.sum() - len(counts)))


def sutton_barto_5x5() -> MDP:
    """Example 3.5 (2nd edition), with two special cells; actions up, right, down, left."""
    P, R = np.zeros((25, 4, 25)), np.zeros((25, 4))
    for row, column, a in itertools.product(range(5), range(5), range(4)):
        s = 5 * row + column
        to_row, to_column = [
            (row - 1, column),
            (row, column + 1),
            (row + 1, column),
            (row, column - 1),
        ][a]
        if (row, column) == (0, 1):
            P[s, a, 5 * 4 + 1], R[s, a] = 1.0, 10.0
        elif (row, column) == (0, 3):
            P[s, a, 5 * 2 + 3], R[s, a] = 1.0, 5.0
        elif 0 <= to_row < 5 and 0 <= to_column < 5:
            P[s, a, 5 * to_row + to_column] = 1.0
        else:
            P[s, a, s], R[s, a] = 1.0, -1.0
    return MDP(P, R)

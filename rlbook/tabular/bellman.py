"""The Bellman equations, and what every planner shares: its result, its bound, its checks.

For gamma < 1 and Δ = TV - V, where T is the Bellman operator of the planner,

    V + min(Δ)/(1-γ)  ≤  V_true  ≤  V + max(Δ)/(1-γ)        (terminal states: exactly 0)

(MacQueen 1966; Puterman 1994, theorem 6.6.3), so a planner returns the middle of the bracket
and half its width as ``error_bound``, plus an allowance for the rounding of float64, which the
division by 1 - γ magnifies too. At gamma = 1 no such bound exists: it is infinite, and a
planner stops when no value changes by more than ``tol``.

Deviation from the papers: a tolerance below the rounding of float64 cannot be met, so planners
also stop when Δ is down to rounding; ``error_bound`` then says what was reached.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsFloat

import numpy as np
from jaxtyping import Bool, Float

from rlbook.tabular.mdp import MDP, uniform_policy

TIE_TOLERANCE = 1e-9  # actions of a state closer than this (relative, or absolute below 1) tie
ROUNDING = 8 * np.finfo(float).eps


class Iteration(NamedTuple):
    """One line of a planner's history.

    Attributes:
        residual: largest change of a value, in units of reward.
        error_bound: how far V can be from the true values; inf where no bound exists.
        backups: how many states were backed up (one linear solve counts as S).
        V: the values after this iteration [S], if ``keep_values=True``.
    """

    residual: float
    error_bound: float
    backups: int
    V: np.ndarray | None


@dataclass(frozen=True)
class Solution:
    """What a planner found.

    Attributes:
        V: values of the states [S].
        Q: values of the actions [S, A].
        policy: π(a|s) [S, A]; a control method spreads it evenly over all optimal actions.
        error_bound: no entry of V is further than this from its true value; inf at gamma = 1.
        history: one ``Iteration`` per sweep, or per improvement in policy iteration.
    """

    V: Float[np.ndarray, " S"]
    Q: Float[np.ndarray, "S A"]
    policy: Float[np.ndarray, "S A"]
    error_bound: float
    history: tuple[Iteration, ...]

    @property
    def optimal_actions(self) -> Bool[np.ndarray, "S A"]:
        """True for every action that the policy takes."""
        return self.policy > 0.0


@dataclass(frozen=True)
class FiniteHorizonSolution:
    """Values and policies by time: index h is the number of actions left.

    Attributes:
        V: [H + 1, S], V[0] = 0. Q: [H, S, A], Q[h - 1] is the value with h actions left.
        policy: [H, S, A], like Q. error_bound: 0, up to rounding: the recursion is exact.
    """

    V: Float[np.ndarray, "levels S"]  # H + 1 levels
    Q: Float[np.ndarray, "H S A"]
    policy: Float[np.ndarray, "H S A"]
    error_bound: float = 0.0


# --- the Bellman equations -------------------------------------------------------------------


def action_values(
    mdp: MDP, V: Float[np.ndarray, " S"], *, gamma: float
) -> Float[np.ndarray, "S A"]:
    """The value of each action when V is the value of what follows (a Bellman backup).

        Q(s, a) = R(s, a) + γ Σ_s' P(s'|s, a) V(s')

    Book: 02_gridworld. Source: Sutton and Barto (2018), equation 4.6.
    """
    return mdp.R + gamma * mdp.expected_next(V)


def best_values(Q: Float[np.ndarray, "S A"]) -> Float[np.ndarray, " S"]:
    """V(s) = max_a Q(s, a), column by column: faster than Q.max(axis=1) when actions are few."""
    return functools.reduce(np.maximum, Q.T)


def optimal_actions(
    Q: Float[np.ndarray, "... A"], *, tolerance: float = TIE_TOLERANCE
) -> Bool[np.ndarray, "... A"]:
    """All best actions of each state, ties included.

    An action is best if max_a' Q(s, a') - Q(s, a) ≤ tolerance · max(1, max_a' |Q(s, a')|).
    """
    scale = np.maximum(1.0, np.abs(Q).max(axis=-1, keepdims=True))
    return Q.max(axis=-1, keepdims=True) - Q <= tolerance * scale


def greedy_policy(
    Q: Float[np.ndarray, "... A"], *, tolerance: float = TIE_TOLERANCE
) -> Float[np.ndarray, "... A"]:
    """The policy that draws evenly among all best actions (see ``optimal_actions``)."""
    best = optimal_actions(Q, tolerance=tolerance)
    return best / best.sum(axis=-1, keepdims=True)


# --- the bracket and the stop ----------------------------------------------------------------


def bracket(
    mdp: MDP, V: np.ndarray, TV: np.ndarray, gamma: float
) -> tuple[Float[np.ndarray, " S"], float]:
    """The middle of the bracket around the true values, and half its width.

    TV + γ min(Δ)/(1-γ) ≤ V_true ≤ TV + γ max(Δ)/(1-γ) with Δ = TV - V.
    """
    if gamma == 1.0:
        return TV, np.inf
    change = TV - V
    middle = (change.min() + change.max()) / 2.0 * gamma / (1.0 - gamma)
    return np.where(mdp.terminal, 0.0, TV + middle), half_width(V, TV, gamma)


def half_width(V: np.ndarray, TV: np.ndarray, gamma: float) -> float:
    """Half the width of the bracket, with the allowance for rounding; inf at gamma = 1."""
    if gamma == 1.0:
        return np.inf
    change = TV - V
    shift = gamma / (1.0 - gamma) * np.abs(change).max()  # V may be about to move as far as this
    rounding = ROUNDING * (np.abs(TV).max() + shift)
    return float((gamma * (change.max() - change.min()) / 2.0 + rounding) / (1.0 - gamma))


def record(
    history: list[Iteration],
    V: np.ndarray,
    TV: np.ndarray,
    gamma: float,
    tol: float,
    keep_values: bool,
    backups: int | None = None,
) -> tuple[np.ndarray, bool]:
    """Write one sweep V → TV into the history; return TV and whether to stop."""
    change = TV - V
    residual = float(np.abs(change).max())
    bound = half_width(V, TV, gamma)
    history.append(Iteration(residual, bound, backups or len(V), TV if keep_values else None))
    unsettled = change.max() - change.min() if gamma < 1.0 else residual
    reached = bound if gamma < 1.0 else residual
    return TV, bool(reached <= tol or unsettled <= ROUNDING * np.abs(TV).max())


# --- checks at the door ----------------------------------------------------------------------


def can_end(P_pi: Any, terminal: np.ndarray) -> Bool[np.ndarray, " S"]:
    """True for the states from which a chain P [S, S] reaches a terminal state."""
    ends = terminal.copy()
    while True:
        grown = ends | (P_pi @ ends.astype(float) > 0.0)
        if (grown == ends).all():
            return ends
        ends = grown


def check_gamma(mdp: MDP, gamma: SupportsFloat, policy: np.ndarray | None = None) -> float:
    """gamma as a float, once it is a discount; gamma = 1 needs episodes that end, under the
    policy given or, without one, under some policy (the uniform one tries every action)."""
    gamma = float(gamma)  # a float32 would lower the precision of everything it touches
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma={gamma} is not a discount: it must lie in [0, 1]")
    if gamma < 1.0:
        return gamma
    ends = can_end(mdp.under(uniform_policy(mdp) if policy is None else policy)[0], mdp.terminal)
    if not ends.all():
        state = int(np.flatnonzero(~ends)[0])
        who = "no policy ever reaches" if policy is None else "the policy never reaches"
        raise ValueError(
            f"gamma=1 needs episodes that end, but {who} a terminal state from state {state}: "
            "use gamma < 1, or mark the states that end an episode as terminal"
        )
    return gamma


def checked_policy(mdp: MDP, policy: Any) -> Float[np.ndarray, "S A"]:
    """The policy as float64 [S, A] whose rows sum to 1; ValueError names the state that does not
    hold a distribution."""
    policy = np.array(policy, dtype=float)
    if policy.shape != (mdp.S, mdp.A):
        raise ValueError(
            f"policy must have shape [S, A] = ({mdp.S}, {mdp.A}); it has shape {policy.shape}. "
            "deterministic_policy(actions, A) makes one from one action per state"
        )
    sums = policy.sum(axis=1)
    # A softmax in float32 misses 1 by about 1e-7.
    wrong = (np.abs(sums - 1.0) > 1e-6) | ~(policy >= 0.0).all(axis=1)
    if wrong.any():
        s = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"policy[{s}] = {policy[s].tolist()} is not a probability distribution: "
            f"it sums to {sums[s]:.9g}"
        )
    return policy / sums[:, None] if (np.abs(sums - 1.0) > 1e-12).any() else policy

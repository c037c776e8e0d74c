"""A finite Markov decision process, checked at the door.

Letters: S states, A actions. P[s, a, s'] is the probability of reaching s' when action a is
taken in s; R[s, a] is the expected reward of that step. A terminal state keeps its agent for
ever and pays nothing, so its value is 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

ROW_SUM_TOLERANCE = 1e-8  # decimal probabilities such as 0.1 + 0.2 + 0.7 miss 1 by about 1e-16


@dataclass(frozen=True, eq=False)
class MDP:
    """A Markov decision process with finitely many states and actions.

    Attributes:
        P: transition probabilities; dense [S, A, S], or scipy.sparse [S·A, S] where row
            s·A + a belongs to action a in state s (stored as CSR).
        R: expected rewards [S, A], in units of reward.
        terminal: True for the states that end an episode [S]. Their rows must be absorbing
            with zero reward; ``absorbing`` makes them so. Default: none.
        start: probabilities of the first state [S]. Default: uniform over the states that are
            not terminal.

    The arrays are copied and made read-only.

    Raises:
        ValueError: a shape that does not fit; a negative or NaN probability, a row that does
            not sum to 1, a reward that is not finite, a terminal state that leaks: each names
            the state and action.

    Book: 02_gridworld. Source: Puterman (1994), Markov Decision Processes, section 2.1.
    """

    P: Any
    R: Any
    terminal: Any = None
    start: Any = None

    def __post_init__(self) -> None:
        R = np.array(self.R, dtype=float)
        if R.ndim != 2 or 0 in R.shape:
            raise ValueError(f"R must have shape [S, A]; it has shape {R.shape}")
        S, A = R.shape
        terminal = _checked_terminal(self.terminal, S)
        P = _checked_transitions(self.P, S, A)
        _check_rewards(R)
        _check_absorbing(P, R, terminal)
        object.__setattr__(self, "P", P)
        object.__setattr__(self, "R", R)
        object.__setattr__(self, "terminal", terminal)
        object.__setattr__(self, "start", _checked_start(self.start, terminal))
        for array in (*_buffers(P), R, terminal, self.start):
            array.flags.writeable = False

    @property
    def S(self) -> int:
        """Number of states."""
        return self.R.shape[0]

    @property
    def A(self) -> int:
        """Number of actions."""
        return self.R.shape[1]

    @property
    def is_sparse(self) -> bool:
        """True when P is a scipy.sparse matrix [S·A, S]."""
        return sparse.issparse(self.P)

    @property
    def rows(self) -> Any:
        """P as a matrix [S·A, S], dense or sparse: row s·A + a holds P(· | s, a)."""
        return self.P if self.is_sparse else self.P.reshape(self.S * self.A, self.S)

    def expected_next(self, V: Float[np.ndarray, " S"]) -> Float[np.ndarray, "S A"]:
        """Expected value of the next state: Σ_s' P(s' | s, a) · V(s')."""
        return (self.rows @ V).reshape(self.S, self.A)

    def under(self, policy: Float[np.ndarray, "S A"]) -> tuple[Any, Float[np.ndarray, " S"]]:
        """The Markov chain that a policy makes of this MDP.

            P_π[s, s'] = Σ_a π(a|s) P(s'|s, a)        R_π[s] = Σ_a π(a|s) R(s, a)

        Returns:
            P_π [S, S] (dense or CSR, like P) and R_π [S].
        """
        if not self.is_sparse:
            P_pi = np.einsum("sa,sat->st", policy, self.P)
        else:
            state, action = np.nonzero(policy)
            weights = sparse.csr_array(
                (policy[state, action], (state, state * self.A + action)),
                shape=(self.S, self.S * self.A),
            )
            P_pi = sparse.csr_array(weights @ self.P)
        return P_pi, (policy * self.R).sum(axis=1)

    def choosing(self, actions: Int[np.ndarray, " S"]) -> tuple[Any, Float[np.ndarray, " S"]]:
        """``under`` for one action per state: P_π[s, s'] = P(s'|s, actions[s]), R_π likewise."""
        state = np.arange(self.S)
        if self.is_sparse:
            return self.P[state * self.A + actions], self.R[state, actions]
        return self.P[state, actions], self.R[state, actions]

    def to_sparse(self) -> "MDP":
        """The same MDP with P stored as CSR [S·A, S]."""
        return MDP(sparse.csr_array(self.rows), self.R, self.terminal, self.start)

    def to_dense(self) -> "MDP":
        """The same MDP with P stored as a dense array [S, A, S]."""
        if not self.is_sparse:
            return self
        P = self.P.toarray().reshape(self.S, self.A, self.S)
        return MDP(P, self.R, self.terminal, self.start)

    @classmethod
    def absorbing(cls, P: Any, R: Any, terminal: Any, start: Any = None) -> "MDP":
        """An MDP whose terminal rows are overwritten: stay for ever, reward 0."""
        R = np.asarray(R, float)
        terminal = _checked_terminal(terminal, len(R))
        R = np.where(terminal[:, None], 0.0, R)
        if sparse.issparse(P):
            ends = np.repeat(terminal, R.shape[1])
            stay = sparse.csr_array(
                (np.ones(ends.sum()), (np.flatnonzero(ends), np.flatnonzero(ends) // R.shape[1])),
                shape=P.shape,
            )
            P = sparse.diags_array((~ends).astype(float)) @ sparse.csr_array(P) + stay
        else:
            P = np.array(P, float)
            P[terminal] = np.eye(len(terminal))[terminal][:, None, :]
        return cls(P, R, terminal, start)

    @classmethod
    def from_gymnasium(cls, env: Any) -> "MDP":
        """Read the MDP of a gymnasium environment that publishes its dynamics.

        Works for the environments with a table ``env.P[s][a]`` of (probability, next state,
        reward, terminated): FrozenLake, CliffWalking, Taxi; and for any environment with a
        method ``mdp()``, such as the book's GridWorld. Successors listed twice are added up.
        Every state in which an episode can end becomes absorbing with reward 0.

        Raises:
            ValueError: the environment publishes no dynamics, or a state that can be reached
                from the start ends some of the episodes that enter it and not others.
        """
        env = env.unwrapped
        if callable(getattr(env, "mdp", None)):
            return env.mdp()
        table = getattr(env, "P", None)
        if table is None:
            raise ValueError(
                f"{type(env).__name__} publishes no transition table env.P, so it cannot be "
                "planned in; learn from samples instead (chapter 05)"
            )
        return _from_table(cls, table, getattr(env, "initial_state_distrib", None))


def deterministic_policy(actions: Int[np.ndarray, " S"], A: int) -> Float[np.ndarray, "S A"]:
    """One action per state as a table of probabilities: π(a|s) = 1 where a = actions[s]."""
    if np.min(actions) < 0 or np.max(actions) >= A:
        raise ValueError(
            f"actions must lie in 0..{A - 1}; they span {min(actions)}..{max(actions)}"
        )
    return np.eye(A)[actions]


def uniform_policy(mdp: MDP) -> Float[np.ndarray, "S A"]:
    """The policy that draws every action with the same probability 1/A."""
    return np.full((mdp.S, mdp.A), 1.0 / mdp.A)


def random_mdp(
    S: int,
    A: int,
    *,
    branching: int,
    generator: np.random.Generator,
    terminal_states: int = 0,
    sparse_rows: bool = False,
) -> MDP:
    """A random MDP: each (s, a) leads to ``branching`` random states; rewards are N(0, 1).

    Probabilities are Dirichlet(1, ..., 1). The last ``terminal_states`` states are terminal.
    (The "Garnet" family. Source: Archibald, McKinnon and Thomas (1995).)
    """
    if not 1 <= branching <= S or not 0 <= terminal_states <= S:
        raise ValueError(
            f"branching={branching} must lie in 1..{S} and terminal_states={terminal_states} "
            f"in 0..{S}"
        )
    successors = _distinct_successors(S * A, S, branching, generator)
    probabilities = generator.dirichlet(np.ones(branching), size=S * A)
    row = np.repeat(np.arange(S * A), branching)
    P: Any = sparse.csr_array((probabilities.ravel(), (row, successors.ravel())), (S * A, S))
    if not sparse_rows:
        P = P.toarray().reshape(S, A, S)
    return MDP.absorbing(P, generator.normal(size=(S, A)), np.arange(S) >= S - terminal_states)


def _distinct_successors(
    rows: int, S: int, branching: int, generator: np.random.Generator
) -> Int[np.ndarray, "rows branching"]:
    """``branching`` different states in each row, every set of them equally likely."""
    if rows * S <= 10**7:
        return generator.random((rows, S)).argsort(axis=1)[:, :branching]
    chosen = [generator.choice(S, branching, replace=False) for _ in range(rows)]
    return np.array(chosen)


def _buffers(P: Any) -> tuple[np.ndarray, ...]:
    return (P.data, P.indices, P.indptr) if sparse.issparse(P) else (P,)


def _checked_terminal(terminal: Any, S: int) -> Bool[np.ndarray, " S"]:
    terminal = np.zeros(S, bool) if terminal is None else np.array(terminal)
    if terminal.shape != (S,) or terminal.dtype != bool:
        raise ValueError(
            f"terminal must be a bool array of shape [S] = ({S},); it is {terminal.dtype} of "
            f"shape {terminal.shape}"
        )
    return terminal


def _checked_transitions(P: Any, S: int, A: int) -> Any:
    if sparse.issparse(P):
        P = sparse.csr_array(P, dtype=float, copy=True)
        P.sum_duplicates()
        expected: tuple[int, ...] = (S * A, S)
    else:
        P = np.array(P, dtype=float)
        expected = (S, A, S)
    if P.shape != expected:
        form = "[S·A, S]" if sparse.issparse(P) else "[S, A, S]"
        raise ValueError(f"P must have shape {form} = {expected} to fit R; it has shape {P.shape}")
    rows = P if sparse.issparse(P) else P.reshape(S * A, S)
    entries = P.data if sparse.issparse(P) else P
    if not (entries >= 0.0).all():  # also catches NaN
        if sparse.issparse(P):
            rows = P.tocoo()
            worst = np.flatnonzero(~(rows.data >= 0.0))[0]
            row, column, value = rows.row[worst], rows.col[worst], rows.data[worst]
        else:
            row, column = np.argwhere(~(rows >= 0.0))[0]
            value = rows[row, column]
        s, a = divmod(int(row), A)
        raise ValueError(
            f"P[s={s}, a={a}, s'={column}] = {value:g} is not a probability: it must be >= 0"
        )
    sums = np.asarray(rows.sum(axis=1)).ravel()
    worst = int(np.abs(sums - 1.0).argmax())
    if abs(sums[worst] - 1.0) > ROW_SUM_TOLERANCE:
        s, a = divmod(worst, A)
        raise ValueError(
            f"P[s={s}, a={a}, :] sums to {sums[worst]:.9g}, not 1: the probabilities of the next "
            "states of one action must add up to 1"
        )
    return P


def _check_rewards(R: np.ndarray) -> None:
    if not np.isfinite(R).all():
        s, a = np.argwhere(~np.isfinite(R))[0]
        raise ValueError(f"R[s={s}, a={a}] = {R[s, a]}: every reward must be a finite number")


def _check_absorbing(P: Any, R: np.ndarray, terminal: Bool[np.ndarray, " S"]) -> None:
    S, A = R.shape
    rows = P if sparse.issparse(P) else P.reshape(S * A, S)
    state, action = (index.ravel() for index in np.indices((S, A))[:, terminal])
    stay = rows[state * A + action, state]
    stay = (stay.toarray() if sparse.issparse(stay) else stay).ravel()
    leaks, pays = np.abs(stay - 1.0) > ROW_SUM_TOLERANCE, R[terminal].ravel() != 0.0
    for wrong, what in ((leaks, "moves on"), (pays, "pays a reward")):
        if wrong.any():
            s, a = state[wrong][0], action[wrong][0]
            raise ValueError(
                f"terminal state {s} {what} under action {a} (P[s={s}, a={a}, s'={s}] = "
                f"{stay[wrong][0]:g}, R[s={s}, a={a}] = {R[s, a]:g}): a terminal state stays "
                "where it is and pays 0; MDP.absorbing(...) makes it so"
            )


def _checked_start(start: Any, terminal: Bool[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    S = len(terminal)
    if start is None:
        begins = ~terminal if not terminal.all() else terminal
        return begins / begins.sum()
    start = np.array(start, dtype=float)
    is_distribution = (start >= 0.0).all() and abs(start.sum() - 1.0) <= ROW_SUM_TOLERANCE
    if start.shape != (S,) or not is_distribution:
        raise ValueError(
            f"start must be {S} probabilities that sum to 1; it has shape {start.shape} and "
            f"sums to {start.sum():.9g}"
        )
    return start


def _from_table(cls: type[MDP], table: Any, start: Any) -> MDP:
    """Build the MDP of a gymnasium table: P[s][a] = [(probability, next, reward, terminated)]."""
    S, A = len(table), len(table[0])
    transitions = np.array(
        [
            (s, a, s_next, probability, reward, terminated)
            for s in range(S)
            for a in range(A)
            for probability, s_next, reward, terminated in table[s][a]
            if probability > 0.0
        ],
        dtype=float,
    )
    state, action, s_next = transitions[:, :3].astype(int).T
    probability, reward, ends = transitions[:, 3], transitions[:, 4], transitions[:, 5] > 0.0
    row = state * A + action
    P: Any = sparse.csr_array((probability, (row, s_next)), shape=(S * A, S))  # adds duplicates
    R = np.bincount(row, weights=probability * reward, minlength=S * A).reshape(S, A)

    # Only transitions that an episode can make tell where episodes end: Taxi lists others.
    # Without a start, episodes may begin wherever none is said to end.
    goes_on = ~np.isin(np.arange(S), s_next[ends]) if start is None else np.asarray(start) > 0.0
    while True:
        reached = s_next[goes_on[state] & ~ends]
        if goes_on[reached].all():
            break
        goes_on[reached] = True
    terminal = np.zeros(S, bool)
    terminal[s_next[goes_on[state] & ends]] = True
    if (terminal & goes_on).any():
        both = np.flatnonzero(terminal & goes_on)[0]
        entries = np.flatnonzero((s_next == both) & goes_on[state] & ~ends)
        why = "episodes start in it"
        if len(entries):
            why = f"it goes on after action {action[entries[0]]} in state {state[entries[0]]}"
        raise ValueError(
            f"state {both} ends some episodes that enter it and not others ({why}): split it into "
            "two states, one of them terminal"
        )
    if S * A * S <= 10**7:
        P = P.toarray().reshape(S, A, S)
    return cls.absorbing(P, R, terminal, start)

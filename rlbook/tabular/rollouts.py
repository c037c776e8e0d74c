"""Rollouts from one state: many independent episodes of an MDP, all stepped at once.

An environment is stepped one action at a time; a table P can be sampled for thousands of
episodes together. Rewards are R(s, a), so a reward that depends on the landing state enters
only by its mean: give such a world a state that pays when it is left.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse

from rlbook.tabular.mdp import MDP
from rlbook.tabular.td import check_discount


def sample_returns(
    mdp: MDP,
    policy: Float[np.ndarray, "S A"],
    *,
    state: int,
    count: int,
    gamma: float,
    generator: np.random.Generator,
    max_steps: int = 10_000,
) -> Float[np.ndarray, " count"]:
    """Independent returns of a policy from one state; their mean estimates V(s) without bias.

        G = Σ_t γ^t R(s_t, a_t),   a_t ~ π(·|s_t),   s_{t+1} ~ P(·|s_t, a_t),   s_0 = state

    Args:
        mdp: dense or sparse. policy: π(a|s); it must reach a terminal state.
        state: where every rollout begins. count: how many. gamma: discount in [0, 1].
        max_steps: a rollout that has not ended by then is refused.

    Raises:
        ValueError: the state does not exist; a rollout does not end (it has no return).

    Book: 04_monte_carlo. Source: Sutton and Barto (2018), section 8.10 (rollouts).
    """
    settings = {"state": state, "count": count, "gamma": gamma, "max_steps": max_steps}
    return sample_weighted_returns(mdp, policy, policy, generator=generator, **settings)[1]


def sample_weighted_returns(
    mdp: MDP,
    policy: Float[np.ndarray, "S A"],
    behaviour: Float[np.ndarray, "S A"],
    *,
    state: int,
    count: int,
    gamma: float,
    generator: np.random.Generator,
    max_steps: int = 10_000,
) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, " count"]]:
    """Returns of the behaviour from one state, with the weights that turn them to the policy.

        ρ = Π_t π(a_t|s_t) / b(a_t|s_t);     E_b[ρ G] = V_π(state),     E_b[ρ] = 1

    Returns:
        The ratios ρ and the returns G, [count] each.

    Arguments and errors as for ``sample_returns``, and:

    Raises:
        ValueError: the behaviour never takes an action that the policy takes (where).

    Book: 04_monte_carlo. Source: Sutton and Barto (2018), equations 5.3 and 5.4.
    """
    check_discount(gamma)
    check_covered(policy, behaviour)
    if not 0 <= state < mdp.S:
        raise ValueError(f"state={state} does not exist: this MDP has states 0..{mdp.S - 1}")
    ratio_of = np.divide(policy, behaviour, out=np.zeros_like(policy), where=behaviour > 0.0)
    choose, move = _sampler(behaviour), _sampler(mdp.rows)
    ratios, returns = np.ones(count), np.zeros(count)
    running, states = np.arange(count), np.full(count, state)
    for t in range(max_steps + 1):
        live = ~mdp.terminal[states]
        running, states = running[live], states[live]
        if not len(running):
            return ratios, returns
        a = choose(states, generator)
        ratios[running] *= ratio_of[states, a]
        returns[running] += gamma**t * mdp.R[states, a]
        states = move(states * mdp.A + a, generator)
    raise ValueError(
        f"{len(running)} of {count} rollouts from state {state} have not ended after {max_steps} "
        "steps, so their returns are unknown: use a policy that ends them, or raise max_steps"
    )


def check_covered(policy: Float[np.ndarray, "S A"], behaviour: Float[np.ndarray, "S A"]) -> None:
    """ValueError unless b(a|s) > 0 wherever π(a|s) > 0, as importance sampling needs (where)."""
    uncovered = np.argwhere((policy > 0.0) & (behaviour == 0.0))
    if len(uncovered):
        s, a = uncovered[0]
        raise ValueError(
            f"the behaviour never takes action {a} in state {s}, but the policy does: importance "
            "sampling needs b(a|s) > 0 wherever π(a|s) > 0"
        )


def _sampler(rows: Any) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """A function that draws one column from each of some rows of probabilities [R, C]."""
    rows = sparse.csr_array(rows, copy=True)
    rows.eliminate_zeros()
    ends = np.append(0.0, np.cumsum(rows.data))  # entry k covers ends[k] .. ends[k + 1]

    def draw(index: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        first, last = rows.indptr[index], rows.indptr[index + 1]
        level = ends[first] + generator.random(len(index)) * (ends[last] - ends[first])
        entry = np.searchsorted(ends, level, side="right") - 1
        return rows.indices[entry.clip(first, last - 1)]  # rounding must not leave the row

    return draw

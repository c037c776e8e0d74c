"""What λ mixes, and how good the estimate is, exactly: mean and variance under a known model.

Generalised advantage estimation (GAE) from (s, a) is Σ_l (γλ)^l δ_l. That is a *return*: its
reward is the TD error of a guess V, its discount γλ. So planning gives its mean, and a Bellman
equation with discount (γλ)² gives its variance. No sampling is needed.

Rewards are R(s, a), as everywhere in this package: where the reward also depends on the landing
state, only its mean is seen here.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rlbook.tabular.mdp import MDP
from rlbook.tabular.planning import policy_evaluation


def lambda_return_weights(lam: float, steps: int) -> Float[np.ndarray, " steps"]:
    """How much each n-step return counts in the λ-return, n = 1 ... steps; they sum to 1.

        w_n = (1 - λ) λ^(n-1) for n < steps;    the rest, λ^(steps-1), for the whole return

    Book: 08_actor_critic. Source: Sutton and Barto (2018), equation 12.3.
    """
    powers = lam ** np.arange(steps)
    return np.append((1.0 - lam) * powers[:-1], powers[-1])


class Moments(NamedTuple):
    """Mean and variance of an estimate from each pair: [S, A] each, 0 in terminal states."""

    mean: Float[np.ndarray, "S A"]
    variance: Float[np.ndarray, "S A"]


def gae_moments(
    mdp: MDP,
    policy: Float[np.ndarray, "S A"],
    V: Float[np.ndarray, " S"],
    *,
    gamma: float,
    lam: float,
) -> Moments:
    """The exact mean and variance of GAE from (s, a), for any guess V of the values.

        Â = Σ_l (γλ)^l δ_l,    δ = R(s, a) + γ V(s') - V(s)
        m(s, a) = E[δ + γλ M(s')],    M(s) = Σ_a π(a|s) m(s, a)
        v(s, a) = Var_s'[ γ V(s') + γλ M(s') ] + (γλ)² E[ v(s') ],
        v(s) = Σ_a π(a|s) { v(s, a) + (m(s, a) - M(s))² }

    Args:
        mdp, policy: π(a|s) [S, A].
        V: the critic's guess [S]; what it says of terminal states is not read.
        gamma, lam: in [0, 1]; if both are 1 the policy must end from every state.

    Book: 08_actor_critic. Source: Schulman et al. (2016), equation 16; Sobel (1982), theorem 1.
    """
    if not 0.0 <= lam <= 1.0:
        raise ValueError(f"lam={lam} must lie in [0, 1]")
    V = np.where(mdp.terminal, 0.0, V)
    errors = _on(mdp, mdp.R + gamma * mdp.expected_next(V) - V[:, None])
    first = policy_evaluation(errors, policy, gamma=gamma * lam)
    surprise = (first.Q - first.V[:, None]) ** 2  # which action was drawn
    ahead = gamma * V + gamma * lam * first.V
    landing = mdp.expected_next(ahead**2) - mdp.expected_next(ahead) ** 2  # where it led
    second = policy_evaluation(_on(mdp, landing + surprise), policy, gamma=(gamma * lam) ** 2)
    variance = np.where(mdp.terminal[:, None], 0.0, second.Q - surprise)
    return Moments(first.Q, np.maximum(variance, 0.0))  # rounding


class ErrorParts(NamedTuple):
    """E[(Â - A)²] in three parts, each a mean over the live states and the policy's actions.

    Attributes:
        tilt: squared bias that differs between the actions of a state: it misleads the policy.
        shift: squared bias that they share: a baseline, which only adds noise to a gradient.
        variance: of Â given (s, a).
    """

    tilt: float
    shift: float
    variance: float


def gae_error(
    mdp: MDP,
    policy: Float[np.ndarray, "S A"],
    V: Float[np.ndarray, " S"],
    *,
    gamma: float,
    lam: float,
) -> ErrorParts:
    """The mean squared error of GAE against the exact advantages A = Q_π - V_π, taken apart.

        E[(Â - A)²] = tilt + shift + variance,    b(s, a) = m(s, a) - A(s, a)
        shift = (Σ_a π(a|s) b(s, a))²,    tilt = Σ_a π(a|s) (b(s, a) - Σ_a π(a|s) b(s, a))²

    Arguments as for ``gae_moments``; each live state counts the same.

    Book: 08_actor_critic. Source: Schulman et al. (2016), section 3 (γ-just estimators: no tilt).
    """
    moments = gae_moments(mdp, policy, V, gamma=gamma, lam=lam)
    exact = policy_evaluation(mdp, policy, gamma=gamma)
    bias = moments.mean - (exact.Q - exact.V[:, None])
    common = (policy * bias).sum(axis=1)
    live = ~mdp.terminal

    def average(per_pair: np.ndarray) -> float:
        return float((policy * per_pair).sum(axis=1)[live].mean())

    return ErrorParts(
        tilt=average((bias - common[:, None]) ** 2),
        shift=float((common**2)[live].mean()),
        variance=average(moments.variance),
    )


def _on(mdp: MDP, rewards: np.ndarray) -> MDP:
    """The same world with other rewards [S, A]."""
    return MDP(mdp.P, np.where(mdp.terminal[:, None], 0.0, rewards), mdp.terminal, mdp.start)

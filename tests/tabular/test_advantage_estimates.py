"""The moments of GAE: by hand, by reduction, and against every trajectory of a small world."""

import numpy as np
import pytest
from scripted import trajectories

from rlbook.tabular.advantage_estimates import gae_error, gae_moments, lambda_return_weights
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.mdp import MDP, uniform_policy
from rlbook.tabular.monte_carlo import epsilon_greedy, return_variance
from rlbook.tabular.planning import policy_evaluation, value_iteration

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def tree() -> MDP:
    """0 leads by chance to 1 or 2, both to the end 3; two actions."""
    P = np.zeros((4, 2, 4))
    P[0, 0, [1, 2]] = 0.75, 0.25
    P[0, 1, [1, 3]] = 0.5, 0.5
    P[1:3, :, 3] = 1.0
    P[3, :, 3] = 1.0
    R = np.array([[1.0, 2.0], [4.0, -4.0], [8.0, 0.0], [0.0, 0.0]])
    return MDP(P, R, np.arange(4) == 3, np.eye(4)[0])


POLICY = np.array([[0.5, 0.5], [0.25, 0.75], [0.5, 0.5], [0.5, 0.5]])
GUESS = np.array([2.0, -4.0, 8.0, 99.0])  # 99: that of the end must not be read


def by_trajectories(gamma: float, lam: float, action: int) -> tuple[float, float]:
    """Mean and variance of GAE from (0, action): the definition, summed over all trajectories."""
    mdp, V = tree(), np.where(tree().terminal, 0.0, GUESS)
    first = POLICY.copy()
    first[0] = np.eye(2)[action]
    chances, estimates = [], []
    for chance, steps in trajectories(mdp, first, 0):
        states = [state for state, _, _ in steps] + [3]
        total = 0.0
        for t, (state, _, reward) in enumerate(steps):
            total += (gamma * lam) ** t * (reward + gamma * V[states[t + 1]] - V[state])
        chances.append(chance)
        estimates.append(total)
    mean = np.dot(chances, estimates)
    return mean, np.dot(chances, (np.array(estimates) - mean) ** 2)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.5, 0.0), (0.9, 0.6), (1.0, 0.3)])
@pytest.mark.parametrize("action", [0, 1])
def test_against_every_trajectory(gamma: float, lam: float, action: int) -> None:
    moments = gae_moments(tree(), POLICY, GUESS, gamma=gamma, lam=lam)
    expected = by_trajectories(gamma, lam, action)
    np.testing.assert_allclose(
        (moments.mean[0, action], moments.variance[0, action]), expected, **EXACT
    )


def test_by_hand() -> None:
    # λ = 0, γ = 1/2, from (0, 0): δ = 1 + ½(-4) - 2 = -3 with 3/4, and 1 + ½·8 - 2 = 3 with 1/4
    moments = gae_moments(tree(), POLICY, GUESS, gamma=0.5, lam=0.0)
    assert moments.mean[0, 0] == pytest.approx(-3 * 0.75 + 3 * 0.25)
    assert moments.variance[0, 0] == pytest.approx(9.0 - 1.5**2)
    assert moments.mean[3].tolist() == moments.variance[3].tolist() == [0.0, 0.0]


def test_without_a_critic_and_with_lambda_1_it_is_the_return() -> None:
    mdp = GridWorld("..G\n...\nS..", slip=0.2).mdp()
    policy = epsilon_greedy(value_iteration(mdp, gamma=0.9).Q, 0.5)
    exact = policy_evaluation(mdp, policy, gamma=0.9)
    moments = gae_moments(mdp, policy, np.zeros(mdp.S), gamma=0.9, lam=1.0)
    np.testing.assert_allclose(moments.mean, exact.Q, **EXACT)
    second = (policy * (moments.variance + moments.mean**2)).sum(axis=1)
    np.testing.assert_allclose(
        second - exact.V**2, return_variance(mdp, policy, gamma=0.9), **EXACT
    )


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_a_perfect_critic_has_no_bias(lam: float) -> None:
    mdp = tree()
    V = policy_evaluation(mdp, POLICY, gamma=0.9).V
    parts = gae_error(mdp, POLICY, V, gamma=0.9, lam=lam)
    assert parts.tilt == pytest.approx(0.0, abs=1e-12)
    assert parts.shift == pytest.approx(0.0, abs=1e-12)
    assert parts.variance > 0.0


def test_lambda_1_only_shifts_and_calm_worlds_have_no_variance_at_lambda_0() -> None:
    mdp = GridWorld("..G\n...\nS..").mdp()
    policy = uniform_policy(mdp)
    exact = policy_evaluation(mdp, policy, gamma=0.9)
    V = exact.V + np.random.default_rng(0).normal(size=mdp.S) * ~mdp.terminal
    long, short = (gae_error(mdp, policy, V, gamma=0.9, lam=lam) for lam in (1.0, 0.0))
    assert long.tilt == pytest.approx(0.0, abs=1e-12)  # the bias is V_π(s) - V(s), for every action
    assert long.shift == pytest.approx(((exact.V - V) ** 2)[~mdp.terminal].mean())
    assert short.variance == pytest.approx(0.0, abs=1e-12) and short.tilt > 0.1


def test_the_parts_add_up_to_the_mean_squared_error() -> None:
    mdp = tree()
    moments = gae_moments(mdp, POLICY, GUESS, gamma=0.9, lam=0.7)
    exact = policy_evaluation(mdp, POLICY, gamma=0.9)
    squares = (moments.mean - (exact.Q - exact.V[:, None])) ** 2 + moments.variance
    expected = (POLICY * squares).sum(axis=1)[:3].mean()
    assert sum(gae_error(mdp, POLICY, GUESS, gamma=0.9, lam=0.7)) == pytest.approx(expected)


def test_a_lambda_outside_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lam=1\.5"):
        gae_moments(tree(), POLICY, GUESS, gamma=0.9, lam=1.5)


def test_the_weights_of_returns_by_hand() -> None:
    # ½, ½·½, and the rest
    assert lambda_return_weights(0.5, 3).tolist() == [0.5, 0.25, 0.25]
    assert lambda_return_weights(0.0, 3).tolist() == [1.0, 0.0, 0.0]
    assert lambda_return_weights(1.0, 3).tolist() == [0.0, 0.0, 1.0]
    assert lambda_return_weights(0.7, 1).tolist() == [1.0]


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.9, 1.0])
def test_the_weights_of_returns_are_probabilities(lam: float) -> None:
    weights = lambda_return_weights(lam, 9)
    assert weights.min() >= 0.0 and weights.sum() == pytest.approx(1.0, abs=1e-12)

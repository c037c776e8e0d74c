"""Rollouts by the thousand: by hand, against exact planning, and against enumeration."""

import numpy as np
import pytest
from scripted import layered_mdp, trajectories

from rlbook.tabular.episodes import discounted_return
from rlbook.tabular.mdp import MDP, random_mdp, uniform_policy
from rlbook.tabular.monte_carlo import epsilon_greedy, return_variance
from rlbook.tabular.planning import policy_evaluation
from rlbook.tabular.rollouts import sample_returns, sample_weighted_returns

GAMMA = 0.9


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def corridor() -> MDP:
    """0 → 1 → 2 → end with rewards 1, 2, 4; action 1 ends at once and pays 8."""
    P = np.zeros((4, 2, 4))
    P[[0, 1, 2], 0, [1, 2, 3]] = 1.0
    P[:3, 1, 3] = P[3, :, 3] = 1.0
    R = np.array([[1.0, 8.0], [2.0, 8.0], [4.0, 8.0], [0.0, 0.0]])
    return MDP(P, R, np.arange(4) == 3)


def test_a_certain_return_by_hand():
    # 1 + 0.5·2 + 0.25·4 = 3;  from state 1: 2 + 0.5·4 = 4;  a terminal state returns 0
    policy = np.tile([1.0, 0.0], (4, 1))
    for state, expected in ((0, 3.0), (1, 4.0), (2, 4.0), (3, 0.0)):
        returns = sample_returns(
            corridor(), policy, state=state, count=3, gamma=0.5, generator=rng()
        )
        assert returns.tolist() == [expected] * 3


def test_ratios_by_hand():
    # π goes on with 1, 1/2, 1/4; b always tosses a coin. Ratios: ending at once (0)/(1/2) = 0;
    # after one step 2·(1/2)/(1/2) = 2; after two 2·1·(3/4)/(1/2) = 3; never: 2·1·(1/4)/(1/2) = 1.
    policy = np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75], [0.5, 0.5]])
    settings = {"state": 0, "count": 400, "gamma": 1.0, "generator": rng()}
    rho, G = sample_weighted_returns(corridor(), policy, np.full((4, 2), 0.5), **settings)
    assert set(zip(rho.tolist(), G.tolist(), strict=True)) == {
        (0.0, 8.0),
        (2.0, 9.0),
        (3.0, 11.0),
        (1.0, 7.0),
    }


def test_returns_agree_with_planning():
    # 5 standard errors of the mean (exact variance) and of the variance (from m₄): together
    # they fail with probability below 2e-6.
    mdp = random_mdp(5, 2, branching=3, generator=rng(1), terminal_states=1)
    policy = rng(2).dirichlet(np.ones(2), size=5)
    n = 20_000
    G = sample_returns(mdp, policy, state=0, count=n, gamma=GAMMA, generator=rng(3))
    exact = policy_evaluation(mdp, policy, gamma=GAMMA).V[0]
    variance = return_variance(mdp, policy, gamma=GAMMA)[0]
    assert abs(G.mean() - exact) < 5.0 * np.sqrt(variance / n) < 0.1
    fourth = ((G - G.mean()) ** 4).mean()
    assert abs(G.var() - variance) < 5.0 * np.sqrt((fourth - G.var() ** 2) / n) < variance


def test_weighted_returns_agree_with_enumeration():
    # E[ρ] = 1 and E[ρG] = V: 5 standard errors (by enumeration) fail with probability < 2e-6.
    mdp, n = layered_mdp(), 20_000
    policy, behaviour = epsilon_greedy(mdp.R, 0.4), uniform_policy(mdp)
    exact = policy_evaluation(mdp, policy, gamma=GAMMA).V[0]
    second = np.zeros(2)
    for chance, steps in trajectories(mdp, behaviour, 0):
        ratio = np.prod([policy[s, a] / behaviour[s, a] for s, a, _ in steps])
        G = discounted_return([reward for *_, reward in steps], gamma=GAMMA)
        second += chance * np.array([ratio, ratio * G]) ** 2
    settings = {"state": 0, "count": n, "gamma": GAMMA, "generator": rng(4)}
    rho, G = sample_weighted_returns(mdp, policy, behaviour, **settings)
    error = np.sqrt((second - np.array([1.0, exact]) ** 2) / n)
    assert abs(rho.mean() - 1.0) < 5.0 * error[0] < 0.1
    assert abs((rho * G).mean() - exact) < 5.0 * error[1] < 0.5
    own = policy_evaluation(mdp, behaviour, gamma=GAMMA).V[0]
    assert abs(own - exact) > 5.0 * error[1]  # forgetting the ratios would fail


def test_the_seed_decides_and_sparse_is_the_same():
    mdp = corridor()
    settings = {"state": 0, "count": 50, "gamma": 1.0}
    half = np.full((4, 2), 0.5)
    one, two, other = (
        sample_returns(m, half, generator=rng(seed), **settings)
        for m, seed in ((mdp, 1), (mdp.to_sparse(), 1), (mdp, 2))
    )
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_bad_input_is_named():
    half, right = np.full((4, 2), 0.5), np.tile([1.0, 0.0], (4, 1))
    settings = {"state": 0, "count": 2, "gamma": 1.0, "generator": rng()}
    with pytest.raises(ValueError, match=r"state=4 does not exist: this MDP has states 0\.\.3"):
        sample_returns(corridor(), half, **settings | {"state": 4})
    with pytest.raises(ValueError, match=r"gamma=1\.5"):
        sample_returns(corridor(), half, **settings | {"gamma": 1.5})
    with pytest.raises(ValueError, match="never takes action 1 in state 0"):
        sample_weighted_returns(corridor(), half, right, **settings)
    with pytest.raises(ValueError, match="2 of 2 rollouts from state 0 have not ended after 2"):
        sample_returns(corridor(), right, **settings, max_steps=2)
    assert (sample_returns(corridor(), right, **settings, max_steps=3) == 7.0).all()

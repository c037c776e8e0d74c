"""Bellman backups, greedy policies, and the bracket around the true values."""

import numpy as np
import pytest
from oracles import best_stationary_values, naive_action_values

from rlbook.tabular.bellman import (
    action_values,
    best_values,
    bracket,
    can_end,
    check_gamma,
    checked_policy,
    greedy_policy,
    optimal_actions,
)
from rlbook.tabular.mdp import MDP, random_mdp


def ring(*, terminal: bool) -> MDP:
    """States 0 -> 1 -> 2 -> 0 by action 0; action 1 stays. State 2 may be terminal."""
    P = np.zeros((3, 2, 3))
    P[[0, 1, 2], 0, [1, 2, 0]] = 1.0
    P[[0, 1, 2], 1, [0, 1, 2]] = 1.0
    return MDP.absorbing(P, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [False, False, terminal])


def test_action_values_by_hand():
    V = np.array([10.0, 20.0, 40.0])
    assert action_values(ring(terminal=False), V, gamma=0.5).tolist() == [
        [1 + 0.5 * 20, 2 + 0.5 * 10],
        [3 + 0.5 * 40, 4 + 0.5 * 20],
        [5 + 0.5 * 10, 6 + 0.5 * 40],
    ]


@pytest.mark.parametrize("sparse_rows", [False, True])
def test_action_values_agree_with_three_loops(sparse_rows):
    generator = np.random.default_rng(0)
    mdp = random_mdp(
        6, 4, branching=3, generator=generator, terminal_states=1, sparse_rows=sparse_rows
    )
    V = generator.normal(size=6)
    Q = action_values(mdp, V, gamma=0.8)
    np.testing.assert_allclose(Q, naive_action_values(mdp, V, 0.8), atol=1e-12)
    np.testing.assert_array_equal(best_values(Q), [max(row) for row in Q.tolist()])


def test_optimal_actions_keep_ties():
    Q = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0 - 1e-9], [5.0, 5.0 - 1e-6, 5.0]])
    assert optimal_actions(Q).tolist() == [
        [True, True, False],
        [False, True, True],
        [True, False, True],
    ]
    assert optimal_actions(Q, tolerance=1e-6).tolist()[2] == [True, True, True]
    assert greedy_policy(Q).tolist() == [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]


def test_ties_are_relative_to_the_size_of_the_values():
    Q = np.array([[1e9, 1e9 - 1.0]])
    assert optimal_actions(Q).all()
    assert optimal_actions(Q - 1e9).tolist() == [[True, False]]


def test_bracket_by_hand():
    # One state that pays 1 for ever, gamma 0.5: V = 2. From V = 0, TV = 1, Δ = 1:
    # 1 + 0.5 * 1 / 0.5 = 2, and the bracket has no width but the allowance for rounding,
    # a few float64 steps (2.2e-16) of the largest value, divided by 1 - gamma.
    mdp = MDP([[[1.0]]], [[1.0]])
    middle, half_width = bracket(mdp, np.array([0.0]), np.array([1.0]), 0.5)
    assert middle.tolist() == [2.0] and 0.0 < half_width < 1e-14
    # Two states: Δ = (1, 3), gamma 0.5: TV + [1, 3] -> middle TV + 2, half width 1.
    mdp = MDP(np.full((2, 1, 2), 0.5), [[1.0], [3.0]])
    middle, half_width = bracket(mdp, np.zeros(2), np.array([1.0, 3.0]), 0.5)
    assert middle.tolist() == [3.0, 5.0] and 1.0 < half_width < 1.0 + 1e-13
    middle, half_width = bracket(mdp, np.zeros(2), np.array([1.0, 3.0]), 1.0)
    assert middle.tolist() == [1.0, 3.0] and half_width == np.inf


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("terminal_states", [0, 1])
def test_the_bracket_holds_from_any_values(seed, terminal_states):
    """Far from convergence too; the truth is the best of all 3^5 policies."""
    generator = np.random.default_rng(seed)
    mdp = random_mdp(5, 3, branching=3, generator=generator, terminal_states=terminal_states)
    V = np.where(mdp.terminal, 0.0, 10 * generator.normal(size=5))
    TV = naive_action_values(mdp, V, 0.9).max(axis=1)
    middle, half_width = bracket(mdp, V, TV, 0.9)
    error = np.abs(middle - best_stationary_values(mdp, 0.9)).max()
    assert error <= half_width + 1e-10
    assert half_width < 1000.0  # it says something


def test_can_end_by_hand():
    # 0 -> 1 -> 2 (terminal);  3 -> 3;  4 -> 3 or 0
    chain = np.zeros((5, 5))
    chain[0, 1] = chain[1, 2] = chain[2, 2] = chain[3, 3] = 1.0
    chain[4, [0, 3]] = 0.5
    terminal = np.array([False, False, True, False, False])
    assert can_end(chain, terminal).tolist() == [True, True, True, False, True]
    assert terminal.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("gamma", [-0.1, 1.0001, np.nan])
def test_gamma_must_be_a_discount(gamma):
    with pytest.raises(ValueError, match=rf"gamma={gamma} is not a discount: .* \[0, 1\]"):
        check_gamma(ring(terminal=True), gamma)


def test_gamma_one_needs_an_end():
    check_gamma(ring(terminal=True), 1.0)
    check_gamma(ring(terminal=False), 0.999)
    with pytest.raises(ValueError, match=r"no policy ever reaches a terminal state from state 0"):
        check_gamma(ring(terminal=False), 1.0)
    stay_in_1 = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"the policy never reaches a terminal state from state 0"):
        check_gamma(ring(terminal=True), 1.0, stay_in_1)
    check_gamma(ring(terminal=True), 1.0, np.array([[1.0, 0.0], [0.1, 0.9], [1.0, 0.0]]))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ([[1.0, 0.0]], r"shape \[S, A\] = \(3, 2\); it has shape \(1, 2\).*deterministic_policy"),
        ([0, 1, 0], r"it has shape \(3,\)"),
        ([[1, 0], [0.5, 0.4], [1, 0]], r"policy\[1\] = \[0.5, 0.4\] is not a probability dist"),
        ([[1, 0], [1, 0], [1.5, -0.5]], r"policy\[2\] = \[1.5, -0.5\] is not"),
        ([[np.nan, 1], [1, 0], [1, 0]], r"policy\[0\] = \[nan, 1.0\] is not"),
    ],
)
def test_bad_policies_are_named(policy, message):
    with pytest.raises(ValueError, match=message):
        checked_policy(ring(terminal=True), policy)

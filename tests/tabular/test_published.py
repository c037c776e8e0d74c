"""Values that are in print, and the environments that everybody knows."""

import gymnasium as gym
import numpy as np
import pytest
from oracles import lp_values, moves_to_end, sutton_barto_5x5

from rlbook.tabular import maps
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.mdp import MDP, uniform_policy
from rlbook.tabular.planning import (
    in_place_value_iteration,
    modified_policy_iteration,
    policy_evaluation,
    policy_iteration,
    prioritised_value_iteration,
    value_iteration,
)

PLANNERS = [
    value_iteration,
    in_place_value_iteration,
    prioritised_value_iteration,
    modified_policy_iteration,
    policy_iteration,
]
every_planner = pytest.mark.parametrize("plan", PLANNERS, ids=lambda plan: plan.__name__)
# Half a unit of the one decimal in print; a few values lie on the boundary, such as -1.75.
PRINTED = 0.05001
METHODS = pytest.mark.parametrize("method", ["exact", "iterative"])

# Russell and Norvig, Artificial Intelligence, 3rd edition, figure 17.3; the wall and the two
# cells that end the episode hold nan and 0.
AIMA = [[0.812, 0.868, 0.918, 0], [0.762, np.nan, 0.660, 0], [0.705, 0.655, 0.611, 0.388]]


def aima() -> GridWorld:
    return GridWorld(maps.AIMA_4X3, rewards={"G": 1.0, "P": -1.0}, step_reward=-0.04, slip=0.2)


@every_planner
def test_aima(plan):
    env = aima()
    solution = plan(env.mdp(), gamma=1.0)
    np.testing.assert_allclose(env.to_grid(solution.V), AIMA, atol=5.001e-4)
    # figure 17.2 (a): the best actions, up 0, right 1, left 3
    best = env.to_grid(solution.policy.argmax(axis=1))
    assert (solution.policy.max(axis=1)[~env.terminal] == 1.0).all()
    assert best[0, :3].tolist() == [1, 1, 1]
    assert best[1, [0, 2]].tolist() == [0, 0]
    assert best[2].tolist() == [0, 3, 3, 3]


# Sutton and Barto, 2nd edition, figures 3.2 (random policy) and 3.5 (optimal).
RANDOM_5X5 = [
    [3.3, 8.8, 4.4, 5.3, 1.5],
    [1.5, 3.0, 2.3, 1.9, 0.5],
    [0.1, 0.7, 0.7, 0.4, -0.4],
    [-1.0, -0.4, -0.4, -0.6, -1.2],
    [-1.9, -1.3, -1.2, -1.4, -2.0],
]
OPTIMAL_5X5 = [
    [22.0, 24.4, 22.0, 19.4, 17.5],
    [19.8, 22.0, 19.8, 17.8, 16.0],
    [17.8, 19.8, 17.8, 16.0, 14.4],
    [16.0, 17.8, 16.0, 14.4, 13.0],
    [14.4, 16.0, 14.4, 13.0, 11.7],
]
ACTIONS_5X5 = [
    ["→", "↑→↓←", "←", "↑→↓←", "←"],
    ["↑→", "↑", "↑←", "←", "←"],
    ["↑→", "↑", "↑←", "↑←", "↑←"],
    ["↑→", "↑", "↑←", "↑←", "↑←"],
    ["↑→", "↑", "↑←", "↑←", "↑←"],
]


@METHODS
def test_sutton_and_bartos_gridworld_at_random(method):
    mdp = sutton_barto_5x5()
    V = policy_evaluation(mdp, uniform_policy(mdp), gamma=0.9, method=method).V
    np.testing.assert_allclose(V.reshape(5, 5), RANDOM_5X5, atol=PRINTED)


@every_planner
def test_sutton_and_bartos_gridworld_at_its_best(plan):
    solution = plan(sutton_barto_5x5(), gamma=0.9)
    np.testing.assert_allclose(solution.V.reshape(5, 5), OPTIMAL_5X5, atol=PRINTED)
    # 10 + 0.9^4 (10 + ...): from A to A' and back in five moves
    assert solution.V[1] == pytest.approx(10 / (1 - 0.9**5), abs=1e-8)
    shown = [
        "".join(arrow for arrow, best in zip("↑→↓←", row, strict=True) if best)
        for row in solution.optimal_actions
    ]
    assert np.reshape(shown, (5, 5)).tolist() == ACTIONS_5X5


@METHODS
def test_sutton_and_bartos_example_4_1(method):
    """The 4x4 gridworld with two end states under the random policy, figure 4.1, k = ∞."""
    env = GridWorld("G...\n....\n....\n...G")
    mdp = env.mdp()
    V = policy_evaluation(mdp, uniform_policy(mdp), gamma=1.0, method=method).V
    expected = [[0, -14, -20, -22], [-14, -18, -20, -20], [-20, -20, -18, -14], [-22, -20, -14, 0]]
    np.testing.assert_allclose(env.to_grid(V), expected, atol=1e-7)


def test_sutton_and_bartos_example_4_1_sweep_by_sweep():
    """Figure 4.1, k = 1, 2, 3: the first row, printed to one decimal."""
    mdp = GridWorld("G...\n....\n....\n...G").mdp()
    history = policy_evaluation(
        mdp, uniform_policy(mdp), gamma=1.0, method="iterative", keep_values=True
    ).history
    printed = {
        1: [0, -1, -1, -1],
        2: [0, -1.7, -2, -2],
        3: [0, -2.4, -2.9, -3],
        10: [0, -6.1, -8.4, -9],
    }
    for k, row in printed.items():
        np.testing.assert_allclose(history[k - 1].V[:4], row, atol=PRINTED)


@every_planner
def test_the_windy_gridworld_takes_fifteen_moves(plan):
    """Example 6.5."""
    env = GridWorld(maps.WINDY, wind=maps.WINDY_COLUMNS)
    solution = plan(env.mdp(), gamma=1.0)
    state, _ = env.reset(seed=0)
    assert solution.V[state] == pytest.approx(-15.0, abs=1e-9)
    moves, terminated = 0, False
    while not terminated:
        state, _, terminated, _, _ = env.step(int(solution.policy[state].argmax()))
        moves += 1
    assert moves == 15


@every_planner
def test_the_cliff_costs_thirteen(plan):
    """Example 6.6: eleven cells along the edge, one up and one down."""
    env = gym.make("CliffWalking-v1")
    solution = plan(MDP.from_gymnasium(env), gamma=1.0)
    start, _ = env.reset(seed=0)
    assert start == 36
    assert solution.V[start] == pytest.approx(-13.0, abs=1e-9)
    for state in (0, 10, 24, 35):
        assert solution.V[state] == pytest.approx(-moves_to_end(env.unwrapped.P, state), abs=1e-9)


@pytest.mark.parametrize("name", ["4x4", "8x8"])
def test_frozen_lake_agrees_with_a_linear_program(name):
    mdp = MDP.from_gymnasium(gym.make("FrozenLake-v1", map_name=name, is_slippery=True))
    expected = lp_values(mdp, 0.99)
    if name == "4x4":
        # widely printed: the value of the start at gamma 0.99
        assert expected[0] == pytest.approx(0.542, abs=5e-4)
    for plan in PLANNERS:
        np.testing.assert_allclose(plan(mdp, gamma=0.99).V, expected, atol=1e-8)
    for plan in (value_iteration, modified_policy_iteration, policy_iteration):
        np.testing.assert_allclose(plan(mdp.to_sparse(), gamma=0.99).V, expected, atol=1e-8)


def test_taxi_takes_the_shortest_way():
    """-1 a step and 20 at the end: the best return is 21 minus the moves, counted by a search."""
    env = gym.make("Taxi-v4")
    mdp = MDP.from_gymnasium(env)
    V = value_iteration(mdp, gamma=1.0).V
    starts = np.flatnonzero(mdp.start)
    assert len(starts) == 300
    for state in starts[::7].tolist():
        assert V[state] == pytest.approx(21 - moves_to_end(env.unwrapped.P, state), abs=1e-9)
    np.testing.assert_allclose(policy_iteration(mdp, gamma=1.0).V, V, atol=1e-8)
    np.testing.assert_allclose(value_iteration(mdp, gamma=0.9).V, lp_values(mdp, 0.9), atol=1e-8)


@pytest.mark.slow
def test_a_large_gridworld_is_solved_sparsely():
    """200 x 200 without chance: V* is -(1 - γ^d) / (1 - γ), where d is the distance."""
    env = GridWorld("\n".join(["." * 200] * 199 + ["." * 199 + "G"]))
    mdp = env.mdp()
    assert mdp.is_sparse
    row, column = env.cells.T
    distance = (199 - row) + (199 - column)
    solution = value_iteration(mdp, gamma=0.95, tol=1e-6)
    np.testing.assert_allclose(solution.V, -(1 - 0.95**distance) / 0.05, atol=1e-6)

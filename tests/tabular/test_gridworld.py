"""GridWorld: as a gymnasium environment, as an MDP, and that the two agree."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from oracles import chi_square_p, dense

from rlbook.tabular import maps
from rlbook.tabular.gridworld import (
    ACTIONS,
    ARROWS,
    MOVES,
    GridImage,
    GridWorld,
    direction_probabilities,
    paint,
)
from rlbook.tabular.mdp import MDP

UP, RIGHT, DOWN, LEFT = range(4)
ID = "rlbook.tabular.gridworld:rlbook/GridWorld-v0"
ROOM = "...\n.S.\n..G"  # the start is state 4, the goal state 8


# --- one move at a time ---


@pytest.mark.parametrize(
    ("action", "name", "arrow", "row", "column"),
    [
        (UP, "up", "↑", 0, 1),
        (RIGHT, "right", "→", 1, 2),
        (DOWN, "down", "↓", 2, 1),
        (LEFT, "left", "←", 1, 0),
    ],
)
def test_actions_go_where_their_arrows_point(action, name, arrow, row, column):
    env = GridWorld(ROOM)
    assert (ACTIONS[action], ARROWS[action]) == (name, arrow)
    assert env.reset(seed=0)[0] == env.state_at(1, 1)
    assert env.step(action) == (env.state_at(row, column), -1.0, False, False, {})
    assert (np.array([1, 1]) + MOVES[action]).tolist() == [row, column]
    assert dense(env.mdp())[4, action, env.state_at(row, column)] == 1.0


def test_walls_and_edges_hold_the_agent_and_the_goal_ends_the_episode():
    env = GridWorld("S#\n.G")
    env.reset(seed=0)
    assert env.step(RIGHT)[:3] == (0, -1.0, False)  # the wall
    assert env.step(UP)[:3] == (0, -1.0, False)  # the edge
    assert env.step(LEFT)[:3] == (0, -1.0, False)
    assert env.step(DOWN)[:3] == (1, -1.0, False)
    assert env.step(RIGHT)[:3] == (2, -1.0, True)  # G pays 0 beside the step


def test_rewards_of_cells_are_added_to_the_reward_of_the_step():
    env = GridWorld("PS*G", rewards={"*": 0.5, "G": 3.0, "S": -0.25}, step_reward=-0.1)
    env.reset(seed=0)
    assert env.step(UP)[1] == pytest.approx(-0.1 - 0.25)  # bumps and enters S again
    assert env.step(RIGHT)[1] == pytest.approx(-0.1 + 0.5)
    assert env.step(RIGHT)[1:3] == (pytest.approx(-0.1 + 3.0), True)
    env.reset(seed=0)
    assert env.step(LEFT)[1:3] == (pytest.approx(-0.1 - 10.0), True)  # P by default
    mdp = env.mdp()
    np.testing.assert_allclose(mdp.R[1], [-0.35, 0.4, -0.35, -10.1], atol=1e-12)
    assert mdp.terminal.tolist() == [True, False, False, True]


def test_slip_by_hand():
    # up with slip 0.2: up 0.8, left 0.1, right 0.1
    P = dense(GridWorld(ROOM, slip=0.2).mdp())
    np.testing.assert_allclose(P[4, UP], [0, 0.8, 0, 0.1, 0, 0.1, 0, 0, 0], atol=1e-12)
    # left: left 0.8, up 0.1, down 0.1
    np.testing.assert_allclose(P[4, LEFT], [0, 0.1, 0, 0.8, 0, 0, 0, 0.1, 0], atol=1e-12)
    # left in the corner (0, 0): stays 0.8 (left) + 0.1 (up), down 0.1
    np.testing.assert_allclose(P[0, LEFT], [0.9, 0, 0, 0.1, 0, 0, 0, 0, 0], atol=1e-12)
    # slip 1: never straight on
    P = dense(GridWorld(ROOM, slip=1.0).mdp())
    np.testing.assert_allclose(P[4, UP], [0, 0, 0, 0.5, 0, 0.5, 0, 0, 0], atol=1e-12)


def test_noise_by_hand():
    # noise 0.4, right: 0.6 + 0.4 / 4 = 0.7 right and 0.1 each other way
    P = dense(GridWorld(ROOM, noise=0.4).mdp())
    np.testing.assert_allclose(P[4, RIGHT], [0, 0.1, 0, 0.1, 0, 0.7, 0, 0.1, 0], atol=1e-12)
    # both: 0.6 * (0.8, 0.1, 0.1, 0) + 0.1 each
    both = direction_probabilities(0.2, 0.4)
    np.testing.assert_allclose(both[RIGHT], [0.16, 0.58, 0.16, 0.1], atol=1e-12)
    np.testing.assert_allclose(both[UP], [0.58, 0.16, 0.1, 0.16], atol=1e-12)
    np.testing.assert_allclose(direction_probabilities(0.7, 1.0), np.full((4, 4), 0.25))


def test_wind_lifts_by_the_column_the_agent_leaves():
    env = GridWorld("....\n....\nS..G", wind=[0, 2, 1, 0])
    env.reset(options={"state": env.state_at(2, 0)})
    assert env.step(RIGHT)[0] == env.state_at(2, 1)  # column 0 has no wind
    assert env.step(RIGHT)[0] == env.state_at(0, 2)  # column 1 lifts by 2
    assert env.step(DOWN)[0] == env.state_at(0, 2)  # down 1, up 1
    assert env.step(UP)[0] == env.state_at(0, 2)  # the top edge holds
    assert env.step(RIGHT)[0] == env.state_at(0, 3)
    assert env.step(LEFT)[0] == env.state_at(0, 2)  # column 3 has none


def test_states_number_the_open_cells_in_reading_order():
    env = GridWorld(".#G\nS..")
    assert env.S == 5 and env.observation_space.n == 5 and env.action_space.n == 4
    assert [env.state_at(*cell) for cell in [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]] == [*range(5)]
    for cell in [(0, 1), (2, 0), (0, 3), (-1, 0)]:
        with pytest.raises(ValueError, match=r"is not an open cell of this 2 x 3 map"):
            env.state_at(*cell)
    grid = env.to_grid(np.array([10.0, 11.0, 12.0, 13.0, 14.0]))
    np.testing.assert_array_equal(grid, [[10, np.nan, 11], [12, 13, 14]])
    assert env.to_grid(np.ones((5, 4))).shape == (2, 3, 4)


def test_starts():
    assert GridWorld(ROOM).mdp().start.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    env = GridWorld("..G")
    assert env.mdp().start.tolist() == [0.5, 0.5, 0.0]
    # 200 draws miss one of two states with probability 2 * 2**-200
    assert {env.reset(seed=seed)[0] for seed in range(200)} == {0, 1}
    assert env.reset(options={"state": 1})[0] == 1
    for state in (2, 3, -1):
        with pytest.raises(ValueError, match=f"cannot start in state {state}"):
            env.reset(options={"state": state})


def test_a_step_needs_a_reset():
    with pytest.raises(RuntimeError, match=r"call reset\(\) before step"):
        GridWorld(ROOM).step(UP)


# --- the environment agrees with its own MDP ---


def test_every_deterministic_transition_of_the_environment_is_in_the_mdp():
    env = GridWorld(maps.WINDY, wind=maps.WINDY_COLUMNS)
    mdp = env.mdp()
    for s, a in itertools.product(np.flatnonzero(~env.terminal).tolist(), range(4)):
        env.reset(options={"state": s})
        s_next, reward, terminated, _, _ = env.step(a)
        assert mdp.P[s, a, s_next] == 1.0
        assert mdp.R[s, a] == reward
        assert mdp.terminal[s_next] == terminated


def test_chance_transitions_of_the_environment_follow_the_mdp():
    """300 steps from each (s, a), one pooled chi-square test. A right implementation fails with
    probability 1e-6 (for a seed drawn anew); a slip of 0.2 taken for 0.25 gives p < 1e-9."""
    env = GridWorld(maps.AIMA_4X3, rewards={"G": 1.0, "P": -1.0}, slip=0.2, noise=0.1)
    mdp = env.mdp()
    env.reset(seed=0)
    live = np.flatnonzero(~env.terminal).tolist()
    counts, probabilities = [], []
    for s, a in itertools.product(live, range(4)):
        visits, paid = np.zeros(mdp.S), np.zeros(mdp.S)
        for _ in range(300):
            env.reset(options={"state": s})
            s_next, reward, terminated, _, _ = env.step(a)
            visits[s_next] += 1
            paid[s_next] = reward
            assert terminated == mdp.terminal[s_next]
        assert (visits > 0).tolist() == (mdp.P[s, a] > 0).tolist()
        assert (mdp.P[s, a] * paid).sum() == pytest.approx(mdp.R[s, a], abs=1e-12)
        counts.append(visits)
        probabilities.append(mdp.P[s, a])
    assert chi_square_p(np.array(counts), np.array(probabilities)) > 1e-6
    wrong = GridWorld(maps.AIMA_4X3, slip=0.25, noise=0.1).mdp().P
    wrong = np.array([wrong[s, a] for s, a in itertools.product(live, range(4))])
    assert chi_square_p(np.array(counts), wrong) < 1e-9  # so the test can fail


def test_sparse_and_dense_mdps_of_a_gridworld_are_the_same():
    env = GridWorld(maps.MAZE, slip=0.3, noise=0.1)
    as_sparse, as_dense = env.mdp(as_sparse=True), env.mdp(as_sparse=False)
    assert as_sparse.is_sparse and not as_dense.is_sparse and not env.mdp().is_sparse
    np.testing.assert_allclose(dense(as_sparse), as_dense.P, atol=1e-15)
    np.testing.assert_array_equal(as_sparse.R, as_dense.R)
    large = GridWorld("\n".join(["." * 40] * 30 + ["." * 39 + "G"]))
    assert large.mdp().is_sparse  # 1,240 states


def test_from_gymnasium_takes_a_gridworld_even_wrapped():
    env = gym.make(ID, map=maps.AIMA_4X3, slip=0.2, max_episode_steps=50)
    mdp = MDP.from_gymnasium(env)
    np.testing.assert_array_equal(mdp.P, GridWorld(maps.AIMA_4X3, slip=0.2).mdp().P)


# --- gymnasium ---


@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
def test_gymnasiums_checker_accepts_it(render_mode):
    """Warnings are errors in this test suite."""
    env = gym.make(ID, map=maps.MAZE, slip=0.2, render_mode=render_mode)
    check_env(env.unwrapped)


def test_gymnasium_makes_it_by_name():
    env = gym.make(ID, map="S.G", step_reward=-2.0)
    assert env.reset(seed=0)[0] == 0
    assert env.step(RIGHT)[:3] == (1, -2.0, False)
    assert env.step(RIGHT)[:3] == (2, -2.0, True)


def test_the_same_seed_gives_the_same_episode():
    def episode(seed):
        env = GridWorld(maps.FOUR_ROOMS.replace("S", "."), slip=0.5)
        first = env.reset(seed=seed)[0]
        return [first, *(env.step(t % 4)[0] for t in range(50))]

    assert episode(3) == episode(3) != episode(4)


def test_text_picture():
    env = GridWorld("S.#\n*PG", rewards={"*": 1.0}, render_mode="ansi")
    assert env.render() == "S.#\n*PG"
    env.reset(seed=0)
    assert env.render() == "@.#\n*PG"
    env.step(RIGHT)
    assert env.render() == "S@#\n*PG"
    assert GridWorld(ROOM).render() is None


def test_coloured_picture():
    env = GridWorld("S.#\n*PG", rewards={"*": 1.0}, render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (2 * 32, 3 * 32, 3) and picture.dtype == np.uint8

    def middle(row, column, image=picture):
        return tuple(image[32 * row + 16, 32 * column + 16].tolist())

    colours = {middle(row, column) for row in range(2) for column in range(3)}
    assert len(colours) == 6  # agent, floor, wall, special cell, pit, goal: all different
    assert middle(0, 0) != middle(0, 1)
    without_agent = paint(env.symbols)
    assert middle(0, 0, without_agent) == middle(0, 1)
    env.step(RIGHT)
    assert middle(0, 1, env.render()) == middle(0, 0)
    assert paint(env.symbols, cell_pixels=8).shape == (16, 24, 3)


# --- the door ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"map": "S..\n.G"}, r"ragged: row 1"),
        ({"map": "S.\n.SG"}, r"ragged: row 1"),
        ({"map": "S.\nSG"}, r"2 starts at \(0, 0\), \(1, 0\)"),
        ({"map": "S?G"}, r"unknown symbol '\?' at row 0, column 1"),
        ({"map": "S#G"}, r"goal at \(0, 2\) cannot be reached from the cell \(0, 0\)"),
        ({"map": ""}, r"the map is empty"),
        ({"map": "GP"}, r"every open cell ends the episode"),
        ({"slip": 1.5}, r"slip=1.5 is not a probability"),
        ({"slip": -0.1}, r"slip=-0.1 is not a probability"),
        ({"slip": np.nan}, r"slip=nan is not a probability"),
        ({"noise": 2.0}, r"noise=2.0 is not a probability"),
        ({"noise": np.nan}, r"noise=nan is not a probability"),
        ({"wind": [1]}, r"wind must hold one integer per column \(5\); it is \[1\]"),
        ({"wind": [0.5] * 5}, r"wind must hold one integer per column"),
        ({"rewards": {"G": np.nan}}, r"the reward of 'G' is nan"),
        ({"rewards": {"#": 1.0}}, r"'#' cannot carry a reward"),
        ({"rewards": {"ab": 1.0}}, r"'ab' cannot carry a reward"),
        ({"step_reward": np.inf}, r"the reward of 'step_reward' is inf"),
        ({"render_mode": "human"}, r"render_mode='human' is not one of"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GridWorld(**arguments)


# --- as planes -------------------------------------------------------------------------------


def test_a_grid_as_planes_by_hand():
    env = GridImage(GridWorld("S#G\n..P"))
    image, _ = env.reset()
    assert image.dtype == np.float32 and image.shape == (4, 2, 3)
    assert image.tolist() == [
        [[0, 1, 0], [0, 0, 0]],  # walls
        [[0, 0, 1], [0, 0, 0]],  # goals
        [[0, 0, 0], [0, 0, 1]],  # pits
        [[1, 0, 0], [0, 0, 0]],  # the agent
    ]
    image, reward, terminated, truncated, _ = env.step(DOWN)
    assert image[3].tolist() == [[0, 0, 0], [1, 0, 0]]
    assert (reward, terminated, truncated) == (-1.0, False, False)
    assert image in env.observation_space


def test_every_state_has_its_own_planes_and_observations_are_not_shared():
    env = GridImage(GridWorld(maps.MAZE))
    images = [env.observation(s) for s in range(env.grid.S)]
    assert len({image.tobytes() for image in images}) == env.grid.S
    for s, image in enumerate(images):
        assert np.argwhere(image[3]).tolist() == [env.grid.cells[s].tolist()]


def test_planes_can_be_made_by_name_and_are_refused_for_another_world():
    env = gym.make("rlbook.tabular.gridworld:rlbook/GridImage-v0", map=ROOM, max_episode_steps=2)
    image, _ = env.reset(seed=0)
    assert image[3, 1, 1] == 1.0
    env.step(LEFT)
    assert env.step(LEFT)[2:4] == (False, True)  # cut
    with pytest.raises(ValueError, match="CartPoleEnv"):
        GridImage(gym.make("CartPole-v1"))

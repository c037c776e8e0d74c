"""Dyna-Q: by hand, reduced to Q-learning, and ahead of it where steps are dear."""

import numpy as np
import pytest
from scripted import Scripted, Ticking

from rlbook.tabular.dyna import dyna_q
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.planning import value_iteration
from rlbook.tabular.td import q_learning

# Sutton and Barto (2018), example 8.1: the Dyna maze, 14 steps from S to G at best.
DYNA_MAZE = "\n".join(
    [".......#G", "..#....#.", "S.#....#.", "..#......", ".....#...", "........."]
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def maze() -> GridWorld:
    return GridWorld(DYNA_MAZE, step_reward=0.0, rewards={"G": 1.0})


def learn(env, planning_steps: int, episodes: int, seed: int = 0, **changes):
    settings = {"gamma": 0.95, "alpha": 0.5, "epsilon": 0.1} | changes
    settings |= {"episodes": episodes, "generator": rng(seed)}
    return list(dyna_q(env, planning_steps=planning_steps, **settings))


def test_replays_by_hand():
    # 0 → 1 → end with rewards 0 and 8; one action; α = γ = 0.5; 3 replays after each step.
    # After 0 → 1 only (0) is known, and its target is 0: nothing changes. After 1 → end:
    # Q(1) = 4, then 3 replays of (0) or (1), k of them of (1): Q(1) = 8 - 4 / 2^k.
    env = Scripted([(0, 0.0, 1, ""), (1, 8.0, 2, "terminated")], S=3)
    pairs = set()
    for seed in range(100):
        Q = learn(env, 3, 1, seed, gamma=0.5)[0].Q[:, 0]
        assert Q[2] == 0.0
        pairs.add((Q[0], Q[1]))
    # 0 0 0: Q(0) goes 0 → 1 → 1.5 → 1.75 towards 0.5·4 = 2
    # 1 1 1: 4 → 6 → 7 → 7.5, and Q(0) stays 0
    # 0 0 1: Q(0) = 1.5, Q(1) = 6.       1 0 0: towards 3: 1.5, then 2.25.    0 1 0: 1, then 2
    # 0 1 1: 1, 7.    1 0 1: 1.5, 7.     1 1 0: towards 3.5: 1.75
    # Each has chance 1/8: one is missing from 100 with probability below 8 (7/8)^100 = 1.3e-5.
    expected = {(1.75, 4.0), (0.0, 7.5), (1.5, 6.0), (2.25, 6.0)}
    assert pairs == expected | {(2.0, 6.0), (1.0, 7.0), (1.5, 7.0), (1.75, 7.0)}


def test_replays_are_drawn_evenly_among_the_pairs_seen():
    # Ten steps from 0, the last of them to 1, then 1 → end with reward 8; one replay a step. After
    # the last step Q(1) = 4, and a replay of (1) makes it 6. Two pairs have been seen, so that
    # has chance 1/2, although one of them has been seen ten times: of 200 seeds 100 ± 7.1, and
    # outside 60..140 with probability below 1e-7. (By visits: 1/11, 18 of 200.)
    steps = [(0, 0.0, 0, "")] * 9 + [(0, 0.0, 1, ""), (1, 8.0, 2, "terminated")]
    ends = [learn(Scripted(steps, S=3), 1, 1, seed)[0].Q[1, 0] for seed in range(200)]
    assert set(ends) == {4.0, 6.0}
    assert 60 <= ends.count(6.0) <= 140


def test_without_planning_it_is_q_learning():
    env = GridWorld("S..\n.P.\n..G", slip=0.2)
    ours = learn(env, 0, 30, seed=3)
    settings = {"gamma": 0.95, "alpha": 0.5, "epsilon": 0.1, "episodes": 30}
    peer = list(q_learning(env, **settings, generator=rng(3)))
    assert [r[:3] for r in ours] == [r[:3] for r in peer]
    assert np.array_equal(ours[-1].Q, peer[-1].Q)
    assert np.abs(ours[-1].Q).max() > 1.0


def test_the_model_remembers_how_a_step_ended():
    # A terminal state's row must not leak through the model (target 8, not 8 + 0.5·100) ...
    env = Scripted([(0, 8.0, 1, "terminated")], S=2)
    Q = learn(env, 50, 3, gamma=0.5, Q=np.array([[0.0], [100.0]]))[-1].Q
    assert Q[0, 0] == pytest.approx(8.0, abs=1e-9)
    # ... and a cut one is bootstrapped: 1 / (1 - 0.5) = 2, in the model as in the world.
    Q = learn(Ticking(), 20, 20, gamma=0.5, epsilon=1.0)[-1].Q
    assert Q == pytest.approx(np.full((1, 2), 2.0), abs=1e-9)


def test_the_model_keeps_the_latest_outcome():
    # The reward changes from 0 to 8 after an episode: replays must pull Q to 8, not to 0.
    env = Scripted([(0, 0.0, 1, "terminated")], [(0, 8.0, 1, "terminated")], S=2)
    assert learn(env, 60, 2)[-1].Q[0, 0] == pytest.approx(8.0, abs=1e-9)


def test_planning_saves_steps_in_the_maze():
    steps = {
        k: np.mean([[r.steps for r in learn(maze(), k, 6, seed)][1:] for seed in range(2)])
        for k in (0, 5, 20)
    }
    assert steps[0] > 2.0 * steps[5]
    assert steps[5] > 1.3 * steps[20]


def test_it_finds_the_best_path():
    # The greedy path of each of 8 trial seeds was a best one of 14 steps.
    Q, env = learn(maze(), 15, 20)[-1].Q, maze()
    state, steps, ended = env.reset()[0], 0, False
    while not ended and steps < 100:
        state, _, ended, _, _ = env.step(int(Q[state].argmax()))
        steps += 1
    assert steps == 14
    # 0.95^13 for the 14th step's reward, which value iteration finds as well
    start = int(env.start.argmax())
    best = value_iteration(env.mdp(), gamma=0.95).V[start]
    assert best == pytest.approx(0.95**13, abs=1e-9)
    assert Q[start].max() == pytest.approx(best, abs=0.01)


def test_the_seed_decides_everything_and_the_table_is_copied():
    Q = np.full((maze().S, 4), 0.1)
    first, again, other = (learn(maze(), 3, 3, seed, Q=Q)[-1].Q for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (Q == 0.1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planning_steps": -1}, "planning_steps=-1"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"epsilon": 2.0}, "epsilon=2.0"),
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"Q": np.zeros((1, 3))}, r"Q must have shape \(1, 2\)"),
    ],
)
def test_bad_input_is_named(change, message):
    settings = {"gamma": 0.5, "alpha": 0.5, "epsilon": 0.1, "planning_steps": 1, "episodes": 1}
    with pytest.raises(ValueError, match=message):
        list(dyna_q(Ticking(), generator=rng(), **{**settings, **change}))

"""The MDP: what it refuses, what it copies, and the tables of gymnasium it reads."""

import gymnasium as gym
import numpy as np
import pytest
from oracles import dense
from scipy import sparse

from rlbook.tabular.mdp import MDP, deterministic_policy, random_mdp, uniform_policy


def two_states() -> tuple[np.ndarray, np.ndarray]:
    """State 0: action 0 stays, action 1 goes to state 1 with 0.75. State 1 is absorbing."""
    P = np.array([[[1.0, 0.0], [0.25, 0.75]], [[0.0, 1.0], [0.0, 1.0]]])
    return P, np.array([[-1.0, 3.0], [0.0, 0.0]])


def as_form(P: np.ndarray, form: str):
    return P if form == "dense" else sparse.csr_array(P.reshape(-1, P.shape[-1]))


FORMS = pytest.mark.parametrize("form", ["dense", "sparse"])


# --- the door ---


@FORMS
@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ((0, 1, 1), 0.73, r"P\[s=0, a=1, :\] sums to 0.98, not 1"),
        ((0, 1, 0), -0.25, r"P\[s=0, a=1, s'=0\] = -0.25 is not a probability"),
        ((0, 1, 1), np.nan, r"P\[s=0, a=1, s'=1\] = nan is not a probability"),
        ((0, 1, 1), np.inf, r"P\[s=0, a=1, :\] sums to inf"),
        ((1, 0, 1), 0.5, r"P\[s=1, a=0, :\] sums to 0.5"),
    ],
)
def test_bad_probabilities_are_named(form, entry, value, message):
    P, R = two_states()
    P[entry] = value
    with pytest.raises(ValueError, match=message):
        MDP(as_form(P, form), R, [False, True])


@FORMS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_is_named(form, value):
    P, R = two_states()
    R[0, 1] = value
    with pytest.raises(ValueError, match=rf"R\[s=0, a=1\] = {value}: every reward must be"):
        MDP(as_form(P, form), R, [False, True])


@FORMS
def test_a_terminal_state_must_not_leak(form):
    P, R = two_states()
    with pytest.raises(ValueError, match=r"terminal state 0 moves on under action 1 .* = 0.25"):
        MDP(as_form(P, form), np.zeros((2, 2)), [True, False])
    R[1, 0] = 2.0
    with pytest.raises(ValueError, match=r"terminal state 1 pays a reward under action 0 .* = 2\)"):
        MDP(as_form(P, form), R, [False, True])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": np.zeros(2)}, r"R must have shape \[S, A\]; it has shape \(2,\)"),
        ({"R": np.zeros((0, 2))}, r"R must have shape"),
        ({"R": np.zeros((2, 3))}, r"P must have shape \[S, A, S\] = \(2, 3, 2\)"),
        ({"P": sparse.csr_array(np.eye(2))}, r"\[S·A, S\] = \(4, 2\) to fit R.*\(2, 2\)"),
        ({"terminal": [False]}, r"terminal must be a bool array of shape \[S\] = \(2,\)"),
        ({"terminal": [0, 1]}, r"terminal must be a bool array .* int64"),
        ({"start": [0.5, 0.4]}, r"start must be 2 probabilities .* sums to 0.9"),
        ({"start": [1.5, -0.5]}, r"start must be 2 probabilities"),
        ({"start": [1.0]}, r"start must be 2 probabilities .* shape \(1,\)"),
        ({"start": [np.nan, 1.0]}, r"start must be 2 probabilities"),
    ],
)
def test_shapes_and_start_are_checked(change, message):
    P, R = two_states()
    with pytest.raises(ValueError, match=message):
        MDP(**{"P": P, "R": R, "terminal": [False, True], **change})


def test_rounding_of_decimal_probabilities_is_accepted():
    P = np.array([[[0.1, 0.2, 0.7]], [[0.0, 1.0, 0.0]], [[0.3, 0.3, 0.4]]])
    P[0] = 1.1 * P[0] - 0.1 * P[0]
    MDP(P, np.zeros((3, 1)))


# --- what it holds ---


@FORMS
def test_arrays_are_copies_and_read_only(form):
    P, R = two_states()
    given, terminal, start = as_form(P, form), np.array([False, True]), np.array([0.5, 0.5])
    mdp = MDP(given, R, terminal, start)
    before = dense(mdp).copy()
    P[:], R[:], terminal[:], start[:] = 7.0, 7.0, True, 7.0
    if form == "sparse":
        given.data[:] = 7.0
    np.testing.assert_array_equal(dense(mdp), before)
    np.testing.assert_array_equal(mdp.R, [[-1.0, 3.0], [0.0, 0.0]])
    assert mdp.terminal.tolist() == [False, True]
    assert mdp.start.tolist() == [0.5, 0.5]
    for array in (mdp.P.data if form == "sparse" else mdp.P, mdp.R, mdp.terminal, mdp.start):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_the_default_start_is_uniform_over_states_that_go_on():
    P, R = two_states()
    assert MDP(P, R, [False, True]).start.tolist() == [1.0, 0.0]
    assert MDP(P, R).start.tolist() == [0.5, 0.5]


@FORMS
def test_sizes_and_expected_next(form):
    P, R = two_states()
    mdp = MDP(as_form(P, form), R, [False, True])
    assert (mdp.S, mdp.A, mdp.is_sparse) == (2, 2, form == "sparse")
    # from 0: stay -> 8; 0.25 * 8 + 0.75 * 4 = 5; from 1: 4 and 4
    assert mdp.expected_next(np.array([8.0, 4.0])).tolist() == [[8.0, 5.0], [4.0, 4.0]]


def test_sparse_and_dense_convert_into_each_other():
    mdp = random_mdp(7, 3, branching=2, generator=np.random.default_rng(0), terminal_states=2)
    there = mdp.to_sparse()
    back = there.to_dense()
    assert there.is_sparse and not back.is_sparse
    for other in (there, back):
        np.testing.assert_array_equal(dense(other), mdp.P)
        np.testing.assert_array_equal(other.R, mdp.R)
        np.testing.assert_array_equal(other.terminal, mdp.terminal)
        np.testing.assert_array_equal(other.start, mdp.start)


def test_duplicates_of_a_sparse_matrix_are_added_up():
    rows = sparse.coo_array(([0.5, 0.5, 1.0], ([0, 0, 1], [1, 1, 1])), shape=(2, 2))
    assert dense(MDP(rows, [[1.0], [0.0]]))[0, 0].tolist() == [0.0, 1.0]


@FORMS
def test_absorbing_overwrites_terminal_rows(form):
    P, R = two_states()
    P[1], R[1] = [[1.0, 0.0], [0.4, 0.6]], 5.0
    mdp = MDP.absorbing(as_form(P, form), R, [False, True])
    assert dense(mdp)[1].tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert mdp.R.tolist() == [[-1.0, 3.0], [0.0, 0.0]]
    np.testing.assert_array_equal(dense(mdp)[0], P[0])
    assert R[1, 0] == 5.0 and P[1, 0, 0] == 1.0  # the caller's arrays are as they were


# --- policies ---


@FORMS
def test_under_by_hand_and_the_policy_is_not_touched(form):
    P, R = two_states()
    mdp = MDP(as_form(P, form), R, [False, True])
    policy = np.array([[0.2, 0.8], [1.0, 0.0]])
    given = policy.copy()
    P_pi, R_pi = mdp.under(policy)
    P_pi = P_pi.toarray() if form == "sparse" else P_pi
    # 0.2 * [1, 0] + 0.8 * [0.25, 0.75] = [0.4, 0.6];  0.2 * -1 + 0.8 * 3 = 2.2
    np.testing.assert_allclose(P_pi, [[0.4, 0.6], [0.0, 1.0]], atol=1e-15)
    np.testing.assert_allclose(R_pi, [2.2, 0.0], atol=1e-15)
    np.testing.assert_array_equal(policy, given)


@FORMS
def test_choosing_is_under_a_deterministic_policy(form):
    mdp = random_mdp(
        9, 3, branching=4, generator=np.random.default_rng(1), sparse_rows=form == "sparse"
    )
    actions = np.array([0, 2, 1, 1, 0, 2, 2, 0, 1])
    P_chosen, R_chosen = mdp.choosing(actions)
    P_chosen = P_chosen.toarray() if form == "sparse" else P_chosen
    P_pi, R_pi = mdp.under(deterministic_policy(actions, 3))
    P_pi = P_pi.toarray() if form == "sparse" else P_pi
    for s, a in enumerate(actions):
        np.testing.assert_array_equal(P_chosen[s], dense(mdp)[s, a])
        assert R_chosen[s] == mdp.R[s, a]
    np.testing.assert_allclose(P_pi, P_chosen, atol=1e-15)
    np.testing.assert_allclose(R_pi, R_chosen, atol=1e-15)


def test_policy_tables():
    assert deterministic_policy(np.array([1, 0]), 3).tolist() == [[0, 1, 0], [1, 0, 0]]
    P, R = two_states()
    assert uniform_policy(MDP(P, R)).tolist() == [[0.5, 0.5], [0.5, 0.5]]


@FORMS
def test_random_mdps_have_the_shape_asked_for(form):
    kinds = {"branching": 3, "terminal_states": 2, "sparse_rows": form == "sparse"}
    first, again, other = (
        random_mdp(8, 2, generator=np.random.default_rng(seed), **kinds) for seed in (0, 0, 1)
    )
    assert first.is_sparse == (form == "sparse")
    assert ((dense(first)[:6] > 0).sum(axis=2) == 3).all()
    assert first.terminal.tolist() == [False] * 6 + [True] * 2
    np.testing.assert_array_equal(dense(first), dense(again))
    assert not np.array_equal(dense(first), dense(other))


# --- gymnasium's tables ---

TOY_TEXT = [
    ("FrozenLake-v1", {"map_name": "4x4"}),
    ("FrozenLake-v1", {"map_name": "8x8"}),
    ("FrozenLake-v1", {"map_name": "4x4", "is_slippery": False}),
    ("CliffWalking-v1", {}),
    ("CliffWalking-v1", {"is_slippery": True}),
    ("Taxi-v4", {}),
]


@pytest.mark.parametrize(("name", "arguments"), TOY_TEXT)
def test_from_gymnasium_reads_the_table_entry_by_entry(name, arguments):
    env = gym.make(name, **arguments)
    mdp = MDP.from_gymnasium(env)
    table = env.unwrapped.P
    ends = {
        entry[1] for row in table.values() for entries in row.values() for entry in entries
        if entry[3]
    }  # fmt: skip
    assert set(np.flatnonzero(mdp.terminal).tolist()) == ends and ends
    P, R = np.zeros((len(table), len(table[0]), len(table))), np.zeros(mdp.R.shape)
    for s, row in table.items():
        for a, entries in row.items():
            for probability, s_next, reward, _ in entries:
                if s not in ends:
                    P[s, a, s_next] += probability
                    R[s, a] += probability * reward
            if s in ends:
                P[s, a, s] = 1.0
    np.testing.assert_allclose(dense(mdp), P, atol=1e-12)
    np.testing.assert_allclose(mdp.R, R, atol=1e-12)
    np.testing.assert_allclose(mdp.start, env.unwrapped.initial_state_distrib, atol=1e-12)


class Table(gym.Env):
    """An environment with nothing but a table."""

    def __init__(self, table):
        self.P = table


def test_successors_listed_twice_are_added_up():
    stay = {0: [(1.0, 1, 0.0, True)]}
    mdp = MDP.from_gymnasium(
        Table(
            {0: {0: [(0.5, 1, 2.0, True), (0.25, 0, 4.0, False), (0.25, 0, 8.0, False)]}, 1: stay}
        )
    )
    assert dense(mdp)[0, 0].tolist() == [0.5, 0.5]
    assert mdp.R[0, 0] == 0.5 * 2 + 0.25 * 4 + 0.25 * 8


def test_a_goal_row_that_keeps_moving_is_made_absorbing():
    table = {
        0: {0: [(1.0, 1, -1.0, True)]},
        1: {0: [(1.0, 0, -1.0, False)]},  # as CliffWalking's goal does
    }
    mdp = MDP.from_gymnasium(Table(table))
    assert dense(mdp)[1, 0].tolist() == [0.0, 1.0] and mdp.R[1, 0] == 0.0


def test_a_state_that_ends_only_some_episodes_is_refused():
    table = {
        0: {0: [(1.0, 2, 0.0, True)], 1: [(1.0, 1, 0.0, False)]},
        1: {0: [(1.0, 2, 0.0, False)], 1: [(1.0, 0, 0.0, False)]},
        2: {0: [(1.0, 2, 0.0, True)], 1: [(1.0, 2, 0.0, True)]},
    }
    with pytest.raises(
        ValueError, match=r"state 2 ends some episodes .* after action 0 in state 1"
    ):
        MDP.from_gymnasium(Table(table))
    table[0][1] = [(1.0, 0, 0.0, False)]  # now state 1 is never reached from the start
    env = Table(table)
    env.initial_state_distrib = np.array([1.0, 0.0, 0.0])
    assert MDP.from_gymnasium(env).terminal.tolist() == [False, False, True]


def test_an_environment_without_a_table_is_refused():
    with pytest.raises(ValueError, match=r"CartPoleEnv publishes no transition table env.P"):
        MDP.from_gymnasium(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"publishes no transition table"):
        MDP.from_gymnasium(Table(None))


def test_from_gymnasium_refuses_a_row_that_does_not_add_up():
    with pytest.raises(ValueError, match=r"P\[s=0, a=0, :\] sums to 0.9, not 1"):
        MDP.from_gymnasium(Table({0: {0: [(0.9, 1, 0.0, True)]}, 1: {0: [(1.0, 1, 0.0, True)]}}))

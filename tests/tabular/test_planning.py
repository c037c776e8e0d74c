"""Planning: every planner against slow and independent ways to the same values."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from oracles import (
    best_finite_horizon_values,
    best_stationary_values,
    dense,
    lp_values,
    naive_action_values,
    naive_sweep,
    policy_values,
    sampled_returns,
    walking_distances,
)

from rlbook.tabular import maps
from rlbook.tabular.bellman import check_gamma
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.mdp import MDP, deterministic_policy, random_mdp, uniform_policy
from rlbook.tabular.planning import (
    finite_horizon,
    in_place_value_iteration,
    modified_policy_iteration,
    policy_evaluation,
    policy_iteration,
    prioritised_value_iteration,
    value_iteration,
)

APPROXIMATE = {
    "value_iteration": value_iteration,
    "in_place_value_iteration": in_place_value_iteration,
    "prioritised_value_iteration": prioritised_value_iteration,
    "modified_policy_iteration": modified_policy_iteration,
}
PLANNERS = {**APPROXIMATE, "policy_iteration": policy_iteration}
every_planner = pytest.mark.parametrize("plan", PLANNERS.values(), ids=PLANNERS)
every_sweeper = pytest.mark.parametrize("plan", APPROXIMATE.values(), ids=APPROXIMATE)


def garnet(seed: int) -> tuple[MDP, float]:
    """A random MDP of 8 states, dense or sparse, with 0-2 terminal states, and a discount."""
    generator = np.random.default_rng(seed)
    mdp = random_mdp(
        8,
        int(generator.integers(2, 5)),
        branching=int(generator.integers(1, 6)),
        generator=generator,
        terminal_states=seed % 3,
        sparse_rows=seed % 2 == 0,
    )
    return mdp, float(generator.choice([0.0, 0.5, 0.8, 0.93]))


def costly(seed: int) -> MDP:
    """A random MDP for gamma = 1: every step costs something and may end the episode."""
    generator = np.random.default_rng(seed)
    S, A = 7, 3
    P = dense(random_mdp(S, A, branching=3, generator=generator)).copy()
    P[:, 0] = 0.8 * P[:, 0]
    P[:, 0, S - 1] += 0.2
    R = -generator.uniform(0.1, 2.0, size=(S, A))
    mdp = MDP.absorbing(P, R, np.arange(S) == S - 1)
    return mdp.to_sparse() if seed % 2 else mdp


def some_policy(mdp: MDP, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(mdp.A), size=mdp.S)


# --- by hand ---


@every_planner
def test_two_states_by_hand(plan):
    """State 0: stay for 1, or go to the terminal state 1 for 5. gamma 0.5: stay for ever is worth
    1 / (1 - 0.5) = 2 < 5. gamma 0.9: 1 / (1 - 0.9) = 10 > 5."""
    mdp = MDP([[[1, 0], [0, 1]], [[0, 1], [0, 1]]], [[1.0, 5.0], [0.0, 0.0]], [False, True])
    impatient = plan(mdp, gamma=0.5)
    np.testing.assert_allclose(impatient.V, [5.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(impatient.Q[0], [1 + 0.5 * 5, 5.0], atol=1e-9)
    assert impatient.policy[0].tolist() == [0.0, 1.0]
    patient = plan(mdp, gamma=0.9)
    np.testing.assert_allclose(patient.V, [10.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(patient.Q[0], [1 + 0.9 * 10, 5.0], atol=1e-9)
    assert patient.optimal_actions[0].tolist() == [True, False]


@every_planner
def test_a_corridor_by_hand(plan):
    solution = plan(GridWorld(maps.CORRIDOR).mdp(), gamma=0.5)
    # one move from G: -1; two: -1 - 0.5 = -1.5; then -1.75, -1.875
    np.testing.assert_allclose(solution.V, [-1.875, -1.75, -1.5, -1.0, 0.0], atol=1e-9)
    assert solution.optimal_actions[:4].tolist() == [[False, True, False, False]] * 4
    undiscounted = plan(GridWorld(maps.CORRIDOR).mdp(), gamma=1.0)
    np.testing.assert_allclose(undiscounted.V, [-4, -3, -2, -1, 0], atol=1e-9)


@every_planner
def test_discount_zero_looks_one_step_ahead(plan):
    mdp = random_mdp(6, 3, branching=2, generator=np.random.default_rng(0))
    np.testing.assert_allclose(plan(mdp, gamma=0.0).V, mdp.R.max(axis=1), atol=1e-12)


@every_planner
def test_all_optimal_actions_are_shown_in_the_open_room(plan):
    """G is the upper right corner: up and right are equally good but at the two edges."""
    env = GridWorld(maps.OPEN_5X5)
    for gamma in (0.9, 1.0):
        best = env.to_grid(plan(env.mdp(), gamma=gamma).optimal_actions)
        for row, column in itertools.product(range(5), range(5)):
            if (row, column) == (0, 4):
                continue  # G itself
            expected = [row > 0, column < 4, False, False]
            assert best[row, column].tolist() == expected, (row, column)
        policy = plan(env.mdp(), gamma=gamma).policy
        assert policy[env.state_at(4, 0)].tolist() == [0.5, 0.5, 0.0, 0.0]


# --- against other ways to the same values ---


@pytest.mark.parametrize("seed", range(50))
def test_all_planners_agree_with_a_linear_program(seed):
    mdp, gamma = garnet(seed)
    expected = lp_values(mdp, gamma)
    np.testing.assert_allclose(naive_sweep(mdp, expected, gamma), expected, atol=1e-10)
    Q = naive_action_values(mdp, expected, gamma)
    for name, plan in PLANNERS.items():
        solution = plan(mdp, gamma=gamma)
        np.testing.assert_allclose(solution.V, expected, atol=1e-8, err_msg=name)
        np.testing.assert_allclose(solution.Q, Q, atol=1e-8, err_msg=name)
        assert (solution.V[mdp.terminal] == 0.0).all()
        assert np.abs(solution.V - expected).max() <= solution.error_bound + 1e-11, name
        assert solution.error_bound <= 1e-10, name
        # every action shown as optimal is, and the policy is worth V
        np.testing.assert_allclose(policy_values(mdp, solution.policy, gamma), expected, atol=1e-7)


@pytest.mark.parametrize("seed", range(12))
def test_the_linear_program_agrees_with_trying_every_policy(seed):
    """The oracle itself."""
    generator = np.random.default_rng(seed)
    mdp = random_mdp(5, 3, branching=3, generator=generator, terminal_states=seed % 2)
    np.testing.assert_allclose(lp_values(mdp, 0.9), best_stationary_values(mdp, 0.9), atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_all_planners_agree_without_discount(seed):
    mdp = costly(seed)
    expected = lp_values(mdp, 1.0)
    for name, plan in PLANNERS.items():
        solution = plan(mdp, gamma=1.0, **({} if plan is policy_iteration else {"tol": 1e-12}))
        np.testing.assert_allclose(solution.V, expected, atol=1e-8, err_msg=name)
        assert solution.error_bound == np.inf, name


@every_planner
def test_sparse_and_dense_give_the_same(plan):
    mdp = random_mdp(15, 3, branching=4, generator=np.random.default_rng(5), terminal_states=2)
    for gamma in (0.95, 1.0):
        if gamma == 1.0:
            mdp = costly(4)
        one, other = plan(mdp, gamma=gamma), plan(mdp.to_sparse(), gamma=gamma)
        np.testing.assert_allclose(one.V, other.V, atol=1e-9)
        np.testing.assert_array_equal(one.optimal_actions, other.optimal_actions)


@pytest.mark.parametrize("name", ["OPEN_5X5", "MAZE", "FOUR_ROOMS"])
@every_planner
def test_shortest_paths(plan, name):
    """With -1 per step and no discount, V* is minus the walking distance."""
    env = GridWorld(getattr(maps, name).replace("P", "."))
    distances = walking_distances(env.symbols, maps.find(env.symbols, "G")[0])
    V = env.to_grid(plan(env.mdp(), gamma=1.0).V)
    open_cells = env.symbols != "#"
    np.testing.assert_allclose(V[open_cells], -distances[open_cells], atol=1e-9)


# --- the bound ---


@every_sweeper
@pytest.mark.parametrize("tol", [1.0, 0.1, 1e-3])
@pytest.mark.parametrize("seed", range(8))
def test_the_error_is_within_the_bound_at_a_loose_tolerance(plan, tol, seed):
    generator = np.random.default_rng(seed)
    mdp = random_mdp(10, 3, branching=4, generator=generator, terminal_states=seed % 3)
    expected = lp_values(mdp, 0.95)
    solution = plan(mdp, gamma=0.95, tol=tol)
    assert 0.0 <= solution.error_bound <= tol
    assert np.abs(solution.V - expected).max() <= solution.error_bound + 1e-11
    for iteration in solution.history[:-1]:
        assert iteration.error_bound > tol or plan is prioritised_value_iteration


@every_sweeper
def test_values_that_a_tight_tolerance_cannot_reach_still_come_back(plan):
    """1e-30 is below the rounding of float64."""
    mdp = random_mdp(8, 3, branching=3, generator=np.random.default_rng(0))
    solution = plan(mdp, gamma=0.9, tol=1e-30)
    np.testing.assert_allclose(solution.V, lp_values(mdp, 0.9), atol=1e-11)
    assert solution.error_bound < 1e-11


def test_residuals_of_value_iteration_contract():
    mdp = random_mdp(12, 3, branching=4, generator=np.random.default_rng(1))
    for plan in (value_iteration, in_place_value_iteration):
        residuals = [iteration.residual for iteration in plan(mdp, gamma=0.9, tol=1e-6).history]
        assert len(residuals) > 5
        for before, after in itertools.pairwise(residuals):
            assert after <= 0.9 * before + 1e-12
    policy = some_policy(mdp, 0)
    history = policy_evaluation(mdp, policy, gamma=0.9, method="iterative").history
    for before, after in itertools.pairwise(history):
        assert after.residual <= 0.9 * before.residual + 1e-12


# --- what the history keeps ---


def test_value_iteration_keeps_the_value_of_k_actions():
    mdp = random_mdp(5, 3, branching=3, generator=np.random.default_rng(2), terminal_states=1)
    history = value_iteration(mdp, gamma=0.9, tol=1e-3, keep_values=True).history
    V = np.zeros(5)
    for iteration in history:
        before, V = V, naive_sweep(mdp, V, 0.9)
        np.testing.assert_allclose(iteration.V, V, atol=1e-12)
        assert iteration.residual == pytest.approx(np.abs(V - before).max(), abs=1e-12)
        assert iteration.backups == 5


def test_in_place_value_iteration_uses_new_values_at_once():
    """+1 at G, gamma 0.9. Where G comes last in reading order, a sweep moves the news one cell;
    where it comes first, one sweep carries it all the way."""

    def history(text):
        mdp = GridWorld(text, step_reward=0.0, rewards={"G": 1.0}).mdp()
        return in_place_value_iteration(mdp, gamma=0.9, keep_values=True).history

    last, first = history("S..G"), history("G..S")
    assert last[0].V.tolist() == [0.0, 0.0, 1.0, 0.0]
    np.testing.assert_allclose(last[1].V, [0.0, 0.9, 1.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(first[0].V, [0.0, 1.0, 0.9, 0.81], atol=1e-15)
    assert len(first) == 2 and len(last) == 4  # the last sweep finds nothing to change


def test_in_place_sweeps_against_naive_ones():
    mdp = random_mdp(6, 3, branching=3, generator=np.random.default_rng(3), sparse_rows=True)
    history = in_place_value_iteration(mdp, gamma=0.8, tol=1e-2, keep_values=True).history
    V = np.zeros(6)
    for iteration in history:
        for s in range(6):
            V[s] = naive_action_values(mdp, V, 0.8)[s].max()
        np.testing.assert_allclose(iteration.V, V, atol=1e-12)


def test_prioritised_sweeping_changes_each_value_once_where_news_is_local():
    mdp = GridWorld(maps.FOUR_ROOMS, step_reward=0.0, rewards={"G": 1.0}).mdp()
    plain = value_iteration(mdp, gamma=0.95, tol=1e-8)
    prioritised = prioritised_value_iteration(mdp, gamma=0.95, tol=1e-8)
    np.testing.assert_allclose(prioritised.V, plain.V, atol=2e-8)

    def backups(solution):
        return sum(iteration.backups for iteration in solution.history)

    # Each cell's value is right the first time it changes. The work: one backup of every state
    # to begin with, and after each change one of every state that leads to the changed one.
    leads_to = (mdp.P.sum(axis=1) > 0.0) & ~mdp.terminal[:, None]
    assert backups(prioritised) == mdp.S + leads_to[:, ~mdp.terminal].sum()
    assert backups(plain) > 15 * mdp.S


def test_policy_iteration_keeps_the_value_of_each_policy():
    mdp = random_mdp(6, 3, branching=3, generator=np.random.default_rng(4))
    first = some_policy(mdp, 1)
    history = policy_iteration(mdp, gamma=0.9, policy=first, keep_values=True).history
    np.testing.assert_allclose(history[0].V, policy_values(mdp, first, 0.9), atol=1e-10)
    Q = naive_action_values(mdp, history[0].V, 0.9)
    greedy = deterministic_policy(Q.argmax(axis=1), 3)
    np.testing.assert_allclose(history[1].V, policy_values(mdp, greedy, 0.9), atol=1e-10)
    for before, after in itertools.pairwise(history):
        assert (after.V >= before.V - 1e-10).all()
    assert len(history) <= 3**6
    again = policy_iteration(mdp, gamma=0.9, policy=greedy)
    assert len(again.history) == len(history) - 1


def test_modified_policy_iteration_sweeps_as_told():
    mdp = random_mdp(6, 3, branching=3, generator=np.random.default_rng(5))
    history = modified_policy_iteration(
        mdp, gamma=0.9, evaluation_sweeps=4, keep_values=True
    ).history
    assert {iteration.backups for iteration in history} == {6 * 4}
    # The second values: one optimality sweep after three sweeps of the greedy policy.
    zero = np.zeros(6)
    np.testing.assert_allclose(history[0].V, naive_sweep(mdp, zero, 0.9), atol=1e-10)
    greedy = deterministic_policy(naive_action_values(mdp, zero, 0.9).argmax(axis=1), 3)
    V = history[0].V
    for _ in range(3):
        V = naive_sweep(mdp, V, 0.9, greedy)
    np.testing.assert_allclose(history[1].V, naive_sweep(mdp, V, 0.9), atol=1e-10)


def test_modified_policy_iteration_only_rises_without_discount():
    mdp = random_mdp(8, 3, branching=3, generator=np.random.default_rng(5), terminal_states=1)
    mdp = MDP(mdp.P, np.where(mdp.terminal[:, None], 0.0, -1.0 - mdp.R**2), mdp.terminal)
    history = modified_policy_iteration(mdp, gamma=1.0, evaluation_sweeps=4, keep_values=True)
    assert len(history.history) > 2
    for before, after in itertools.pairwise(history.history):
        assert (after.V >= before.V - 1e-10).all()


# --- found by review: near gamma = 1, free loops, float32 ---


def test_the_bound_holds_where_rounding_is_magnified():
    """Against exact rational arithmetic: rounding in TV - V is divided by 1 - gamma = 1e-6."""
    mdp = random_mdp(6, 2, branching=3, generator=np.random.default_rng(3))
    gamma = 1.0 - 1e-6
    for plan in (value_iteration, modified_policy_iteration, policy_iteration):
        solution = plan(mdp, gamma=gamma)
        actions = solution.Q.argmax(axis=1)
        truth = rational_values(mdp, actions, gamma)
        assert np.abs(solution.V - truth).max() <= solution.error_bound


def rational_values(mdp, actions, gamma):
    """V of one action per state by Gauss-Jordan elimination in exact fractions."""
    S = mdp.S
    rows = [
        [Fraction(int(s == t)) - Fraction(gamma) * Fraction(mdp.P[s, a, t]) for t in range(S)]
        + [Fraction(mdp.R[s, a])]
        for s, a in enumerate(actions.tolist())
    ]
    for i in range(S):
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for j in range(S):
            if j != i:
                rows[j] = [x - rows[j][i] * y for x, y in zip(rows[j], rows[i], strict=True)]
    return np.array([float(row[-1]) for row in rows])


@pytest.mark.parametrize("S", [12, 16, 30])
@pytest.mark.parametrize("plan", [policy_iteration, modified_policy_iteration])
def test_a_long_chain_without_discount(S, plan):
    """Action 0 goes right, three others left, and only the end pays 1: V = 1 everywhere. A
    random walk takes 3^S steps here, so its values are too rough a beginning."""
    P = np.zeros((S + 1, 4, S + 1))
    for s in range(S):
        P[s, 0, s + 1] = 1.0
        P[s, 1:, max(s - 1, 0)] = 1.0
    R = np.zeros((S + 1, 4))
    R[S - 1, 0] = 1.0
    solution = plan(MDP.absorbing(P, R, np.arange(S + 1) == S), gamma=1.0)
    np.testing.assert_allclose(solution.V, [1.0] * S + [0.0], atol=1e-12)


def test_a_free_loop_without_discount():
    """Stay for nothing or leave for -1: never ending is worth 0, and every policy that ends -1."""
    P = np.zeros((2, 2, 2))
    P[0, 0, 0] = P[0, 1, 1] = 1.0
    mdp = MDP.absorbing(P, [[0.0, -1.0], [0.0, 0.0]], np.array([False, True]))
    for plan in (value_iteration, in_place_value_iteration, prioritised_value_iteration):
        with pytest.raises(ValueError, match=r"from state 0 it is best never to end"):
            plan(mdp, gamma=1.0)
    for plan in (policy_iteration, modified_policy_iteration):
        assert plan(mdp, gamma=1.0).V.tolist() == [-1.0, 0.0]


def test_a_float32_discount_and_policy_lose_no_precision():
    mdp = random_mdp(6, 3, branching=3, generator=np.random.default_rng(8))
    assert type(check_gamma(mdp, np.float32(0.9))) is float
    logits = np.random.default_rng(9).normal(size=(6, 3)).astype(np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert policy_evaluation(mdp, softmax, gamma=0.9).policy.sum(axis=1) == pytest.approx(1.0)


def test_prioritised_may_use_its_whole_budget():
    grid = GridWorld("S...G")
    solution = prioritised_value_iteration(grid.mdp(), gamma=1.0, max_sweeps=2)
    assert solution.V.tolist() == [-4.0, -3.0, -2.0, -1.0, 0.0]


@every_planner
def test_values_are_kept_only_when_asked(plan):
    mdp = random_mdp(5, 2, branching=2, generator=np.random.default_rng(6))
    assert all(iteration.V is None for iteration in plan(mdp, gamma=0.9).history)
    kept = [iteration.V for iteration in plan(mdp, gamma=0.9, keep_values=True).history]
    assert not any(V is None for V in kept)
    assert not np.array_equal(kept[0], kept[-1])  # copies, not one array over and over
    errors = [np.abs(V - lp_values(mdp, 0.9)).max() for V in kept]
    assert errors[-1] < 0.01 < errors[0]  # before the bracket's middle is taken


# --- evaluation ---


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_policy_evaluation_against_a_solve_of_the_live_states(method, seed):
    mdp, gamma = garnet(seed)
    policy = some_policy(mdp, seed)
    given = policy.copy()
    solution = policy_evaluation(mdp, policy, gamma=gamma, method=method)
    expected = policy_values(mdp, policy, gamma)
    np.testing.assert_allclose(solution.V, expected, atol=1e-9)
    np.testing.assert_allclose(solution.Q, naive_action_values(mdp, expected, gamma), atol=1e-9)
    np.testing.assert_array_equal(solution.policy, policy)
    np.testing.assert_allclose(naive_sweep(mdp, expected, gamma, policy), expected, atol=1e-10)
    assert np.abs(solution.V - expected).max() <= solution.error_bound + 1e-11
    assert solution.error_bound <= 1e-10
    np.testing.assert_array_equal(policy, given)


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_policy_evaluation_without_discount(method):
    mdp = costly(3)
    policy = some_policy(mdp, 0)
    solution = policy_evaluation(mdp, policy, gamma=1.0, method=method, tol=1e-12)
    np.testing.assert_allclose(solution.V, policy_values(mdp, policy, 1.0), atol=1e-9)
    assert solution.error_bound == np.inf


def test_iterative_evaluation_keeps_the_value_of_k_actions():
    mdp = random_mdp(5, 3, branching=3, generator=np.random.default_rng(7))
    policy = some_policy(mdp, 2)
    history = policy_evaluation(
        mdp, policy, gamma=0.9, method="iterative", tol=0.1, keep_values=True
    ).history
    V = np.zeros(5)
    for iteration in history:
        V = naive_sweep(mdp, V, 0.9, policy)
        np.testing.assert_allclose(iteration.V, V, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_policy_evaluation_against_monte_carlo(seed):
    """20,000 runs of 150 steps: the mean misses by more than 6 standard errors with probability
    2e-9; the tail is worth less than 0.9^150 * 10 max|R| < 1e-4."""
    generator = np.random.default_rng(seed)
    mdp = random_mdp(6, 3, branching=3, generator=generator, terminal_states=1)
    policy = some_policy(mdp, seed)
    returns = sampled_returns(
        mdp, policy, 0, gamma=0.9, steps=150, samples=20_000, generator=generator
    )
    allowed = 6 * returns.std() / np.sqrt(len(returns)) + 1e-4
    assert abs(returns.mean() - policy_evaluation(mdp, policy, gamma=0.9).V[0]) < allowed


@pytest.mark.parametrize("sparse_rows", [False, True])
def test_no_planner_changes_the_callers_policy(sparse_rows):
    """An earlier MDP.under zeroed entries of a policy whose sparse row had been stored."""
    mdp = random_mdp(6, 3, branching=2, generator=np.random.default_rng(8), sparse_rows=sparse_rows)
    policy = some_policy(mdp, 3)
    policy[2] = [0.0, 1.0, 0.0]
    given = policy.copy()
    mdp.under(policy)
    for method in ("exact", "iterative"):
        evaluated = policy_evaluation(mdp, policy, gamma=0.9, method=method)
        assert not np.shares_memory(evaluated.policy, policy)
    policy_iteration(mdp, gamma=0.9, policy=policy)
    np.testing.assert_array_equal(policy, given)


# --- a fixed number of actions ---


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("gamma", [0.8, 1.0])
def test_finite_horizon_against_every_plan(seed, gamma):
    """3 states, 2 actions, 3 steps: all 2^9 time-dependent policies."""
    generator = np.random.default_rng(seed)
    mdp = random_mdp(
        3, 2, branching=2, generator=generator, terminal_states=seed % 2, sparse_rows=seed % 2 == 0
    )
    solution = finite_horizon(mdp, horizon=3, gamma=gamma)
    assert solution.V.shape == (4, 3) and solution.Q.shape == solution.policy.shape == (3, 3, 2)
    assert (solution.V[0] == 0.0).all()
    for h in (1, 2, 3):
        expected = best_finite_horizon_values(mdp, h, gamma)
        np.testing.assert_allclose(solution.V[h], expected, atol=1e-12)
        Q = naive_action_values(mdp, solution.V[h - 1], gamma)
        np.testing.assert_allclose(solution.Q[h - 1], Q, atol=1e-12)


def test_the_best_action_depends_on_the_actions_left():
    """S..G with +1 at S for staying, -1 a step and +10 at G: with fewer than 3 actions left, stay.
    With h left at S: stay and bump for h, or walk: -3 + 10 = 7 if h = 3; 7 > 3."""
    env = GridWorld("S..G", step_reward=-1.0, rewards={"S": 2.0, "G": 10.0})
    solution = finite_horizon(env.mdp(), horizon=3)
    assert solution.V[:, 0].tolist() == [0.0, 1.0, 2.0, 7.0]
    assert solution.policy[1, 0, 1] == 0.0 and solution.policy[1, 0, 3] > 0.0
    assert solution.policy[2, 0].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert solution.error_bound == 0.0


@pytest.mark.parametrize(
    ("horizon", "gamma", "message"),
    [(0, 1.0, "horizon=0 must be at least 1"), (3, 1.5, "gamma=1.5 is not a discount")],
)
def test_finite_horizon_refuses(horizon, gamma, message):
    with pytest.raises(ValueError, match=message):
        finite_horizon(costly(0), horizon=horizon, gamma=gamma)


# --- metamorphic ---


@every_planner
def test_renumbering_states_renumbers_values(plan):
    generator = np.random.default_rng(9)
    mdp = random_mdp(9, 3, branching=3, generator=generator, terminal_states=2)
    order = generator.permutation(9)
    shuffled = MDP(mdp.P[order][:, :, order], mdp.R[order], mdp.terminal[order])
    np.testing.assert_allclose(
        plan(shuffled, gamma=0.9).V, plan(mdp, gamma=0.9).V[order], atol=1e-9
    )


@every_planner
def test_a_constant_added_to_all_rewards(plan):
    """Without terminal states it adds c / (1 - γ): 2.5 / (1 - 0.9) = 25."""
    mdp = random_mdp(9, 3, branching=3, generator=np.random.default_rng(10))
    richer = plan(MDP(mdp.P, mdp.R + 2.5), gamma=0.9)
    plain = plan(mdp, gamma=0.9)
    np.testing.assert_allclose(richer.V, plain.V + 25.0, atol=1e-9)
    np.testing.assert_array_equal(richer.optimal_actions, plain.optimal_actions)


@every_planner
def test_scaled_rewards_scale_the_values(plan):
    mdp = random_mdp(9, 3, branching=3, generator=np.random.default_rng(11), terminal_states=1)
    scaled = plan(MDP(mdp.P, 1000.0 * mdp.R, mdp.terminal), gamma=0.9)
    np.testing.assert_allclose(scaled.V, 1000.0 * plan(mdp, gamma=0.9).V, atol=1e-6)


@every_planner
def test_an_action_given_twice_shares_its_probability(plan):
    mdp = random_mdp(6, 2, branching=3, generator=np.random.default_rng(12))
    doubled = MDP(mdp.P[:, [0, 1, 0]], mdp.R[:, [0, 1, 0]])
    plain, twice = plan(mdp, gamma=0.9), plan(doubled, gamma=0.9)
    np.testing.assert_allclose(twice.V, plain.V, atol=1e-9)
    np.testing.assert_array_equal(twice.policy[:, 0], twice.policy[:, 2])
    np.testing.assert_allclose(twice.policy[:, 0] + twice.policy[:, 2], plain.policy[:, 0])


# --- the door ---


def endless() -> MDP:
    return MDP([[[1.0, 0.0]], [[0.0, 1.0]]], [[1.0], [1.0]])


@every_planner
@pytest.mark.parametrize("gamma", [-0.5, 1.01, np.nan])
def test_planners_refuse_what_is_not_a_discount(plan, gamma):
    with pytest.raises(ValueError, match=f"gamma={gamma} is not a discount"):
        plan(costly(0), gamma=gamma)


@every_planner
def test_planners_refuse_gamma_one_without_an_end(plan):
    with pytest.raises(ValueError, match=r"gamma=1 needs episodes that end.*from state 0"):
        plan(endless(), gamma=1.0)


@every_planner
@pytest.mark.parametrize("as_sparse", [False, True])
def test_planners_refuse_a_loop_that_gains_for_ever(plan, as_sparse):
    mdp = GridWorld("S.*G", step_reward=-1.0, rewards={"*": 3.0}).mdp(as_sparse=as_sparse)
    limit = "max_improvements" if "policy" in plan.__name__ else "max_sweeps"
    with pytest.raises(ValueError, match=r"loop .*gains reward for ever"):
        plan(mdp, gamma=1.0, **{limit: 200})
    assert np.isfinite(plan(mdp, gamma=0.9).V).all()


@every_planner
def test_planners_say_when_they_give_up(plan):
    mdp = random_mdp(30, 3, branching=5, generator=np.random.default_rng(0))
    limit = "max_improvements" if "policy" in plan.__name__ else "max_sweeps"
    with pytest.raises(ValueError, match=rf"{plan.__name__} has not converged after 1 iterations"):
        plan(mdp, gamma=0.99, **{limit: 1})


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_evaluation_refuses_a_policy_that_never_ends_without_discount(method):
    mdp = GridWorld("S..G").mdp()
    left = deterministic_policy(np.array([3, 3, 1, 0]), 4)
    with pytest.raises(ValueError, match=r"the policy never reaches a terminal .* from state 0"):
        policy_evaluation(mdp, left, gamma=1.0, method=method)
    assert policy_evaluation(mdp, left, gamma=0.5).V[0] == pytest.approx(-2.0)


def test_evaluation_refuses_bad_arguments():
    mdp = costly(0)
    with pytest.raises(ValueError, match=r"policy\[0\] = .* is not a probability distribution"):
        policy_evaluation(mdp, uniform_policy(mdp) * 0.9, gamma=0.9)
    with pytest.raises(ValueError, match=r"policy must have shape \[S, A\] = \(7, 3\)"):
        policy_evaluation(mdp, np.full((3, 7), 1 / 7), gamma=0.9)
    with pytest.raises(ValueError, match=r"gamma=2\.0 is not a discount"):
        policy_evaluation(mdp, uniform_policy(mdp), gamma=2.0)
    with pytest.raises(ValueError, match="method='magic' is not one of"):
        policy_evaluation(mdp, uniform_policy(mdp), gamma=0.9, method="magic")
    with pytest.raises(ValueError, match="policy_evaluation has not converged after 3 iterations"):
        policy_evaluation(mdp, uniform_policy(mdp), gamma=0.9, method="iterative", max_sweeps=3)


def test_policy_iteration_begins_with_a_policy_that_ends():
    mdp = GridWorld("S..G").mdp()
    left = deterministic_policy(np.array([3, 3, 3, 3]), 4)
    with pytest.raises(ValueError, match="the policy never reaches a terminal"):
        policy_iteration(mdp, gamma=1.0, policy=left)
    np.testing.assert_allclose(
        policy_iteration(mdp, gamma=0.5, policy=left).V, [-1.75, -1.5, -1, 0]
    )


def test_modified_policy_iteration_needs_a_sweep():
    with pytest.raises(ValueError, match="evaluation_sweeps=0 must be at least 1"):
        modified_policy_iteration(costly(0), gamma=0.9, evaluation_sweeps=0)

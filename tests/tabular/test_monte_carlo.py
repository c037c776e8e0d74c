"""Monte Carlo: by hand, against exact planning, and against enumeration."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from scripted import Sampled, Scripted, Ticking, layered_mdp, trajectories

from rlbook.tabular.episodes import discounted_return, sample_episode
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.mdp import MDP, random_mdp, uniform_policy
from rlbook.tabular.monte_carlo import (
    epsilon_greedy,
    first_visits,
    monte_carlo_control,
    monte_carlo_exploring_starts,
    monte_carlo_prediction,
    off_policy_prediction,
    return_variance,
    returns_to_go,
)
from rlbook.tabular.planning import optimal_actions, policy_evaluation, value_iteration

GAMMA = 0.9


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def last(reports):
    *_, report = reports
    return report


def some_policy(mdp: MDP, seed: int) -> np.ndarray:
    return rng(seed).dirichlet(np.ones(mdp.A), size=mdp.S)


def cyclic_mdp() -> MDP:
    """Random, with loops: a state is often visited several times in an episode."""
    return random_mdp(5, 2, branching=3, generator=rng(1), terminal_states=1)


# --- by hand ------------------------------------------------------------------------------------


def test_returns_to_go_by_hand():
    # 4;  2 + 0.5·4 = 4;  1 + 0.5·4 = 3
    assert returns_to_go(np.array([1.0, 2.0, 4.0]), gamma=0.5).tolist() == [3.0, 4.0, 4.0]
    assert returns_to_go(np.array([1.0, 2.0, 4.0]), gamma=1.0).tolist() == [7.0, 6.0, 4.0]
    assert returns_to_go(np.array([1.0, 2.0, 4.0]), gamma=0.0).tolist() == [1.0, 2.0, 4.0]
    assert returns_to_go(np.array([]), gamma=0.5).tolist() == []


def test_first_visits_by_hand():
    assert first_visits(np.array([4, 2, 4, 0, 2, 7])).tolist() == [0, 1, 3, 5]


# State 0 is seen at times 0 and 1; returns 1 + 2 + 4 = 7, 2 + 4 = 6, and 4 from state 1.
TWICE = [(0, 1.0, 0, ""), (0, 2.0, 1, ""), (1, 4.0, 2, "terminated")]
ONCE = [(0, 3.0, 2, "terminated")]


@pytest.mark.parametrize(
    ("every_visit", "values", "counts"),
    [
        (False, [(7 + 3) / 2, 4.0, 0.0], [2, 1, 0]),
        (True, [(7 + 6 + 3) / 3, 4.0, 0.0], [3, 1, 0]),
    ],
)
def test_first_and_every_visit_by_hand(every_visit, values, counts):
    settings = {"gamma": 1.0, "episodes": 2, "generator": rng(), "every_visit": every_visit}
    env = Scripted(TWICE, ONCE, S=3)
    reports = list(monte_carlo_prediction(env, np.ones((3, 1)), **settings))
    assert reports[-1].V == pytest.approx(values, abs=1e-12)
    assert reports[-1].counts.tolist() == counts
    assert [(r.episode, r.episode_return, r.Q) for r in reports] == [(0, 7.0, None), (1, 3.0, None)]


def test_a_constant_step_by_hand():
    # One state, seen once in each of two episodes that pay 8 and then 0; V starts at 4:
    # 4 + 0.5 (8 - 4) = 6, then 6 + 0.5 (0 - 6) = 3. With 1/n: 8, then 4.
    def learn(**options):
        env = Scripted([(0, 8.0, 1, "terminated")], [(0, 0.0, 1, "terminated")], S=2)
        guess = np.array([4.0, 7.0])
        settings = {"gamma": 1.0, "episodes": 2, "generator": rng(), "V": guess}
        reports = monte_carlo_prediction(env, np.ones((2, 1)), **settings, **options)
        values = [report.V.tolist() for report in reports]
        assert guess.tolist() == [4.0, 7.0]  # the caller's table is left alone
        return values

    assert learn(step_size=0.5) == [[6.0, 7.0], [3.0, 7.0]]
    assert learn() == [[8.0, 7.0], [4.0, 7.0]]
    with pytest.raises(ValueError, match=r"alpha=1.5 in episode 0: it must lie in \(0, 1\]"):
        learn(step_size=1.5)


@pytest.mark.parametrize(("step_size", "expected"), [(None, [5.0, 4.0, 0.0]), (0.5, [3.25, 2, 0])])
def test_control_by_hand(step_size, expected):
    # averages: (7 + 3)/2.   α = 0.5: 3.5, then 3.5 + 0.5 (3 - 3.5) = 3.25;  0.5·4 = 2
    settings = {"gamma": 1.0, "epsilon": 0.5, "episodes": 2, "generator": rng()}
    report = last(monte_carlo_control(Scripted(TWICE, ONCE, S=3), step_size=step_size, **settings))
    assert report.Q[:, 0].tolist() == expected
    assert report.counts[:, 0].tolist() == [2, 1, 0]


def test_importance_sampling_by_hand():
    # π always takes action 0 in state 0 and mixes evenly in state 1; the behaviour mixes evenly.
    # Actions 0, 0 then 1 in the second episode: ratios 2·1 = 2 and 1 in the first, 0 in the
    # second. Returns 1 + 4 = 5 and 4; then 3.
    policy, mixed = np.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]), np.full((3, 2), 0.5)
    for weighted, expected in ((False, [2 * 5 / 2, 4.0, 0.0]), (True, [5.0, 4.0, 0.0])):
        for seed in range(200):
            env = Scripted([(0, 1.0, 1, ""), (1, 4.0, 2, "terminated")], ONCE, S=3, A=2)
            settings = {"gamma": 1.0, "episodes": 2, "generator": rng(seed), "weighted": weighted}
            report = last(off_policy_prediction(env, policy, mixed, **settings))
            if env.actions == [0, 0, 1]:
                break
        assert env.actions == [0, 0, 1]
        assert report.V.tolist() == expected
        assert report.counts.tolist() == [2.0, 1.0, 0.0]


def test_epsilon_greedy_by_hand():
    # ε/A = 0.1 each, plus 0.6 for the best, or 0.3 for each of two best
    policy = epsilon_greedy(np.array([[0.0, 1.0, 0.0, -1.0], [2.0, 0.0, 2.0, 1.0]]), 0.4)
    assert policy == pytest.approx(np.array([[0.1, 0.7, 0.1, 0.1], [0.4, 0.1, 0.4, 0.1]]))


# --- against exact values -----------------------------------------------------------------------


def test_first_visits_agree_with_planning():
    # First-visit returns of one state are independent, with the variance that Sobel's equation
    # gives: 5 standard errors in each of 4 states fail with probability below 3e-6.
    mdp = cyclic_mdp()
    policy = some_policy(mdp, 2)
    settings = {"gamma": GAMMA, "episodes": 3000, "generator": rng(3)}
    report = last(monte_carlo_prediction(Sampled(mdp), policy, **settings))
    exact = policy_evaluation(mdp, policy, gamma=GAMMA).V
    live = ~mdp.terminal
    error = np.sqrt(return_variance(mdp, policy, gamma=GAMMA)[live] / report.counts[live])
    assert (report.counts[live] > 500).all()
    assert (np.abs(report.V - exact)[live] < 5.0 * error).all()
    assert error.max() < 0.1


def test_every_visit_converges():
    # Returns of one episode are dependent: 10 first-visit standard errors leave room for it.
    mdp = cyclic_mdp()
    policy = some_policy(mdp, 2)
    settings = {"gamma": GAMMA, "episodes": 3000, "generator": rng(4), "every_visit": True}
    report = last(monte_carlo_prediction(Sampled(mdp), policy, **settings))
    exact = policy_evaluation(mdp, policy, gamma=GAMMA).V
    error = np.sqrt(return_variance(mdp, policy, gamma=GAMMA) / 1000)
    assert (np.abs(report.V - exact) <= 10.0 * error).all()


def test_return_variance_by_enumeration():
    mdp = layered_mdp()
    policy = some_policy(mdp, 5)
    exact = return_variance(mdp, policy, gamma=GAMMA)
    for s in range(mdp.S):
        chances, returns = [], []
        for chance, steps in trajectories(mdp, policy, s):
            chances.append(chance)
            returns.append(discounted_return([reward for *_, reward in steps], gamma=GAMMA))
        assert sum(chances) == pytest.approx(1.0, abs=1e-12)
        mean = np.dot(chances, returns)
        assert exact[s] == pytest.approx(np.dot(chances, (returns - mean) ** 2), abs=1e-12)
    assert exact[0] > 0.1


def test_return_variance_against_samples():
    # The sample variance has variance (m₄ - σ⁴)/n: 5 of its standard errors, below 1e-6.
    mdp = cyclic_mdp()
    mdp = MDP(mdp.P, mdp.R, mdp.terminal, np.eye(5)[0])
    policy, env, generator = some_policy(mdp, 2), Sampled(mdp), rng(6)
    returns = np.array(
        [
            discounted_return(sample_episode(env, policy, generator=generator).rewards, gamma=GAMMA)
            for _ in range(3000)
        ]
    )
    fourth = ((returns - returns.mean()) ** 4).mean()
    error = np.sqrt((fourth - returns.var() ** 2) / len(returns))
    exact = return_variance(mdp, policy, gamma=GAMMA)[0]
    assert abs(returns.var() - exact) < 5.0 * error < exact


def test_a_certain_return_has_no_variance():
    # Seven steps of -0.1 in a corridor: rounding must not make a variance negative.
    mdp = GridWorld("S......G", step_reward=-0.1).mdp()
    right = np.tile([0.0, 1.0, 0.0, 0.0], (mdp.S, 1))
    variance = return_variance(mdp, right, gamma=1.0)
    assert (variance >= 0.0).all()
    assert variance == pytest.approx(np.zeros(mdp.S), abs=1e-12)


def prize() -> GridWorld:
    """Corridor S.G whose goal pays 10 on landing; a move to the right stays with 0.2."""
    return GridWorld("S.G", slip=0.2, step_reward=0.0, rewards={"G": 10.0})


def test_mean_rewards_make_the_variance_too_large_by_hand():
    # Every return is 10. Beside the goal R = 0.8·10 = 8, so the formula sees 8 + 0 - 10 = -2 with
    # 0.8 and 8 + 10 - 10 = 8 with 0.2: 0.8·4 + 0.2·64 = 16, and Var = 16 + 0.2 Var = 20.
    env, right = prize(), np.tile([0.0, 1.0, 0.0, 0.0], (3, 1))
    mean_only = return_variance(env.mdp(), right, gamma=1.0)
    assert mean_only == pytest.approx([20.0, 20.0, 0.0], abs=1e-9)
    settings = {"gamma": 1.0, "entry_rewards": env.entry_rewards}
    for as_sparse in (False, True):
        exact = return_variance(env.mdp(as_sparse=as_sparse), right, **settings)
        assert exact == pytest.approx(np.zeros(3), abs=1e-12)


def test_mean_rewards_make_the_variance_too_small_by_hand():
    # One draw that ends: the goal (+10) with 0.8, a pit (-30) at each side with 0.1. The mean is
    # 2 and the variance 0.8·8² + 0.2·32² = 256, of which a mean reward of 2 shows nothing.
    env = GridWorld("#P#\n#SG\n#P#", slip=0.2, step_reward=0.0, rewards={"G": 10.0, "P": -30.0})
    start, right = int(env.start.argmax()), np.tile([0.0, 1.0, 0.0, 0.0], (env.S, 1))
    assert return_variance(env.mdp(), right, gamma=0.9)[start] == pytest.approx(0.0, abs=1e-9)
    settings = {"gamma": 0.9, "entry_rewards": env.entry_rewards}
    assert return_variance(env.mdp(), right, **settings)[start] == pytest.approx(256.0, abs=1e-9)


def test_return_variance_with_entry_rewards_against_samples():
    # Pits and a goal that pay on landing, slip, γ < 1. The sample variance has variance
    # (m₄ - σ⁴)/n: 5 of its standard errors, below 1e-6; mean rewards are off by more than 10.
    env = GridWorld("S..\n.P.\n..G", slip=0.3, rewards={"G": 20.0, "P": -15.0})
    policy, generator = epsilon_greedy(value_iteration(env.mdp(), gamma=GAMMA).Q, 0.4), rng(11)
    returns = np.array(
        [
            discounted_return(sample_episode(env, policy, generator=generator).rewards, gamma=GAMMA)
            for _ in range(3000)
        ]
    )
    fourth = ((returns - returns.mean()) ** 4).mean()
    error = np.sqrt((fourth - returns.var() ** 2) / len(returns))
    start, settings = int(env.start.argmax()), {"gamma": GAMMA}
    exact = return_variance(env.mdp(), policy, entry_rewards=env.entry_rewards, **settings)[start]
    assert abs(returns.var() - exact) < 5.0 * error
    assert abs(return_variance(env.mdp(), policy, **settings)[start] - exact) > 10.0 * error


def test_entry_rewards_of_another_world_are_named():
    env, right = prize(), np.tile([0.0, 1.0, 0.0, 0.0], (3, 1))
    # up, in state 1, slips onto the goal with 0.1: 0.1·9 = 0.9, where R = 1
    wrong = np.where(env.terminal, 9.0, 0.0)
    with pytest.raises(ValueError, match=r"mean 0\.9 after action 0 in state 1, but R\[1, 0\] = 1"):
        return_variance(env.mdp(), right, gamma=1.0, entry_rewards=wrong)


@pytest.mark.parametrize("weighted", [False, True])
def test_off_policy_prediction_agrees_with_planning(weighted):
    # All episodes begin in state 0, and enumeration gives the variance of one term: of ρG, or,
    # to first order in 1/n, of ρ (G - V). 5 standard errors fail with probability below 1e-6.
    mdp = layered_mdp()
    policy, behaviour, n = epsilon_greedy(mdp.R, 0.4), uniform_policy(mdp), 3000
    exact = policy_evaluation(mdp, policy, gamma=GAMMA).V[0]
    variance = mean = 0.0
    for chance, steps in trajectories(mdp, behaviour, 0):
        ratio = np.prod([policy[s, a] / behaviour[s, a] for s, a, _ in steps])
        G = discounted_return([reward for *_, reward in steps], gamma=GAMMA)
        mean += chance * ratio * G
        variance += chance * (ratio * (G - exact) if weighted else ratio * G - exact) ** 2
    assert mean == pytest.approx(exact, abs=1e-12)
    settings = {"gamma": GAMMA, "episodes": n, "generator": rng(8), "weighted": weighted}
    V = last(off_policy_prediction(Sampled(mdp), policy, behaviour, **settings)).V
    error = np.sqrt(variance / n)
    assert abs(V[0] - exact) < 5.0 * error < 0.5
    # the behaviour's own value is far off, so that forgetting the ratios would fail
    own = policy_evaluation(mdp, behaviour, gamma=GAMMA).V[0]
    assert abs(own - exact) > 5.0 * error


def test_on_policy_ratios_change_nothing():
    mdp = layered_mdp()
    policy = some_policy(mdp, 9)
    settings = {"gamma": GAMMA, "episodes": 50}
    on = last(monte_carlo_prediction(Sampled(mdp), policy, generator=rng(1), **settings)).V
    for weighted in (False, True):
        options = {"generator": rng(1), "weighted": weighted, **settings}
        off = last(off_policy_prediction(Sampled(mdp), policy, policy, **options)).V
        assert off == pytest.approx(on, abs=1e-12)


def test_control_comes_near_the_best_epsilon_soft_policy():
    # The best ε-soft policy is the best policy of an MDP in which every action is replaced by a
    # random one with probability ε. The learned policy's shortfall was below 0.001 in 10 of 10
    # trial seeds; a policy that acts at random is worse by 4.6.
    env, epsilon = GridWorld("S..\n.#.\n..G"), 0.2
    mdp = env.mdp()
    P = (1.0 - epsilon) * mdp.P + epsilon * mdp.P.mean(axis=1, keepdims=True)
    R = (1.0 - epsilon) * mdp.R + epsilon * mdp.R.mean(axis=1, keepdims=True)
    best = value_iteration(MDP(P, R, mdp.terminal, mdp.start), gamma=GAMMA).V
    settings = {"gamma": GAMMA, "epsilon": epsilon, "episodes": 1000, "step_size": 0.05}
    Q = last(monte_carlo_control(env, generator=rng(1), **settings)).Q
    learned = policy_evaluation(mdp, epsilon_greedy(Q, epsilon), gamma=GAMMA).V
    start = int(env.start.argmax())
    assert learned[start] <= best[start] + 1e-9
    assert learned[start] > best[start] - 0.05


# --- exploring starts ---------------------------------------------------------------------------


@pytest.mark.parametrize(("step_size", "expected"), [(None, [5.0, 4.0, 0.0]), (0.5, [3.25, 2, 0])])
def test_exploring_starts_by_hand(step_size, expected):
    # with one action there is nothing to explore: the numbers of test_control_by_hand
    settings = {"gamma": 1.0, "episodes": 2, "generator": rng(), "step_size": step_size}
    env = Scripted(TWICE, ONCE, S=3)
    report = last(monte_carlo_exploring_starts(env, np.array([0]), **settings))
    assert report.Q[:, 0].tolist() == expected
    assert report.counts[:, 0].tolist() == [2, 1, 0]


class Pairs(gym.Wrapper):
    """Keeps the (state, action) pairs of each episode."""

    def reset(self, **options):
        self.state, info = self.env.reset(**options)
        self.episodes = [*getattr(self, "episodes", []), []]
        return self.state, info

    def step(self, action):
        self.episodes[-1].append((self.state, action))
        self.state, *rest = self.env.step(action)
        return self.state, *rest


def test_every_pair_is_started_in_and_the_rest_is_greedy():
    # Corridor S..G: once right is known to be best, only first actions go elsewhere. Of 300 late
    # episodes 25 begin with each pair of 3 states and 4 actions, give or take 4.8: none of the 12
    # is below 5 but for a probability of 12 · 3e-7.
    env = Pairs(GridWorld("S..G"))
    settings = {"gamma": 1.0, "episodes": 600, "generator": rng(2), "horizon": 30}
    Q = last(monte_carlo_exploring_starts(env, np.arange(3), **settings)).Q
    assert Q[:3].argmax(axis=1).tolist() == [1, 1, 1]
    late = env.episodes[300:]
    begun = np.zeros((4, 4), int)
    np.add.at(begun, tuple(np.array([episode[0] for episode in late]).T), 1)
    assert (begun[:3] >= 5).all()
    assert begun[3].sum() == 0
    assert all(action == 1 for episode in late for _, action in episode[1:])


def test_exploring_starts_find_the_optimal_policy():
    # All 20 trial seeds found an optimal action in every state.
    env = GridWorld("S..\n.#.\n..G")
    mdp = env.mdp()
    starts = np.flatnonzero(~mdp.terminal)
    settings = {"gamma": GAMMA, "episodes": 600, "generator": rng(0), "horizon": 50}
    Q = last(monte_carlo_exploring_starts(env, starts, step_size=0.2, **settings)).Q
    best = optimal_actions(value_iteration(mdp, gamma=GAMMA).Q)
    assert best[starts, Q[starts].argmax(axis=1)].all()


def test_a_greedy_policy_that_never_ends_is_refused():
    # In a corridor most moves bump into a wall. Rewards are -1, so an action never tried (0)
    # looks best: soon one such bump is the only best action of a state, and greedy for ever.
    settings = {"gamma": 1.0, "episodes": 200, "generator": rng(0)}
    starts = np.arange(5)
    with pytest.raises(ValueError, match=r"was cut after 10000 steps.*use a horizon= that ends"):
        list(monte_carlo_exploring_starts(GridWorld("S....G"), starts, **settings))
    # With a horizon the loops cost 20, and 10 of 10 trial seeds end with the right policy.
    env = GridWorld("S....G")
    reports = list(monte_carlo_exploring_starts(env, starts, horizon=20, **settings))
    assert min(report.episode_return for report in reports) == -20.0
    assert reports[-1].Q[starts].argmax(axis=1).tolist() == [1] * 5


def test_a_horizon_ends_the_task():
    # reward 1 a step: three steps are worth 1 + 0.5 + 0.25
    settings = {"gamma": 0.5, "episodes": 4, "generator": rng(), "horizon": 3}
    report = last(monte_carlo_exploring_starts(Ticking(A=1), np.array([0]), **settings))
    assert report.Q.tolist() == [[1.75]]
    assert (report.episode, report.episode_return) == (3, 3.0)


@pytest.mark.parametrize(
    ("env", "change", "message"),
    [
        (Ticking(), {}, "episode 0 was cut after 5 steps"),
        (Ticking(), {"horizon": 7}, "episode 0 was cut after 5 steps"),
        (Ticking(), {"horizon": 0}, "horizon=0 must be at least 1"),
        (Ticking(), {"gamma": 1.5}, "gamma=1.5"),
        (Ticking(), {"step_size": 0.0}, "0.0"),
        (Scripted(ONCE, S=3), {"starts": np.array([2])}, "Scripted began in state 0, not in 2"),
        (GridWorld("S.G"), {"starts": np.array([2])}, "cannot start in state 2"),
        (Ticking(), {"starts": np.array([], int)}, "starts is empty"),
    ],
)
def test_exploring_starts_name_bad_input(env, change, message):
    settings = {"starts": np.array([0]), "gamma": 0.9, "episodes": 1, "generator": rng()} | change
    with pytest.raises(ValueError, match=message):
        list(monte_carlo_exploring_starts(env, **settings))


# --- arguments ----------------------------------------------------------------------------------


def test_the_seed_decides_everything():
    def run(seed: int):
        settings = {"gamma": 0.9, "epsilon": lambda k: 1.0 / (1 + k), "episodes": 20}
        return last(monte_carlo_control(Sampled(layered_mdp()), generator=rng(seed), **settings)).Q

    assert np.array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))


@pytest.mark.parametrize(
    "learn",
    [
        lambda env, pi, **more: monte_carlo_prediction(env, pi, **more),
        lambda env, pi, **more: off_policy_prediction(env, pi, pi, **more),
        lambda env, pi, **more: monte_carlo_control(env, epsilon=0.5, **more),
    ],
)
def test_a_cut_episode_has_no_return(learn):
    with pytest.raises(ValueError, match="episode 0 was cut after 5 steps"):
        list(learn(Ticking(), np.full((1, 2), 0.5), gamma=0.9, episodes=1, generator=rng()))


def test_uncovered_actions_are_named():
    behaviour = np.array([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]])
    settings = {"gamma": 1.0, "episodes": 1, "generator": rng()}
    env = Scripted(TWICE, S=3, A=2)
    with pytest.raises(ValueError, match="never takes action 1 in state 1"):
        list(off_policy_prediction(env, np.full((3, 2), 0.5), behaviour, **settings))
    assert env.actions == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 1.5}, "epsilon=1.5"),
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"step_size": 0.0}, "0.0"),
        ({"step_size": 2.0}, "2.0"),
    ],
)
def test_control_names_bad_input(change, message):
    settings = {"gamma": 0.9, "epsilon": 0.1, "episodes": 1, "generator": rng()} | change
    with pytest.raises(ValueError, match=message):
        list(monte_carlo_control(Scripted(ONCE, S=3), **settings))


def test_control_needs_discrete_spaces():
    env = Scripted(ONCE, S=3)
    env.observation_space = spaces.Box(0.0, 1.0)
    with pytest.raises(ValueError, match=r"observation space is Box.*NumberedObservations"):
        list(monte_carlo_control(env, gamma=0.9, epsilon=0.1, episodes=1, generator=rng()))

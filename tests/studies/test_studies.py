"""What the studies measure: their parts by hand, and the published figures in the recorded runs.

The tolerances on recorded runs allow for their own chance (95% intervals are narrower) and for
reading numbers off printed figures, to about 0.02 of a unit.
"""

import functools
from pathlib import Path

import numpy as np
import pytest

from rlbook.statistics import mean_interval, paired_interval
from rlbook.studies import (
    cliff,
    maximisation_bias,
    random_walk,
    recorded,
    runner,
    testbed,
    testbed_sweep,
)
from rlbook.tabular.bandits import UCB, EpsilonGreedy, GradientBandit, ThompsonGaussian

STUDIES = {
    "testbed": (testbed, {"runs": 3, "pulls": 50, "windows": [0, 10, 50]}),
    "testbed-sweep": (testbed_sweep, {"runs": 2, "pulls": 20}),
    "random-walk": (random_walk, {"repetitions": 1, "ns": [1, 512], "alphas": [0.1]}),
    "cliff": (cliff, {"alphas": [0.5], "episodes": 60, "ends": 20}),
    "maximisation-bias": (maximisation_bias, {"runs": 2}),
}


@functools.cache
def load(name: str) -> recorded.Run:
    return recorded.load_run(name, folder=Path(__file__).resolve().parents[2] / "data" / "runs")


def means(name: str, measure: str) -> dict[str, np.ndarray]:
    return {arm: curve.mean(axis=0) for arm, curve in load(name).curves(measure).items()}


@pytest.fixture
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """A study's module with smaller settings."""
    module, changes = STUDIES[request.param]
    for key, value in changes.items():
        monkeypatch.setitem(module.SETTINGS, key, value)
    return module


@pytest.mark.parametrize("small", STUDIES, indirect=True)
def test_a_seed_decides_everything(small) -> None:
    first = runner.checked(small.run(3))
    assert first == runner.checked(small.run(3))
    assert first != runner.checked(small.run(4))


@pytest.mark.parametrize("name", STUDIES)
def test_curves_are_as_long_as_their_positions(name: str) -> None:
    run = load(name)
    settings, measures = run.settings, run.measures
    expected = {
        "testbed": {"reward": "x", "optimal": "x", "regret": "x", "shifted optimal": "x"},
        "cliff": {"return": "x", "first 100": "alphas", "last 100": "alphas"},
        "maximisation-bias": {"left": "x", "value": "x"},
        "random-walk": {"19 states": "alphas", "5 states": "episodes"},
        "testbed-sweep": {},
    }[name]
    for measure, key in expected.items():
        for arm in measures[measure]:
            assert run.curves(measure)[arm].shape[1] == len(settings[key]), (measure, arm)
    if name == "testbed-sweep":
        for arm, curve in run.curves("reward").items():
            assert curve.shape[1] == len(settings["x"][arm])


# --- testbed ---------------------------------------------------------------------------------


def test_windows_average_their_pulls() -> None:
    pulls = np.arange(1.0, 1001.0)  # pull t pays t, so the mean of a window is its middle
    assert testbed.windowed(pulls).tolist() == testbed.SETTINGS["x"]
    assert testbed.SETTINGS["x"][:3] == [1.0, 2.0, 3.0]
    assert testbed.SETTINGS["x"][20] == (21 + 25) / 2 and testbed.SETTINGS["x"][-1] == 990.5


def test_settings_name_their_agents() -> None:
    kinds = {name: type(testbed.agent(2, 3, o)) for name, o in testbed.SETTINGS["agents"].items()}
    assert list(kinds.values()) == [
        *[EpsilonGreedy] * 5, UCB, ThompsonGaussian, GradientBandit, GradientBandit,
    ]  # fmt: skip
    decaying = testbed.agent(2, 3, {"decay": 10.0})
    assert [decaying.epsilon(t) for t in (0, 9, 19, 999)] == [1.0, 1.0, 0.5, 0.01]
    plain = testbed.agent(2, 3, testbed.SETTINGS["agents"]["gradient, no baseline"])
    assert plain.baseline is False


def test_the_testbed_shows_figures_2_2_to_2_4() -> None:
    """Figure 2.2: greedy levels off at about 1, ε = 0.1 finds the best arm in about 80% of
    pulls, ε = 0.01 is still climbing. Figure 2.3: the optimistic start tries every arm once and
    spikes at pull 11. Figure 2.4: UCB's reward spikes there too."""
    reward, optimal = means("testbed", "reward"), means("testbed", "optimal")
    assert reward["ε = 0"][-1] == pytest.approx(1.0, abs=0.06)
    assert reward["ε = 0.1"][-1] == pytest.approx(1.35, abs=0.06)
    assert optimal["ε = 0.1"][-1] == pytest.approx(0.80, abs=0.03)
    assert optimal["ε = 0"][-1] == pytest.approx(0.35, abs=0.04)
    assert optimal["optimistic, Q₁ = 5"][-1] == pytest.approx(0.85, abs=0.03)
    x = load("testbed").settings["x"]
    for curve in (optimal["optimistic, Q₁ = 5"], reward["UCB, c = 2"]):
        spike = x.index(11.0)
        assert curve[spike] > curve[spike - 1] + 0.2 and curve[spike] > curve[spike + 1] + 0.1
    assert all(curve[0] == pytest.approx(0.1, abs=0.02) for curve in optimal.values())  # 1 of 10


def test_gradient_bandits_show_figure_2_5() -> None:
    """With means around +4 a baseline is worth much: about 0.84 and 0.70 against 0.47 and 0.28."""
    last = {arm: curve[-1] for arm, curve in means("testbed", "shifted optimal").items()}
    published = {"α = 0.1": 0.84, "α = 0.4": 0.72}
    published |= {"α = 0.1, no baseline": 0.46, "α = 0.4, no baseline": 0.28}
    assert last == {arm: pytest.approx(value, abs=0.05) for arm, value in published.items()}


def test_regret_and_reward_agree() -> None:
    """Reward + regret = 1,000 · the mean of the best arm, for every algorithm but for the noise of
    1,000 rewards: its mean over 2,000 bandits has standard deviation √(1,000 / 2,000) = 0.7."""
    run = load("testbed")
    rewards, regrets = run.curves("total reward"), run.curves("total regret")
    sums = [np.mean(rewards[arm] + regrets[arm]) for arm in rewards]
    assert max(sums) - min(sums) < 5.0  # 9 sums, 0.7 each: the chance is below 1e-4
    # The best of ten N(0, 1) numbers is 1.5388 on average, with standard deviation 0.587.
    assert np.mean(sums) / 1000 == pytest.approx(1.5388, abs=5 * 0.587 / 2_000**0.5)


def test_the_sweep_shows_figure_2_6() -> None:
    """Each curve is an inverted U, and UCB's is the highest: about 1.47 between c = 1/2 and 1."""
    run = load("testbed-sweep")
    best = {}
    for arm, curve in means("testbed-sweep", "reward").items():
        assert 0 < curve.argmax() < len(curve) - 1, arm
        best[arm] = (run.settings["x"][arm][curve.argmax()], curve.max())
    assert max(best, key=lambda arm: best[arm][1]) == "UCB, c"
    assert best["UCB, c"][1] == pytest.approx(1.47, abs=0.06)


# --- random walk -----------------------------------------------------------------------------


def test_true_values_lie_on_a_line() -> None:
    stream = np.random.SeedSequence(0)
    walks, guess, truth = random_walk.walked(random_walk.SETTINGS["long"], stream)
    assert truth[1:-1] == pytest.approx(np.arange(-9, 10) / 10, abs=1e-12)
    assert (truth[0], truth[-1], guess.any(), len(walks)) == (0.0, 0.0, False, 10)
    assert all(walk.states[0] == 10 and walk.terminated for walk in walks)  # from the middle
    assert all(walk.rewards[-1] == (1.0 if walk.states[-1] == 20 else -1.0) for walk in walks)
    walks, guess, truth = random_walk.walked(random_walk.SETTINGS["short"], stream)
    assert truth[1:-1] == pytest.approx(np.arange(1, 6) / 6, abs=1e-12)
    assert guess.tolist() == [0.0, *[0.5] * 5, 0.0]
    assert len(walks) == 100 and {float(walk.rewards[-1]) for walk in walks} == {0.0, 1.0}


def test_replayed_walks_are_the_recorded_ones() -> None:
    from rlbook.tabular.episodes import sample_episode

    walks, guess, _ = random_walk.walked(random_walk.SETTINGS["long"], np.random.SeedSequence(1))
    env = random_walk.Replay(walks, len(guess))
    for walk in walks:
        seen = sample_episode(env, np.ones((21, 1)), generator=np.random.default_rng(0))
        assert seen.states.tolist() == walk.states.tolist()
        assert seen.rewards.tolist() == walk.rewards.tolist()
        assert seen.terminated and not seen.truncated


def test_an_error_by_hand() -> None:
    V, truth = np.array([9.0, 1.0, 2.0, 9.0]), np.array([0.0, 1.0, 5.0, 0.0])
    assert random_walk.rms_error(V, truth) == pytest.approx((9.0 / 2.0) ** 0.5)
    short = random_walk.short_walk(np.random.SeedSequence(0))
    # Before learning: differences of -2/6, -1/6, 0, 1/6, 2/6, so √(10/36/5) = 0.2357.
    assert all(curve[0] == pytest.approx((10 / 180) ** 0.5) for curve in short.values())


def test_n_beyond_the_end_of_every_episode_is_monte_carlo() -> None:
    """n = 512 against every-visit Monte Carlo with a constant step, on walks that are shorter."""
    from rlbook.tabular.monte_carlo import monte_carlo_prediction
    from rlbook.tabular.td import n_step_td

    walks, guess, _ = random_walk.walked(random_walk.SETTINGS["long"], np.random.SeedSequence(5))
    assert max(len(walk) for walk in walks) < 512
    *_, by_steps = n_step_td(**random_walk.replayed(walks, guess), n=512, alpha=0.3)
    *_, by_returns = monte_carlo_prediction(
        **random_walk.replayed(walks, guess), step_size=0.3, every_visit=True
    )
    # An n-step target is summed from the back each time: equal up to rounding.
    assert by_steps.V == pytest.approx(by_returns.V, abs=1e-12)


def test_intermediate_n_is_best_as_in_figure_7_2() -> None:
    """The lowest point of the figure: n = 4 near α = 0.4, at an error of about 0.25 to 0.27. The
    mean over 100 repetitions has a 95% interval of ±0.016."""
    alphas = np.array(load("random-walk").settings["alphas"])
    curves = means("random-walk", "19 states")
    lowest = {arm: curve.min() for arm, curve in curves.items()}
    assert min(lowest, key=lowest.get) == "n = 4"
    assert lowest["n = 4"] == pytest.approx(0.265, abs=0.02)
    assert alphas[curves["n = 4"].argmin()] == pytest.approx(0.4, abs=0.11)
    best_alphas = [alphas[curve.argmin()] for curve in curves.values()]
    assert best_alphas == sorted(best_alphas, reverse=True)  # the longer, the smaller the step
    assert lowest["n = 1"] > lowest["n = 4"] + 0.04
    assert lowest["n = 512"] > lowest["n = 4"] + 0.15


def test_td_beats_monte_carlo_as_in_example_6_2() -> None:
    curves = means("random-walk", "5 states")
    td = {arm: curve for arm, curve in curves.items() if arm.startswith("TD")}
    mc = {arm: curve for arm, curve in curves.items() if arm.startswith("MC")}
    assert len(td) == 3 and len(mc) == 4
    assert max(curve.min() for curve in td.values()) < min(curve.min() for curve in mc.values())
    assert td["TD, α = 0.05"][-1] < td["TD, α = 0.1"][-1] < td["TD, α = 0.15"][-1]
    assert (
        td["TD, α = 0.05"][10] > td["TD, α = 0.1"][10] > td["TD, α = 0.15"][10]
    )  # early: reversed


# --- cliff -----------------------------------------------------------------------------------


def test_a_greedy_walk_is_rewarded_step_by_step() -> None:
    import gymnasium as gym

    env = gym.make("CliffWalking-v1").unwrapped
    Q = np.zeros((48, 4))
    Q[36, 0] = 1.0  # up from the start; right along the edge; down into the goal
    Q[24:35, 1] = 1.0
    Q[35, 2] = 1.0
    assert cliff.greedy_return(env, Q, seed=0) == -13.0
    Q[25] = [0.0, 0.0, 0.0, 1.0]  # and back: round in a circle, cut after 200 steps
    assert cliff.greedy_return(env, Q, seed=0) == -200.0


def test_sarsa_walks_safely_and_q_learning_on_the_edge_as_in_example_6_6() -> None:
    """Late in learning SARSA earns about -25 online and Q-learning about -50; yet the greedy path
    of Q-learning is the shortest one in most seeds."""
    run = load("cliff")
    late = {arm: curve[:, -20:].mean(axis=1) for arm, curve in run.curves("return").items()}
    assert late["SARSA"].mean() == pytest.approx(-25.0, abs=6.0)
    assert late["Q-learning"].mean() == pytest.approx(-50.0, abs=6.0)
    assert paired_interval(late["SARSA"], late["Q-learning"]).low > 10.0
    assert paired_interval(late["expected SARSA"], late["SARSA"]).low > 0.0
    greedy = run.curves("greedy return")
    assert (greedy["Q-learning"] == -13.0).mean() > 0.9
    assert (greedy["SARSA"] == -13.0).mean() < 0.1


def test_expected_sarsa_bears_large_steps_as_in_figure_6_3() -> None:
    curves, x = means("cliff", "last 100"), load("cliff").settings["alphas"]
    assert abs(curves["expected SARSA"][x.index(1.0)] - curves["expected SARSA"][0]) < 4.0
    assert curves["SARSA"][x.index(1.0)] < curves["SARSA"][0] - 20.0
    interim = means("cliff", "first 100")
    for i in range(len(x)):
        assert interim["expected SARSA"][i] > interim["Q-learning"][i]


# --- maximisation bias -----------------------------------------------------------------------


def test_q_learning_goes_left_too_often_as_in_figure_6_5() -> None:
    """Q-learning goes left in most of the early episodes (at most 1 - ε/2 = 95% can) and still too
    often after 300; double Q-learning falls from the first to little more than ε/2 = 5%."""
    left = means("maximisation-bias", "left")
    assert 0.75 < left["Q-learning"].max() < 0.95
    assert left["Q-learning"][-1] > 0.09
    assert left["double Q-learning"].max() < 0.65
    assert left["double Q-learning"][-1] == pytest.approx(0.06, abs=0.02)
    for curve in left.values():
        assert curve[0] == pytest.approx(0.53, abs=0.06)  # a coin at first
    value = mean_interval(load("maximisation-bias").curves("value")["Q-learning"])
    assert value.low.max() > 0.0  # the bias: left is worth -0.1

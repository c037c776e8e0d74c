"""Bandits: each agent by hand, the ten-armed testbed, and how regret grows."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import softmax

from rlbook.tabular.bandits import (
    UCB,
    Bandit,
    EpsilonGreedy,
    GradientBandit,
    ThompsonBeta,
    ThompsonGaussian,
    argmax_random_ties,
    gaussian_testbed,
    play,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def feed(agent, *pulls: tuple[int, float]):
    """Let an agent with one run learn from (arm, reward)."""
    for arm, reward in pulls:
        agent.learn(np.array([arm]), np.array([reward]))
    return agent


# --- by hand ------------------------------------------------------------------------------------


def test_averages_by_hand():
    agent = feed(EpsilonGreedy(1, 3, epsilon=0.0), (1, 2.0), (1, 4.0), (1, 9.0), (0, -1.0))
    assert agent.Q.tolist() == [[-1.0, (2 + 4 + 9) / 3, 0.0]]
    assert agent.counts.tolist() == [[1.0, 3.0, 0.0]]
    assert agent.choose(rng()).tolist() == [1]


def test_a_constant_step_size_by_hand():
    # 5 + 0.5 (1 - 5) = 3;  3 + 0.5 (2 - 3) = 2.5
    agent = EpsilonGreedy(1, 2, epsilon=0.0, initial=5.0, step_size=0.5)
    assert feed(agent, (0, 1.0), (0, 2.0)).Q.tolist() == [[2.5, 5.0]]
    assert agent.choose(rng()).tolist() == [1]


def test_runs_do_not_mix():
    agent = EpsilonGreedy(3, 2, epsilon=0.0)
    agent.learn(np.array([0, 1, 0]), np.array([1.0, 2.0, 3.0]))
    assert agent.Q.tolist() == [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]


def test_exploration_by_hand():
    # ε = 0.4 over 4 arms: the best has 0.6 + 0.1, the others 0.1. With 20,000 runs 5 standard
    # deviations of a count are below 5 √(20,000 · 0.21) = 324 (failure below 3e-6 in all).
    agent = EpsilonGreedy(20_000, 4, epsilon=lambda t: 0.4 if t == 0 else 0.0)
    agent.Q[:, 2] = 1.0
    counts = np.bincount(agent.choose(rng()), minlength=4)
    assert np.abs(counts - [2000, 2000, 14_000, 2000]).max() < 324
    assert (agent.choose(rng()) == 2).all()  # the schedule has come to 0


def test_ties_are_broken_evenly():
    # counts of 10,000 each: 5 standard deviations are 5 √(20,000 / 4) = 354 (below 1e-6)
    arms = argmax_random_ties(np.tile([1.0, 3.0, 3.0], (20_000, 1)), rng())
    counts = np.bincount(arms, minlength=3)
    assert counts[0] == 0
    assert abs(counts[1] - 10_000) < 354


def test_ucb_by_hand():
    agent = UCB(1, 3, c=1.0)
    feed(agent, (0, 0.9), (2, 0.1))
    assert agent.choose(rng()).tolist() == [1]  # the arm never pulled
    feed(agent, (1, 0.5), (0, 0.9))
    # ln 4 = 1.386: 0.9 + √0.693 = 1.733;  0.5 + √1.386 = 1.677;  0.1 + 1.177 = 1.277
    assert agent.choose(rng()).tolist() == [0]
    feed(agent, (0, 0.9))
    # ln 5 = 1.609: 0.9 + √0.536 = 1.632;  0.5 + √1.609 = 1.769
    assert agent.choose(rng()).tolist() == [1]
    agent.c = 0.0
    assert agent.choose(rng()).tolist() == [0]


def test_thompson_beta_by_hand():
    agent = feed(ThompsonBeta(1, 2), (0, 1.0), (0, 1.0), (0, 0.0), (1, 0.0))
    assert agent.successes.tolist() == [[1 + 2, 1 + 0]]
    assert agent.failures.tolist() == [[1 + 1, 1 + 1]]
    # With Beta(1, 1) against Beta(2, 1): P(θ₁ > θ₂) = ∫ 2x (1 - x) dx = 1/3. Of 9,000 draws
    # 3,000 are expected; 5 standard deviations are 5 √2,000 = 224 (below 1e-6).
    agent = ThompsonBeta(9000, 2)
    agent.learn(np.ones(9000, int), np.ones(9000))
    assert abs((agent.choose(rng()) == 0).sum() - 3000) < 224


def test_thompson_gaussian_by_hand():
    # Prior N(0, 2²), noise 0.5: precision 1/4 + 2/0.25 = 8.25, mean (4·(1 + 2)) / 8.25
    agent = feed(ThompsonGaussian(1, 2, prior=2.0, noise=0.5), (0, 1.0), (0, 2.0))
    assert agent.precision.tolist() == [[8.25, 0.25]]
    assert (agent.weighted_sum / agent.precision)[0, 0] == pytest.approx(12 / 8.25, abs=1e-12)
    # Arm 0 ~ N(1, 1/2) against arm 1 ~ N(0, 1): the difference is N(1, 3/2), and arm 0 wins with
    # probability Φ(1/√1.5) = 0.79289. 5 standard deviations of 9,000: 192 (below 1e-6).
    agent = ThompsonGaussian(9000, 2)
    agent.learn(np.zeros(9000, int), np.full(9000, 2.0))
    assert abs((agent.choose(rng()) == 0).sum() - 9000 * 0.79289) < 192


def test_gradient_bandit_by_hand():
    # π = [1/2, 1/2]. The first reward is its own baseline. Then 0.5 (5 - 1) [1 - 1/2, -1/2].
    agent = feed(GradientBandit(1, 2, alpha=0.5), (1, 1.0))
    assert agent.H.tolist() == [[0.0, 0.0]]
    assert feed(agent, (0, 5.0)).H.tolist() == [[1.0, -1.0]]
    assert agent.mean_reward.tolist() == [3.0]
    # without a baseline the first reward counts in full: 0.5·1·[-1/2, 1/2]
    agent = feed(GradientBandit(1, 2, alpha=0.5, baseline=False), (1, 1.0))
    assert agent.H.tolist() == [[-0.25, 0.25]]


@pytest.mark.parametrize("baseline", [False, True])
def test_gradient_bandits_expected_step_is_the_gradient(baseline):
    H, means = np.array([0.3, -1.0, 0.8, 0.0]), np.array([1.0, 2.0, -0.5, 4.0])
    expected = np.zeros(4)
    for arm, chance in enumerate(softmax(H)):
        agent = GradientBandit(1, 4, alpha=0.1, baseline=baseline)
        agent.H[:], agent.mean_reward[:], agent.pulls = H, 3.7, 5
        expected += chance * (feed(agent, (arm, means[arm])).H[0] - H) / 0.1
    slope = approx_fprime(H, lambda H: softmax(H) @ means, 1e-7)
    assert expected == pytest.approx(slope, abs=1e-5)  # the slope is a finite difference
    assert np.abs(slope).max() > 0.1


def test_gradient_bandit_draws_its_policy():
    agent = GradientBandit(20_000, 3, alpha=0.1)
    agent.H[:] = np.log([0.5, 0.3, 0.2]) + 700.0  # a shift changes nothing, and must not overflow
    counts = np.bincount(agent.choose(rng()), minlength=3)
    assert np.abs(counts - [10_000, 6000, 4000]).max() < 354  # 5 standard deviations, below 2e-6


# --- bandits and play ---------------------------------------------------------------------------


def test_pulls_have_the_mean_and_the_noise_asked_for():
    # 40,000 rewards: 5 standard errors of a mean are 5·2/200 = 0.05, of a standard deviation
    # 5·2/√80,000 = 0.036; of a frequency 0.3 5 √0.21/200 = 0.0115. Each fails below 1e-6.
    arms = np.ones(40_000, int)
    rewards = Bandit(np.tile([0.0, 3.0], (40_000, 1)), noise=2.0).pull(arms, rng())
    assert abs(rewards.mean() - 3.0) < 0.05
    assert abs(rewards.std() - 2.0) < 0.036
    wins = Bandit(np.tile([0.0, 0.3], (40_000, 1)), noise=None).pull(arms, rng())
    assert set(wins) == {0.0, 1.0}
    assert abs(wins.mean() - 0.3) < 0.0115
    assert Bandit([[1.0, 5.0]], noise=0.0).pull(np.array([1]), rng()).tolist() == [5.0]


class Always:
    def __init__(self, *arms: int) -> None:
        self.arms = np.array(arms)

    def choose(self, generator):
        return self.arms

    def learn(self, arms, rewards):
        self.rewards = rewards


def test_play_by_hand():
    # gaps: 5 - 2 = 3 in the first run, 0 in the second (two best arms): 1.5 a pull on average
    bandit = Bandit([[2.0, 5.0], [4.0, 4.0]], noise=0.0)
    agent = Always(0, 1)
    record = play(bandit, agent, pulls=3, generator=rng())
    assert record.reward.tolist() == [3.0, 3.0, 3.0]
    assert record.optimal.tolist() == [0.5, 0.5, 0.5]
    assert record.regret.tolist() == [1.5, 3.0, 4.5]
    assert agent.rewards.tolist() == [2.0, 4.0]


def test_the_ten_armed_testbed():
    # Mean reward of pulls 901 to 1000. Each mean of 2,000 runs varies with a standard deviation
    # of about 0.016 (best arm's mean 1.54, spread 0.59 over √2,000 alone is 0.013): 0.08 is 5 of
    # them. The smallest gap, ε = 0.01 to 0.1, is 0.05 with a standard deviation of about 0.008
    # between agents on the same bandits; each failure is below 1e-6, and the seed is fixed.
    runs = 2000
    bandit = gaussian_testbed(runs, 10, generator=rng(0))
    agents = [EpsilonGreedy(runs, 10, epsilon=e) for e in (0.0, 0.01, 0.1)]
    agents.append(UCB(runs, 10, c=2.0))
    records = [play(bandit, agent, pulls=1000, generator=rng(1)) for agent in agents]
    rewards = np.array([record.reward[-100:].mean() for record in records])
    assert (np.diff(rewards) > 0.0).all()
    assert rewards == pytest.approx([1.04, 1.32, 1.37, 1.49], abs=0.08)
    assert records[0].optimal[-1] < 0.5 < records[3].optimal[-1]


def test_regret_grows_like_a_logarithm_or_like_a_line():
    # From 1,000 to 2,000 pulls a line doubles, and a logarithm grows by ln 2000 / ln 1000 = 1.10.
    # In trials of 300 runs: greedy 1.998 to 1.999, UCB 1.23 to 1.26, Thompson 1.12 to 1.13.
    runs = 300
    bandit = Bandit(np.tile([0.3, 0.7], (runs, 1)), noise=None)

    def growth(agent) -> float:
        regret = play(bandit, agent, pulls=2000, generator=rng(2)).regret
        return regret[1999] / regret[999]

    assert growth(EpsilonGreedy(runs, 2, epsilon=0.0)) > 1.9
    assert growth(UCB(runs, 2)) < 1.45
    assert growth(ThompsonBeta(runs, 2)) < 1.3


def test_the_seed_decides_everything():
    bandit = gaussian_testbed(20, 5, generator=rng(0))
    for make in (
        lambda: EpsilonGreedy(20, 5, epsilon=0.1),
        lambda: UCB(20, 5),
        lambda: ThompsonGaussian(20, 5),
        lambda: GradientBandit(20, 5, alpha=0.1),
    ):
        runs = [play(bandit, make(), pulls=30, generator=rng(s)).reward for s in (1, 1, 2)]
        assert np.array_equal(runs[0], runs[1])
        assert not np.array_equal(runs[0], runs[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bandit([[0.0, np.nan]]), "finite"),
        (lambda: Bandit([0.0, 1.0]), r"shape \[N, A\]"),
        (lambda: Bandit([[0.0, 1.2]], noise=None), "probabilities"),
        (lambda: Bandit([[0.0, 1.2]], noise=-1.0), "noise=-1.0"),
        (lambda: EpsilonGreedy(1, 2, epsilon=1.5).choose(rng()), "epsilon=1.5 at pull 0"),
        (lambda: EpsilonGreedy(1, 2, epsilon=0.1, step_size=0.0), "step_size=0.0"),
        (lambda: UCB(1, 2, c=-1.0), "c=-1.0"),
        (lambda: feed(ThompsonBeta(1, 2), (0, 0.5)), "rewards 0 or 1"),
        (lambda: ThompsonGaussian(1, 2, noise=0.0), "noise=0.0"),
        (lambda: GradientBandit(1, 2, alpha=0.0), "alpha=0.0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()

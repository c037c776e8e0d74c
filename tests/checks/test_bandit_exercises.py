"""The exercises of chapter 01: hand cases, and the package gives the same numbers."""

import numpy as np
import pytest

from rlbook.checks.bandits import EXERCISES
from rlbook.checks.harness import SEED
from rlbook.tabular.bandits import (
    UCB,
    Bandit,
    EpsilonGreedy,
    GradientBandit,
    ThompsonBeta,
    play,
)

HAND_CASES = {
    "update_estimates": [1.0, 2.5, 0.0],
    "cumulative_regret": [2.0, 5.0, 5.0],
    "ucb_scores": [1.0 + np.log(4.0) ** 0.5, 0.5 + (np.log(4.0) / 3.0) ** 0.5, np.inf],
    "beta_posterior": [[2.0, 1.0], [2.0, 3.0], [1.0, 1.0]],
    "gradient_step": [1.0, -1.0],
    "reward_gradient": [-0.5, 0.5],
}


def cases_of(name: str) -> list[dict]:
    return EXERCISES[name].cases(np.random.default_rng(SEED))


def test_every_exercise_has_a_hand_case() -> None:
    assert HAND_CASES.keys() == EXERCISES.keys()


@pytest.mark.parametrize("name", HAND_CASES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    """The arithmetic stands beside each case, in the chapter's module."""
    got = EXERCISES[name].reference(**cases_of(name)[0])
    np.testing.assert_allclose(got, HAND_CASES[name], atol=1e-12)


# The package's agents share no line with the references.


@pytest.mark.parametrize("case", cases_of("update_estimates"))
def test_estimates_are_the_packages(case: dict) -> None:
    agent = EpsilonGreedy(1, len(case["Q"]), epsilon=0.0)
    agent.Q[0], agent.counts[0] = case["Q"], case["counts"]
    agent.learn(np.array([case["arm"]]), np.array([case["reward"]]))
    expected = EXERCISES["update_estimates"].reference(**case)
    np.testing.assert_allclose(agent.Q[0], expected, atol=1e-12)


@pytest.mark.parametrize("case", cases_of("ucb_scores"))
def test_the_largest_score_is_the_packages_choice(case: dict) -> None:
    agent = UCB(1, len(case["Q"]), c=case["c"])
    agent.Q[0], agent.counts[0] = case["Q"], case["counts"]
    scores = EXERCISES["ucb_scores"].reference(**case)
    chosen = agent.choose(np.random.default_rng(0))[0]
    assert scores[chosen] == scores.max()


@pytest.mark.parametrize("case", cases_of("beta_posterior"))
def test_posteriors_are_the_packages(case: dict) -> None:
    agent = ThompsonBeta(1, case["A"])
    for arm, reward in zip(case["arms"], case["rewards"], strict=True):
        agent.learn(np.array([arm]), np.array([reward]))
    posterior = EXERCISES["beta_posterior"].reference(**case)
    assert posterior.tolist() == np.stack([agent.successes[0], agent.failures[0]], axis=1).tolist()


@pytest.mark.parametrize("case", cases_of("gradient_step"))
def test_steps_are_the_packages(case: dict) -> None:
    agent = GradientBandit(1, len(case["H"]), alpha=case["alpha"])
    agent.H[0], agent.mean_reward[0], agent.pulls = case["H"], case["baseline"], 3
    agent.learn(np.array([case["arm"]]), np.array([case["reward"]]))
    expected = EXERCISES["gradient_step"].reference(**case)
    np.testing.assert_allclose(agent.H[0], expected, atol=1e-12)


@pytest.mark.parametrize("case", cases_of("cumulative_regret"))
def test_regrets_are_the_packages(case: dict) -> None:
    class Scripted:
        def __init__(self) -> None:
            self.arms = iter(case["arms"])

        def choose(self, generator: np.random.Generator) -> np.ndarray:
            return np.array([next(self.arms)])

        def learn(self, arms: np.ndarray, rewards: np.ndarray) -> None: ...

    bandit = Bandit(case["means"][None])
    record = play(bandit, Scripted(), pulls=len(case["arms"]), generator=np.random.default_rng(0))
    expected = EXERCISES["cumulative_regret"].reference(**case)
    np.testing.assert_allclose(record.regret, expected, atol=1e-12)


@pytest.mark.parametrize("case", cases_of("reward_gradient"))
def test_the_gradient_is_the_slope_of_the_expected_reward(case: dict) -> None:
    from scipy.optimize import approx_fprime
    from scipy.special import softmax

    slope = approx_fprime(case["H"], lambda H: softmax(H) @ case["means"], 1e-7)
    gradient = EXERCISES["reward_gradient"].reference(**case)
    np.testing.assert_allclose(gradient, slope, atol=1e-5)  # a finite difference

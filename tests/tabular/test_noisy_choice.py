"""The noisy choice of example 6.7: its rules, and learners that respect what the fork offers."""

import numpy as np
import pytest
from scripted import Scripted

from rlbook.tabular.noisy_choice import ARMS, END, FORK, LEFT, RIGHT, NoisyChoice
from rlbook.tabular.td import double_q_learning, expected_sarsa, q_learning, sarsa

LEARNERS = [sarsa, expected_sarsa, q_learning, double_q_learning]


def test_right_ends_and_left_leads_to_the_arms() -> None:
    env = NoisyChoice(arms=4)
    assert env.reset(seed=0) == (FORK, {})
    assert env.step(RIGHT) == (END, 0.0, True, False, {})
    assert env.reset()[0] == FORK
    assert env.step(LEFT) == (ARMS, 0.0, False, False, {})
    state, _, terminated, truncated, _ = env.step(3)
    assert (state, terminated, truncated) == (END, True, False)


def test_every_arm_pays_the_same_mean_and_noise() -> None:
    """4,000 pulls of each of 3 arms: the mean is within 5 standard deviations of 2 / √4,000 =
    0.032 each, the spread within 5 of 2 / √8,000 = 0.022 (failure below 1e-5; fixed seed)."""
    env = NoisyChoice(3, mean=-1.0, noise=2.0)
    env.reset(seed=1)
    for arm in range(3):
        rewards = []
        for _ in range(4_000):
            env.reset()
            env.step(LEFT)
            rewards.append(env.step(arm)[1])
        assert np.mean(rewards) == pytest.approx(-1.0, abs=0.16)
        assert np.std(rewards) == pytest.approx(2.0, abs=0.11)


def test_the_same_seed_pays_the_same() -> None:
    def reward(seed: int) -> float:
        env = NoisyChoice()
        env.reset(seed=seed)
        env.step(LEFT)
        return env.step(0)[1]

    assert reward(3) == reward(3) != reward(4)


@pytest.mark.parametrize("learner", LEARNERS)
def test_learners_take_offered_actions_only(learner) -> None:
    """At ε = 1 the fork's two actions are drawn equally often: of 600 episodes 300 ± 5 · 12.2."""
    env = NoisyChoice()
    guess = env.first_guess()
    settings = {"gamma": 1.0, "alpha": 0.1, "epsilon": 1.0, "episodes": 600, "Q": guess}
    reports = [(r.steps, r.Q) for r in learner(env, **settings, generator=np.random.default_rng(0))]
    assert 300 - 61 < sum(steps == 2 for steps, _ in reports) < 300 + 61
    Q = reports[-1][1]
    assert np.array_equal(Q == -np.inf, guess == -np.inf)
    assert np.isfinite(Q[FORK, :2]).all() and (Q[ARMS] != 0.0).all()
    assert guess[FORK, LEFT] == 0.0  # the caller's table is left alone


def test_expected_sarsa_averages_over_what_is_offered() -> None:
    """Q(0, ·) moves to 1 + 0.5 · max + 0.5 · mean of [2, 4]: 1 + 0.5 · 4 + 0.5 · 3 = 4.5."""
    env = Scripted([(0, 1.0, 1, ""), (1, 0.0, 2, "terminated")], S=3, A=3)
    Q = np.array([[0.0, 0.0, 0.0], [2.0, 4.0, -np.inf], [0.0, 0.0, 0.0]])
    settings = {"gamma": 1.0, "alpha": 1.0, "epsilon": 0.5, "episodes": 1, "Q": Q}
    report = next(expected_sarsa(env, **settings, generator=np.random.default_rng(0)))
    assert report.Q[0, env.actions[0]] == 4.5


def test_an_action_that_is_not_offered_is_refused() -> None:
    env = NoisyChoice(arms=3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action 2 is not offered .* only 0 \(left\) and 1"):
        env.step(2)
    env.step(LEFT)
    with pytest.raises(ValueError, match=r"action 3 is not offered in state 1, only 0\.\.2"):
        env.step(3)
    env.step(2)
    with pytest.raises(ValueError, match=r"the episode is over: call reset\(\)"):
        env.step(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": 1}, "arms=1 must be at least 2"),
        ({"mean": float("nan")}, "mean=nan must be finite"),
        ({"noise": -1.0}, "noise=-1.0 finite and >= 0"),
    ],
)
def test_a_choice_that_is_none(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoisyChoice(**options)


@pytest.mark.parametrize(
    "Q", [np.full((3, 3), -np.inf), np.array([[0.0, np.inf, 0.0]] * 3), np.full((3, 3), np.nan)]
)
def test_a_state_offers_at_least_one_action(Q: np.ndarray) -> None:
    settings = {"gamma": 1.0, "alpha": 0.1, "epsilon": 0.1, "episodes": 1}
    with pytest.raises(ValueError, match="Q must hold finite numbers"):
        next(q_learning(NoisyChoice(3), **settings, generator=np.random.default_rng(0), Q=Q))

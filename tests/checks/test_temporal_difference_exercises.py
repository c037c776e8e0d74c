"""The exercises of chapter 05: their hand cases, and the same numbers from the package."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlbook.checks.harness import SEED, find
from rlbook.checks.temporal_difference import EXERCISES
from rlbook.show.temporal_difference import next_action_weights
from rlbook.tabular.td import q_learning

HAND_CASES = {
    "td_update": [4.5, 8.0, 10.0],
    "expected_sarsa_value": 7.0,
    "q_update": [[3.5, 0.0], [4.0, 8.0], [1.0, 6.0]],
    "double_q_update": [[3.0, 0.0], [4.0, 8.0]],
    "q_learning_loop": [[2.4375, 2.75], [0.0, 3.0], [8.0, 8.0]],
}


def cases_of(name: str) -> list[dict]:
    return find(name).cases(np.random.default_rng(SEED))


def test_every_exercise_has_a_hand_case() -> None:
    assert HAND_CASES.keys() == EXERCISES.keys()


@pytest.mark.parametrize("name", HAND_CASES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    """The arithmetic stands beside each case, in the chapter's module."""
    answer = find(name).reference(**cases_of(name)[0])
    np.testing.assert_allclose(answer, HAND_CASES[name], atol=1e-12)


@pytest.mark.parametrize("number", range(7))
def test_the_mended_loop_is_q_learning(number: int) -> None:
    """The package's learner, made to draw the actions of the case, ends with the same table."""
    case = cases_of("q_learning_loop")[number]
    actions = case["actions"].tolist()
    draws = iter(actions)

    class World(gym.Env):
        observation_space = spaces.Discrete(len(case["rewards"]))
        action_space = spaces.Discrete(case["rewards"].shape[1])

        def reset(self, *, seed=None, options=None):
            self.state, self.steps = case["start"], 0
            return self.state, {}

        def step(self, action):
            s_next, self.steps = int(case["next_state"][self.state, action]), self.steps + 1
            reward, self.state = float(case["rewards"][self.state, action]), s_next
            taken.append(action)
            return s_next, reward, s_next == case["goal"], self.steps == case["limit"], {}

    taken: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlbook.tabular.td.Explorer.draw", lambda self, row, epsilon: next(draws))
        run = q_learning(
            World(),
            gamma=case["gamma"],
            alpha=case["alpha"],
            epsilon=1.0,
            episodes=len(actions),
            generator=np.random.default_rng(0),
            Q=case["Q"],
        )
        tables = []
        try:
            for report in run:
                tables.append((len(taken), report.Q.copy()))
        except RuntimeError:  # the actions are used up: a generator turns StopIteration into this
            pass
    used, Q = tables[-1]  # after the last whole episode
    expected = find("q_learning_loop").reference(**{**case, "actions": case["actions"][:used]})
    assert used >= 4 and np.abs(Q - case["Q"]).max() > 0.0
    np.testing.assert_allclose(Q, expected, atol=1e-12)


def test_the_value_for_expected_sarsa_is_the_weighted_one_of_the_figure() -> None:
    for case in cases_of("expected_sarsa_value"):
        weights = next_action_weights(case["row"], taken=0, epsilon=case["epsilon"])
        value = find("expected_sarsa_value").reference(**case)
        assert value == pytest.approx(weights["expected SARSA"] @ case["row"], abs=1e-12)

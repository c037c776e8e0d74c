"""The exercises of chapter 04: the first case of each has an answer worked out by hand."""

import numpy as np
import pytest

from rlbook.checks.harness import SEED, find
from rlbook.tabular.episodes import sample_episode
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.monte_carlo import epsilon_greedy, off_policy_prediction
from rlbook.tabular.planning import value_iteration

# The arithmetic stands beside each case, in rlbook/checks/monte_carlo.py.
HALF_WIDTH = 1.96 * (20 / 3 / 4) ** 0.5
HAND_CASES = {
    "returns_to_go": [1.5, -3.0, 2.0],
    "first_visits": [0, 1, 3],
    "confidence_interval": [3.0 - HALF_WIDTH, 3.0 + HALF_WIDTH],
    "epsilon_greedy": [[0.1, 0.7, 0.1, 0.1], [0.4, 0.1, 0.4, 0.1]],
    "importance_weights": [1.5, 1.0, 0.5],
    "importance_estimates": [14.0, 7.0],
}


@pytest.mark.parametrize("name", HAND_CASES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    exercise = find(name)
    case = exercise.cases(np.random.default_rng(SEED))[0]
    np.testing.assert_allclose(exercise.reference(**case), HAND_CASES[name], atol=1e-12)


def test_weights_and_estimates_are_those_of_the_package() -> None:
    env = GridWorld("S..\n.#.\n..G")
    Q = value_iteration(env.mdp(), gamma=0.9).Q
    policy, behaviour = epsilon_greedy(Q, 0.2), epsilon_greedy(Q, 0.6)
    start, generator = int(env.start.argmax()), np.random.default_rng(1)
    weights, returns = np.zeros(40), np.zeros(40)
    for i in range(40):
        episode = sample_episode(env, behaviour, generator=generator)
        case = {"states": episode.states[:-1], "actions": episode.actions}
        reference = find("importance_weights").reference
        weights[i] = reference(policy=policy, behaviour=behaviour, **case)[0]
        returns[i] = find("returns_to_go").reference(episode.rewards, gamma=0.9)[0]
    both = find("importance_estimates").reference(weights=weights, returns=returns)
    for estimate, weighted in zip(both, (False, True), strict=True):
        settings = {"gamma": 0.9, "episodes": 40, "weighted": weighted}
        *_, report = off_policy_prediction(
            env, policy, behaviour, generator=np.random.default_rng(1), **settings
        )
        assert report.V[start] == pytest.approx(estimate, abs=1e-9)

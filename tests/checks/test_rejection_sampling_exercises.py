"""Chapter 15's references: first cases by hand, then against the package and by simulation."""

import numpy as np
import pytest
import torch

from rlbook.checks import rejection_sampling as answers
from rlbook.lm.exact import best_of_n_logprobs
from rlbook.lm.tabular_lm import TabularLM
from rlbook.posttrain.rejection import best_of_n_reward

RNG = np.random.default_rng(0)
CASES = {name: e.cases(np.random.default_rng(1)) for name, e in answers.EXERCISES.items()}


def test_the_first_cases_by_hand():
    first = {name: answers.EXERCISES[name].reference(**CASES[name][0]) for name in CASES}
    np.testing.assert_allclose(first["best_of_n_probabilities"], [1 / 4, 5 / 16, 7 / 16])
    assert first["best_of_n_estimate"] == pytest.approx(10 / 3)
    np.testing.assert_allclose(first["expected_kept"], [0.75])
    assert first["rows_to_keep"] == [0, 2, 3, 5]
    np.testing.assert_allclose(first["improve"], [[-0.5, 0.5]])
    second = answers.best_of_n_probabilities(**CASES["best_of_n_probabilities"][1])
    np.testing.assert_allclose(second, [1 / 64, 21 / 64, 42 / 64])


def test_best_of_n_is_the_packages():
    for case in CASES["best_of_n_probabilities"]:
        p = torch.tensor(case["p"])
        model = TabularLM([[0]], vocab_size=len(p), max_new_tokens=1)
        model = model.like(p.log()[None])
        exact = best_of_n_logprobs(model, torch.tensor(case["rewards"]), n=case["n"]).exp()
        found = answers.best_of_n_probabilities(**case)
        np.testing.assert_allclose(found, exact.detach().numpy(), atol=1e-12)
        assert found.sum() == pytest.approx(1.0)


def test_the_estimate_is_the_packages():
    for case in CASES["best_of_n_estimate"]:
        rewards = torch.tensor(case["rewards"])[None]
        expected = best_of_n_reward(rewards, n=case["n"]).item()
        assert answers.best_of_n_estimate(**case) == pytest.approx(expected, abs=1e-12)


def test_what_is_kept_by_simulation():
    for case in CASES["expected_kept"]:
        right = RNG.binomial(case["K"], case["p"], size=(40_000, len(case["p"])))
        mean = np.minimum(right, case["most"]).mean(axis=0)
        # most <= 4, so the standard error is below 0.01: 0.06 fails 1 in 10^8
        np.testing.assert_allclose(answers.expected_kept(**case), mean, atol=0.06)


def test_the_loop_raises_what_is_right_and_the_broken_one_does_not():
    N, A = 4, 4
    correct = np.eye(N, A, dtype=bool)
    draws = np.random.default_rng(2).random((40, N, 8))
    given = {"logits": np.zeros((N, A)), "correct": correct, "draws": draws, "rate": 2.0}

    def accuracy(logits):
        pi = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return float((pi * correct).sum(axis=1).mean())

    assert accuracy(answers.improve(**given)) > 0.9
    broken = answers.EXERCISES["improve"].wrong_answers[0].function
    assert accuracy(broken(**given)) < 0.6


def test_a_round_without_right_answers_leaves_the_logits():
    logits = np.array([[1.0, 0.0]])
    wrong = {"correct": np.array([[False, False]]), "draws": np.full((2, 1, 3), 0.5), "rate": 1.0}
    np.testing.assert_array_equal(answers.improve(logits, **wrong), logits)

"""Chapter 07's exercises: their first cases by hand, and references against other ways."""

import numpy as np
import pytest
import torch

from rlbook.checks.harness import RIGHT, SEED, judge
from rlbook.checks.policy_gradient import EXERCISES

BY_HAND = {  # the arithmetic stands beside each case
    "score": [[0.0, 0.0], [0.75, -0.75]],
    "discounted_returns": [[3.0, 4.0, 4.0], [5.0, 6.0, 8.0]],
    "best_baseline": 6.0,
    "policy_gradient": [[-3.0], [3.0], [0.0]],
    "mean_return_at_step": [[5.0, 3.0, 0.0], [4.0, 1.0, 5.0], [3.0, 2.0, 5.0]],
    "batch_advantages": np.array([[-1.0, -4.0], [5.0, 0.0]]) / 14.0**0.5,
}


def cases(name: str) -> list[dict]:
    return EXERCISES[name].cases(np.random.default_rng(SEED))


@pytest.mark.parametrize("name", BY_HAND)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    found = np.asarray(EXERCISES[name].reference(**cases(name)[0]))
    # a whitened variance has 10⁻⁸ added to it
    np.testing.assert_allclose(found, BY_HAND[name], atol=1e-7 if "batch" in name else 1e-12)


def test_the_score_is_the_slope_of_log_pi() -> None:
    for case in cases("score"):
        theta = torch.tensor(case["theta"], requires_grad=True)
        torch.log_softmax(theta, 1)[case["state"], case["action"]].backward()
        np.testing.assert_allclose(EXERCISES["score"].reference(**case), theta.grad, atol=1e-12)


def test_no_other_baseline_has_less_variance() -> None:
    for case in cases("best_baseline"):
        best = EXERCISES["best_baseline"].reference(**case)

        def variance(b: float, case: dict = case) -> float:
            estimates = case["scores"] * (case["returns"] - b)[:, None]
            # the mean does not depend on b where E[score] = 0; the second moment is what counts
            return float(case["chances"] @ (estimates**2).sum(axis=1))

        assert variance(best) < min(variance(best - 0.1), variance(best + 0.1))


def test_a_batch_of_advantages_from_single_episodes() -> None:
    for case in cases("batch_advantages"):
        returns = []
        for b, t in torch.nonzero(case["mask"]).tolist():
            length = int(case["mask"][b].sum())
            rest = case["rewards"][b, t:length].numpy()
            returns.append(float(rest @ case["gamma"] ** np.arange(len(rest))))
        whitened = (np.array(returns) - np.mean(returns)) / np.sqrt(np.var(returns) + 1e-8)
        found = EXERCISES["batch_advantages"].reference(**case)
        np.testing.assert_allclose(found[case["mask"]], whitened, atol=1e-9)
        assert (found[~case["mask"]] == 0.0).all()


def whitened_by_hand(eps: float, correction: int):
    def answer(rewards, ended, mask, gamma):
        G = torch.zeros(rewards.shape)  # 32-bit, as torch makes it
        running = torch.zeros(len(rewards))
        for t in reversed(range(rewards.shape[1])):
            running = rewards[:, t] + gamma * running * ~ended[:, t]
            G[:, t] = running
        counted = G[mask]
        scaled = (G - counted.mean()) / (counted.std(correction=correction) + eps)
        return (scaled * mask).tolist()

    return answer


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_whitening_may_leave_out_the_small_number_and_use_32_bits(eps: float) -> None:
    exercise = EXERCISES["batch_advantages"]
    assert judge("x", exercise, whitened_by_hand(eps, correction=0)).status == RIGHT


def test_whitening_with_the_sample_variance_is_called_by_its_name() -> None:
    found = judge("x", EXERCISES["batch_advantages"], whitened_by_hand(0.0, correction=1))
    assert "this is a variance divided by one less than the count" in found.message

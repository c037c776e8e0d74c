"""The exercises of the appendix: hand cases, PyTorch itself, and autograd as a second opinion."""

import numpy as np
import pytest
import torch

from rlbook.checks.harness import SEED, find, judge

HAND = {
    "mean_squared_error": 2.0,  # (0² + 2²) / 2
    "action_logprobs": [np.log(1 / 2), np.log(1 / 3)],
    "masked_mean": 4.0,  # (1 + 3 + 8) / 3
    "td_gradient": [-2.0, 0.0],
    "adam_step": [[0.6], [1.0], [2.0]],
}


def cases(name: str) -> list[dict]:
    return find(name).cases(np.random.default_rng(SEED))


@pytest.mark.parametrize("name", HAND)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    found = find(name).reference(**cases(name)[0])
    found = np.stack([np.asarray(part) for part in found]) if isinstance(found, tuple) else found
    np.testing.assert_allclose(np.asarray(found), HAND[name], atol=1e-6)  # float32


def test_adam_is_torchs_over_many_steps() -> None:
    rng = np.random.default_rng(1)
    weight = torch.nn.Parameter(torch.tensor(rng.normal(size=4)))
    settings = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}
    theirs = torch.optim.Adam([weight], lr=0.01, betas=(0.8, 0.95), eps=1e-3)
    w, m, v = weight.detach().clone(), torch.zeros(4).double(), torch.zeros(4).double()
    for step in range(1, 31):
        weight.grad = torch.tensor(rng.normal(size=4))
        w, m, v = find("adam_step").reference(w, weight.grad, m, v, step, **settings)
        theirs.step()
        torch.testing.assert_close(w, weight.detach(), rtol=0, atol=1e-12)


def test_the_td_gradient_is_the_formula() -> None:
    for case in cases("td_gradient"):
        target = case["rewards"] + case["gamma"] * case["next_x"] @ case["w"]
        error = case["x"] @ case["w"] - target
        by_hand = 2 * (error[:, None] * case["x"]).mean(0)
        torch.testing.assert_close(find("td_gradient").reference(**case), by_hand)


def test_torchs_own_functions_are_right_answers() -> None:
    def mean_squared_error(predictions, targets):
        return torch.nn.functional.mse_loss(predictions[:, 0], targets)

    def action_logprobs(logits, actions):
        flat = logits.reshape(-1, logits.shape[-1]), actions.reshape(-1)
        return -torch.nn.functional.cross_entropy(*flat, reduction="none").view(actions.shape)

    def masked_mean(x, mask):
        return x[mask].mean()

    for answer in (mean_squared_error, action_logprobs, masked_mean):
        name = answer.__name__
        assert judge(name, find(name), answer).status == "right"


def test_in_place_averages_are_reported() -> None:
    def answer(w, grad, m, v, step, lr, beta1, beta2, eps):
        m.mul_(beta1).add_((1 - beta1) * grad)
        return find("adam_step").reference(w, grad, m, v, step, lr, beta1, beta2, eps)

    result = judge("adam_step", find("adam_step"), answer)
    assert "changed its argument m: work on a copy" in result.message

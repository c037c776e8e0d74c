"""Chapter 09's exercises: first cases by hand, references against autograd and the package."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rlbook.checks.harness import RIGHT, SEED, WRONG, judge
from rlbook.checks.ppo import EXERCISES
from rlbook.control.scoring import explained_variance
from rlbook.functional.kl import exact_kl, kl_k3
from rlbook.functional.policy_losses import ppo_clip_loss

LOG2, LOG3 = np.log(2.0), np.log(3.0)
BY_HAND = {
    # ½ log(½ / ¼) + ½ log(½ / ¾) = ½ log 2 + ½ (log 2 - log 3)
    "kl_divergence": LOG2 - LOG3 / 2,
    # e^d - 1 - d: d = -log 2 gives ½ - 1 + log 2, d = log 2 gives 2 - 1 - log 2
    "k3_estimate": [LOG2 - 0.5, 1.0 - LOG2],
    # A = 2: 1, 2, then 1.2·2. A = -2: 0.8·-2, then -2, -3
    "clipped_objective": [1.0, 2.0, 2.4, -1.6, -2.0, -3.0],
    "clipped_slope": [2.0, 2.0, 0.0, 0.0, -2.0, -2.0],
    # errors 1, -1, 1, -1; targets 0, 2, 4, 6: 1 - 1/5
    "explained_variance": 0.8,
    # one step of 0.5 · ½ · (score of a0 - score of a1) = 0.25 · (1, -1). Then the ratios are
    # 2 sigmoid(±0.5) = 1.245 and 0.755: both are beyond the clip, and nothing moves any more
    "ppo_epochs": [0.25, -0.25],
}


def cases(name: str) -> list[dict]:
    return EXERCISES[name].cases(np.random.default_rng(SEED))


def tensors(case: dict, dtype: torch.dtype = torch.float64) -> dict:
    return {
        name: torch.tensor(x, dtype=dtype if x.dtype.kind == "f" else None)
        if isinstance(x, np.ndarray)
        else x
        for name, x in case.items()
    }


@pytest.mark.parametrize("name", EXERCISES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    found = np.asarray(EXERCISES[name].reference(**cases(name)[0]))
    np.testing.assert_allclose(found, BY_HAND[name], atol=1e-12)


def by_kl(p, q):
    return exact_kl(p.log(), q.log())


def by_k3(logprobs, ref_logprobs):
    return kl_k3(logprobs, ref_logprobs)


def by_loss(ratio, advantage, clip):
    old = torch.zeros_like(ratio)[None]
    return -ppo_clip_loss(ratio.log()[None], old, advantage[None], clip=clip)[0]


def by_autograd(ratio, advantage, clip):
    ratio = ratio.clone().requires_grad_()
    return torch.autograd.grad(by_loss(ratio, advantage, clip).sum(), ratio)[0]


def by_score(values, targets):
    return explained_variance(values, targets)


def by_descent(theta, actions, advantages, epochs, rate, clip):
    """Plain gradient descent on the mean of the package's loss."""
    theta = theta.clone().requires_grad_()
    old = theta.detach().log_softmax(0)[actions]
    optimiser = torch.optim.SGD([theta], lr=rate)
    for _ in range(epochs):
        logprobs = theta.log_softmax(0)[actions]
        loss = ppo_clip_loss(logprobs[None], old[None], advantages[None], clip=clip).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return theta.detach()


BY_PACKAGE = {
    "kl_divergence": by_kl,
    "k3_estimate": by_k3,
    "clipped_objective": by_loss,
    "clipped_slope": by_autograd,
    "explained_variance": by_score,
    "ppo_epochs": by_descent,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_agrees_with_the_package(name: str) -> None:
    for case in cases(name):
        found = EXERCISES[name].reference(**case)
        np.testing.assert_allclose(found, BY_PACKAGE[name](**tensors(case)), atol=1e-12)


@pytest.mark.parametrize("name", EXERCISES)
def test_an_answer_in_torch_and_32_bits_is_right(name: str) -> None:
    def answer(case: dict):
        return BY_PACKAGE[name](**tensors(case, torch.float32))

    assert judge("x", EXERCISES[name], taking(name, answer)).status == RIGHT


def taking(name: str, answer: Callable[[dict], object]) -> Callable[..., object]:
    """A function with the exercise's own arguments, given as one dictionary to ``answer``."""
    return lambda **case: answer(case)


def as_loop(ratio, advantage, clip):
    found = []
    for r, a in zip(ratio, advantage, strict=True):
        found.append(min(r * a, max(1 - clip, min(1 + clip, r)) * a))
    return found


def slope_as_loop(ratio, advantage, clip):
    found = []
    for r, a in zip(ratio, advantage, strict=True):
        stop = r > 1 + clip if a > 0 else r < 1 - clip
        found.append(0 if stop else a)
    return found


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("kl_divergence", lambda p, q: sum(a * np.log(a / b) for a, b in zip(p, q) if a > 0)),  # noqa: B905
        ("kl_divergence", lambda p, q: np.sum(p * np.log(np.where(p > 0, p, 1.0) / q))),
        ("k3_estimate", lambda logprobs, ref_logprobs: (
            np.exp(ref_logprobs - logprobs) - 1 - (ref_logprobs - logprobs))),
        ("clipped_objective", as_loop),
        ("clipped_slope", slope_as_loop),
        ("explained_variance", lambda values, targets: (
            1 - np.var(targets - values, ddof=1) / np.var(targets, ddof=1))),
    ],
)  # fmt: skip
def test_other_ways_of_writing_it_are_right(name: str, answer: Callable) -> None:
    assert judge("x", EXERCISES[name], answer).status == RIGHT


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("kl_divergence", lambda p, q: 0.5 * np.sum((p - q) ** 2 / q)),  # the parabola
        ("k3_estimate", lambda logprobs, ref_logprobs: (  # the 1 forgotten
            np.exp(ref_logprobs - logprobs) - (ref_logprobs - logprobs))),
        ("k3_estimate", lambda logprobs, ref_logprobs: (  # weighted by π once more
            np.exp(logprobs) * EXERCISES["k3_estimate"].reference(logprobs, ref_logprobs))),
        ("clipped_slope", lambda ratio, advantage, clip: (  # 0 or 1, the advantage forgotten
            np.sign(EXERCISES["clipped_slope"].reference(ratio, advantage, clip)))),
        ("explained_variance", lambda values, targets: (  # one sample variance, one not
            1 - np.var(targets - values, ddof=1) / np.var(targets))),
        ("explained_variance", lambda values, targets: np.var(values) / np.var(targets)),
    ],
)  # fmt: skip
def test_other_mistakes_are_not_accepted(name: str, answer: Callable) -> None:
    assert judge("x", EXERCISES[name], answer).status == WRONG


def test_the_clip_acts_in_every_case_of_the_loop() -> None:
    # else a loop without it would pass
    for case in cases("ppo_epochs"):
        free = EXERCISES["ppo_epochs"].reference(**case | {"clip": 1e9})
        assert np.abs(free - EXERCISES["ppo_epochs"].reference(**case)).max() > 1e-3

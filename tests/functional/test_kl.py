"""KL: exact, its estimators and their gradients by enumeration, its price, its controller."""

import math

import pytest
import torch
from rollouts import NAN

from rlbook.functional.kl import (
    adapt_kl_coefficient,
    exact_kl,
    kl_k1,
    kl_k2,
    kl_k3,
    per_token_kl_reward,
)

EXACT = {"rtol": 1e-9, "atol": 1e-9}
HALVES = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
QUARTERS = torch.tensor([0.25, 0.75], dtype=torch.float64).log()


def logits_pair(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    theta, ref = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    return theta.requires_grad_(), ref


# --- exact -----------------------------------------------------------------------------------


def test_exact_kl_by_hand():
    forth = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    back = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert exact_kl(HALVES, QUARTERS).item() == pytest.approx(forth, abs=1e-12)
    assert exact_kl(QUARTERS, HALVES).item() == pytest.approx(back, abs=1e-12)
    assert abs(forth - back) > 0.01


def test_exact_kl_equals_torch():
    theta, ref = logits_pair(3, 4, 5)
    categorical = torch.distributions.Categorical
    expected = torch.distributions.kl_divergence(categorical(logits=theta), categorical(logits=ref))
    torch.testing.assert_close(exact_kl(theta, ref), expected, **EXACT)
    torch.testing.assert_close(exact_kl(theta + 7, ref - 7), expected, **EXACT)
    assert (exact_kl(theta, theta) == 0).all()


def test_exact_kl_with_actions_that_are_ruled_out():
    never = torch.tensor([0.0, 0.0, -math.inf], dtype=torch.float64, requires_grad=True)
    everywhere = torch.zeros(3, dtype=torch.float64)
    value = exact_kl(never, everywhere)
    assert value.item() == pytest.approx(math.log(3 / 2), abs=1e-12)
    assert torch.autograd.grad(value, never)[0].isfinite().all()
    assert exact_kl(never, never).item() == 0.0
    assert exact_kl(everywhere, never).item() == math.inf


# --- estimators ------------------------------------------------------------------------------


def test_estimators_by_hand():
    """π = ½, ref = ¼: the log-ratio is log 2 and d = -log 2."""
    pi, ref = HALVES[:1], QUARTERS[:1]
    assert kl_k1(pi, ref).item() == pytest.approx(math.log(2), abs=1e-12)
    assert kl_k2(pi, ref).item() == pytest.approx(0.5 * math.log(2) ** 2, abs=1e-12)
    assert kl_k3(pi, ref).item() == pytest.approx(0.5 - 1 + math.log(2), abs=1e-12)
    # π = ½, ref = ¾: d = log 1.5, k1 negative, the others not
    pi, ref = HALVES[1:], QUARTERS[1:]
    assert kl_k1(pi, ref).item() == pytest.approx(-math.log(1.5), abs=1e-12)
    assert kl_k3(pi, ref).item() == pytest.approx(1.5 - 1 - math.log(1.5), abs=1e-12)


def expectation(theta, per_action):
    """Σ_a π(a) f(a), the samples' probabilities held fixed."""
    return (torch.softmax(theta, dim=-1).detach() * per_action).sum()


@pytest.mark.parametrize("seed", range(5))
def test_as_estimates_k1_and_k3_are_unbiased_and_k2_is_not(seed):
    theta, ref = logits_pair(4, seed=seed)
    logprobs, ref_logprobs = theta.log_softmax(-1), ref.log_softmax(-1)
    exact = exact_kl(theta, ref)
    mean = {f: expectation(theta, f(logprobs, ref_logprobs)) for f in (kl_k1, kl_k2, kl_k3)}
    torch.testing.assert_close(mean[kl_k1], exact, **EXACT)
    torch.testing.assert_close(mean[kl_k3], exact, **EXACT)
    assert abs(mean[kl_k2] - exact) > 1e-3
    assert (kl_k3(logprobs, ref_logprobs) >= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_as_losses_each_follows_another_gradient(seed):
    """E[∇k1] = 0, E[∇k2] = ∇KL(π‖ref), E[∇k3] = ∇KL(ref‖π)."""
    theta, ref = logits_pair(4, seed=seed)
    logprobs, ref_logprobs = theta.log_softmax(-1), ref.log_softmax(-1)

    def gradient(value):
        return torch.autograd.grad(value, theta, retain_graph=True)[0]

    expected = {
        kl_k1: torch.zeros_like(ref),
        kl_k2: gradient(exact_kl(theta, ref)),
        kl_k3: gradient(exact_kl(ref, theta)),
    }
    for estimator, direction in expected.items():
        found = gradient(expectation(theta, estimator(logprobs, ref_logprobs)))
        torch.testing.assert_close(found, direction, **EXACT)
    assert (expected[kl_k2] - expected[kl_k3]).norm() > 1e-2


def test_k3_with_the_sign_turned_round_is_no_kl():
    """E[e^{-d} - 1 + d] = χ²(π‖ref) - KL(π‖ref), where χ² = Σ π²/ref - 1."""
    theta, ref = (x.detach() for x in logits_pair(4))
    logprobs, ref_logprobs = theta.log_softmax(-1), ref.log_softmax(-1)
    turned = expectation(theta, kl_k3(ref_logprobs, logprobs))
    chi2 = ((2 * logprobs - ref_logprobs).exp()).sum() - 1
    torch.testing.assert_close(turned, chi2 - exact_kl(theta, ref), **EXACT)


def test_k3_of_a_small_step_survives_float32():
    """At d = 1e-4, k3 is 5e-9: e^d - 1 loses it all in float32 (its step near 1 is 1.2e-7)."""
    d = torch.tensor([1e-4])
    exact = math.expm1(float(d)) - float(d)
    # what is left to err is one rounding of expm1(d), 7e-12: a relative 1.5e-3 of k3
    assert kl_k3(-d, torch.zeros(1)).item() == pytest.approx(exact, rel=5e-3)
    assert (d.exp() - 1 - d).item() != pytest.approx(exact, rel=0.5)


def test_the_reference_is_a_constant():
    for function in (kl_k1, kl_k2, kl_k3):
        logprobs, ref = (x.detach().requires_grad_() for x in logits_pair(3))
        loss = function(logprobs, ref).sum()
        found = torch.autograd.grad(loss, (logprobs, ref), allow_unused=True)
        assert found[0] is not None and found[1] is None


@pytest.mark.parametrize("function", [exact_kl, kl_k1, kl_k2, kl_k3])
def test_gradcheck(function):
    theta, ref = logits_pair(3, 4, seed=1)
    assert torch.autograd.gradcheck(lambda x: function(x, ref), theta)
    if function is exact_kl:
        assert torch.autograd.gradcheck(lambda x: function(ref, x), theta)


# --- KL as a reward --------------------------------------------------------------------------


def test_kl_reward_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0, NAN], [-3.0, -1.0, -1.5]])
    ref = torch.tensor([[-1.5, -1.0, math.inf], [-3.0, -2.0, -1.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    rewards = per_token_kl_reward(torch.tensor([10.0, 20.0]), logprobs, ref, mask, beta=0.5)
    expected = [
        [-0.5 * (-1.0 + 1.5), -0.5 * (-2.0 + 1.0) + 10, 0],
        [-0.5 * 0.0, -0.5 * (-1.0 + 2.0), -0.5 * (-1.5 + 1.0) + 20],
    ]
    assert rewards.tolist() == expected


def test_leaving_the_reference_costs():
    """Sampled from π, the sum of the penalties is -β KL(π‖ref) on average: never a gift."""
    theta, ref = (x.detach() for x in logits_pair(5, seed=2))
    logprobs, ref_logprobs = theta.log_softmax(-1)[:, None], ref.log_softmax(-1)[:, None]
    mask = torch.ones(5, 1, dtype=torch.bool)
    nothing = torch.zeros(5, dtype=torch.float64)
    rewards = per_token_kl_reward(nothing, logprobs, ref_logprobs, mask, beta=0.3)
    mean = expectation(theta, rewards[:, 0])
    torch.testing.assert_close(mean, -0.3 * exact_kl(theta, ref), **EXACT)


def test_the_reward_goes_to_the_last_true_even_after_a_gap():
    """Several turns: the environment's tokens in between are not the policy's."""
    mask = torch.tensor([[True, False, True, False], [False, False, False, True]])
    zeros = torch.zeros(2, 4)
    rewards = per_token_kl_reward(torch.tensor([1.0, 2.0]), zeros, zeros, mask, beta=0.0)
    assert rewards.tolist() == [[0, 0, 1, 0], [0, 0, 0, 2]]
    logprobs = torch.zeros(2, 4, requires_grad=True)
    assert not per_token_kl_reward(torch.ones(2), logprobs, zeros, mask, beta=1.0).requires_grad


def test_errors_of_the_kl_reward():
    zeros, mask = torch.zeros(2, 3), torch.tensor([[True] * 3, [False] * 3])
    with pytest.raises(ValueError, match="response 1 has no token in response_mask"):
        per_token_kl_reward(torch.ones(2), zeros, zeros, mask, beta=0.1)
    with pytest.raises(ValueError, match=r"beta=-0\.1 must not be negative"):
        per_token_kl_reward(torch.ones(2), zeros, zeros, mask, beta=-0.1)


# --- the controller --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "error"),
    [(6.0, 0.0), (6.6, 0.1), (9.0, 0.2), (5.4, -0.1), (0.0, -0.2), (-1, -0.2)],
)
def test_controller_by_hand(measured, error):
    """Target 6; the relative error is clipped to ±0.2; 512 of 10000 responses."""
    ours = adapt_kl_coefficient(0.2, float(measured), target=6.0, horizon=10_000.0, steps=512)
    assert ours == pytest.approx(0.2 * (1 + error * 512 / 10_000), abs=1e-12)


def test_controller_holds_a_target():
    """Where KL falls as β rises (here KL = 1/β), the controller settles on the target."""
    beta = 1.0
    for _ in range(2_000):
        beta = adapt_kl_coefficient(beta, 1 / beta, target=4.0, horizon=100.0, steps=10)
    assert 1 / beta == pytest.approx(4.0, rel=1e-6)


def test_errors_of_the_controller():
    settings = {"target": 6.0, "horizon": 100.0, "steps": 10}
    with pytest.raises(ValueError, match=r"coefficient=0\.0 must be above 0"):
        adapt_kl_coefficient(0.0, 1.0, **settings)
    with pytest.raises(ValueError, match=r"target=-1\.0 must be above 0"):
        adapt_kl_coefficient(0.1, 1.0, **{**settings, "target": -1.0})
    with pytest.raises(ValueError, match=r"horizon=0\.0 must be above 0"):
        adapt_kl_coefficient(0.1, 1.0, **{**settings, "horizon": 0.0})
    with pytest.raises(ValueError, match=r"horizon=100\.0 is too short for 500 responses"):
        adapt_kl_coefficient(0.1, 6.0, **{**settings, "steps": 500})
    assert adapt_kl_coefficient(0.1, 0.0, **{**settings, "steps": 499}) > 0
    with pytest.raises(ValueError, match="measured_kl=nan is not a finite number"):
        adapt_kl_coefficient(0.1, NAN, **settings)

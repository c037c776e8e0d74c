"""Importance ratios and V-trace: by hand, by reduction, and over every episode of a small MDP."""

import math

import pytest
import torch
from oracles import policy_values
from rollouts import NAN, Episodes, Rollouts

from rlbook.functional.off_policy import importance_ratios, truncated_importance_weights, vtrace
from rlbook.functional.returns import discounted_returns, gae, lambda_returns
from rlbook.functional.value_losses import td_error

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(r, logprobs, sampler_logprobs, **settings):
    settings = {"gamma": 0.9, **r.flags, **settings}
    return vtrace(r.rewards, r.values, r.next_values, logprobs, sampler_logprobs, **settings)


# --- ratios ----------------------------------------------------------------------------------


def test_ratios_by_hand():
    logprobs = torch.tensor([0.5, 0.2, 0.0], dtype=torch.float64).log()
    sampler = torch.tensor([0.25, 0.4, 0.5], dtype=torch.float64).log()
    ratios = importance_ratios(logprobs, sampler)
    torch.testing.assert_close(ratios, torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64))
    weights = truncated_importance_weights(logprobs, sampler, maximum=1.5)
    torch.testing.assert_close(weights, torch.tensor([1.5, 0.5, 0.0], dtype=torch.float64))


def test_ratios_change_the_measure():
    """E_μ[ρ f] = E_π[f], and the gradient of E_μ[ρ f] is that of E_π[f]."""
    theta, mu, f = random(3, 6)
    theta.requires_grad_()
    logprobs, sampler = theta.log_softmax(-1), mu.log_softmax(-1)
    off = (sampler.exp() * importance_ratios(logprobs, sampler) * f).sum()
    on = (logprobs.exp() * f).sum()
    torch.testing.assert_close(off, on, **EXACT)
    gradients = [torch.autograd.grad(x, theta, retain_graph=True)[0] for x in (off, on)]
    torch.testing.assert_close(*gradients, **EXACT)


def test_weights_are_constants_and_never_overflow():
    logprobs, sampler = torch.zeros(2, requires_grad=True), torch.tensor([-1000.0, 0.0])
    weights = truncated_importance_weights(logprobs, sampler, maximum=2.0)
    assert weights.tolist() == pytest.approx([2.0, 1.0], rel=1e-6) and not weights.requires_grad
    a, b = random(2, 50)
    ratios = importance_ratios(a, b)
    assert torch.equal(truncated_importance_weights(a, b, maximum=math.inf), ratios)
    torch.testing.assert_close(
        truncated_importance_weights(a, b, maximum=0.7), ratios.clamp(max=0.7), **EXACT
    )


def test_gradcheck_of_the_ratios():
    logprobs, sampler = random(2, 10, seed=1)
    logprobs.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: importance_ratios(x, sampler), logprobs)


# --- V-trace ---------------------------------------------------------------------------------


def test_vtrace_by_hand():
    """Ratios 2 (cut to 1), ½ and 1; the second step is truncated, the third terminates."""
    r = Rollouts(
        rewards=torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64),
        values=torch.tensor([[10.0, 20.0, 30.0]], dtype=torch.float64),
        next_values=torch.tensor([[20.0, 40.0, NAN]], dtype=torch.float64),
        terminated=torch.tensor([[False, False, True]]),
        ended=torch.tensor([[False, True, True]]),
    )
    logprobs = torch.tensor([[2.0, 0.5, 1.0]], dtype=torch.float64).log()
    trace = run(r, logprobs, torch.zeros_like(logprobs), gamma=0.5)
    v2 = 3.0
    v1 = 20 + 0.5 * (2 + 0.5 * 40 - 20)
    v0 = 10 + (1 + 0.5 * 20 - 10) + 0.5 * 1 * (v1 - 20)
    expected = torch.tensor([[v0, v1, v2]], dtype=torch.float64)
    torch.testing.assert_close(trace.targets, expected, **EXACT)
    advantages = [1 * (1 + 0.5 * v1 - 10), 0.5 * (2 + 0.5 * 40 - 20), 1 * (3 - 30)]
    torch.testing.assert_close(
        trace.advantages, torch.tensor([advantages], dtype=torch.float64), **EXACT
    )


@pytest.mark.parametrize("clips", [(1.0, 1.0), (0.8, 0.4), (2.0, 3.0)])
def test_vtrace_equals_the_sum_in_the_paper(clips):
    """Equation 1 of Espeholt et al., term by term from every step."""
    clip_rho, clip_c = clips
    r = Rollouts.random(4, 9, seed=1)
    logprobs, sampler = random(2, 4, 9, seed=2)
    expected = r.values.clone()
    for b in range(4):
        for t in range(9):
            product = 1.0
            for k in range(t, 9):
                ratio = math.exp(logprobs[b, k] - sampler[b, k])
                v_next = 0.0 if r.terminated[b, k] else r.next_values[b, k]
                delta = r.rewards[b, k] + 0.9 * v_next - r.values[b, k]
                expected[b, t] += 0.9 ** (k - t) * product * min(clip_rho, ratio) * delta
                product *= 0.7 * min(clip_c, ratio)
                if r.ended[b, k]:
                    break
    trace = run(r, logprobs, sampler, lam=0.7, clip_rho=clip_rho, clip_c=clip_c)
    torch.testing.assert_close(trace.targets, expected, **EXACT)


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_on_policy_vtrace_is_the_lambda_return(lam):
    r = Rollouts.random(5, 12, seed=3)
    r.next_values[:, :-1] = torch.where(r.ended[:, :-1], r.next_values[:, :-1], r.values[:, 1:])
    logprobs = random(5, 12, seed=4)
    trace = run(r, logprobs, logprobs, lam=lam)
    settings = {**r.flags, "gamma": 0.9}
    expected = lambda_returns(r.rewards, r.next_values, **settings, lam=lam)
    torch.testing.assert_close(trace.targets, expected, **EXACT)
    advantages = gae(r.rewards, r.values, r.next_values, **settings, lam=lam)
    torch.testing.assert_close(trace.targets, advantages + r.values, **EXACT)
    if lam == 1.0:
        full = discounted_returns(r.rewards, **settings, next_values=r.next_values)
        torch.testing.assert_close(trace.targets, full, **EXACT)
        torch.testing.assert_close(trace.advantages, full - r.values, **EXACT)


def test_without_traces_vtrace_is_a_weighted_td_step():
    r = Rollouts.random(5, 12, seed=5)
    logprobs, sampler = random(2, 5, 12, seed=6)
    trace = run(r, logprobs, sampler, lam=0.0)
    delta = td_error(r.rewards, r.values, r.next_values, terminated=r.terminated, gamma=0.9)
    rho = importance_ratios(logprobs, sampler).clamp(max=1.0)
    torch.testing.assert_close(trace.targets, r.values + rho * delta, **EXACT)


@pytest.mark.parametrize("junk", [NAN, math.inf])
def test_what_stands_after_an_end_leaks_nowhere(junk):
    B = T = 8
    r = Rollouts.random(B, T, seed=7)
    r.terminated = r.ended = torch.eye(T, dtype=torch.bool)
    after = torch.ones(B, T, dtype=torch.bool).triu(1)
    logprobs, sampler = random(2, B, T, seed=8)
    clean = run(r, logprobs, sampler)
    for x in (r.rewards, r.values, r.next_values, logprobs, sampler):
        x[after] = junk
    r.next_values[r.terminated] = junk
    dirty = run(r, logprobs.requires_grad_(), sampler)
    for ours, expected in zip(dirty, clean, strict=True):
        assert torch.equal(ours[~after], expected[~after])
        assert not ours.requires_grad


def test_a_terminated_step_ends_whatever_ended_says():
    r = Rollouts.random(4, 9, seed=11)
    logprobs, sampler = random(2, 4, 9, seed=12)
    expected = run(r, logprobs, sampler, ended=r.terminated)
    found = run(r, logprobs, sampler, ended=torch.zeros_like(r.terminated))
    for ours, other in zip(found, expected, strict=True):
        assert torch.equal(ours, other)


def enumerated(clip_rho, **settings):
    """In the first state: E_μ of the V-trace target, V of the policy clip_rho aims at, and V^π."""
    episodes, gamma = Episodes(), 0.9
    theta, mu = random(2, 5, 2, seed=9)
    pi, sampler = theta.softmax(1), mu.softmax(1)
    aimed = torch.minimum(clip_rho * sampler, pi)
    aimed = aimed / aimed.sum(1, keepdim=True)
    V = torch.tensor(policy_values(episodes.mdp, aimed.numpy(), gamma))
    guess = settings.pop("guess", V)
    values, next_values = episodes.values(guess)
    trace = vtrace(
        episodes.rewards,
        values,
        next_values,
        episodes.logprobs(theta),
        episodes.logprobs(mu),
        terminated=episodes.terminated,
        ended=episodes.terminated,
        gamma=gamma,
        clip_rho=clip_rho,
        **settings,
    )
    mean = (episodes.weights(mu) * trace.targets[:, 0]).sum()
    return mean, V[0], torch.tensor(policy_values(episodes.mdp, pi.numpy(), gamma))[0]


@pytest.mark.parametrize("clip_c", [0.3, 1.0, math.inf])
@pytest.mark.parametrize("clip_rho", [0.5, 0.9, math.inf])
def test_the_fixed_point_is_the_values_of_the_clipped_policy(clip_rho, clip_c):
    """π_ρ̄(a) ∝ min(ρ̄ μ(a), π(a)): with its values V-trace moves nothing on average, for any c̄."""
    mean, aimed, target_policy = enumerated(clip_rho, clip_c=clip_c, lam=0.8)
    torch.testing.assert_close(mean, aimed, **EXACT)
    assert (abs(aimed - target_policy) < 1e-9) == (clip_rho == math.inf)


def test_unclipped_vtrace_is_unbiased_from_any_guess():
    guess = random(5, seed=10)
    mean, _, target_policy = enumerated(math.inf, clip_c=math.inf, guess=guess)
    torch.testing.assert_close(mean, target_policy, **EXACT)
    mean, _, _ = enumerated(math.inf, clip_c=1.0, guess=guess)
    assert abs(mean - target_policy) > 1e-3


def test_errors():
    r, x = Rollouts.random(2, 3, seed=0), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"maximum=0\.0 must be above 0"):
        truncated_importance_weights(x, x, maximum=0.0)
    with pytest.raises(ValueError, match=r"lam=1\.5 must lie in \[0, 1\]"):
        run(r, x, x, lam=1.5)

"""The policy-gradient theorem as an equality.

Every episode of a small MDP is enumerated, so the expected gradient of a loss is a sum, and the
gradient of the objective is autograd through J(θ) = Σ probability · return. No sampling noise.
"""

import numpy as np
import pytest
import torch
from oracles import policy_values
from rollouts import Episodes

from rlbook.functional.kl import kl_k2, per_token_kl_reward
from rlbook.functional.policy_losses import ppo_clip_loss, reinforce_loss
from rlbook.functional.returns import discounted_returns, gae, n_step_returns
from rlbook.tabular.planning import policy_evaluation

EXACT = {"rtol": 1e-9, "atol": 1e-9}
EPISODES = Episodes()
FLAGS = {"terminated": EPISODES.terminated, "ended": EPISODES.terminated}


@pytest.fixture
def theta():
    g = torch.Generator().manual_seed(0)
    return torch.randn(5, 2, generator=g, dtype=torch.float64).requires_grad_()


def ascent(theta, advantages, loss=reinforce_loss):
    """-E[Σ_t ∇loss_t]: the direction that gradient descent on the loss takes."""
    return -EPISODES.expected_gradient(theta, loss(EPISODES.logprobs(theta), advantages))


def exact_gradient(theta, gamma):
    return torch.autograd.grad(EPISODES.objective(theta, gamma), theta)[0]


def exact_values(theta, gamma):
    pi = theta.detach().softmax(1).numpy()
    return torch.tensor(policy_values(EPISODES.mdp, pi / pi.sum(1, keepdims=True), gamma))


def returns_to_go(gamma):
    return discounted_returns(EPISODES.rewards, gamma=gamma, **FLAGS)


def discounts(gamma):
    return gamma ** torch.arange(3, dtype=torch.float64)


def assert_differ(a, b):
    """By a thousandth and more: six orders above the tolerance of the equalities here."""
    assert (a - b).norm() > 1e-3 * b.norm()


# --- the ground truth itself -----------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_the_enumeration_is_whole_and_agrees_with_planning(theta, gamma):
    lengths = EPISODES.mask.sum(1)
    assert sorted(lengths.unique().tolist()) == [1, 2, 3]
    assert EPISODES.weights(theta).sum().item() == pytest.approx(1.0, abs=1e-12)
    J = EPISODES.objective(theta, gamma).item()
    pi = theta.detach().softmax(1).numpy()
    planned = policy_evaluation(EPISODES.mdp, pi, gamma=gamma).V[0]
    assert J == pytest.approx(exact_values(theta, gamma)[0].item(), abs=1e-9)
    assert J == pytest.approx(planned, abs=1e-9)


def test_autograd_through_the_enumeration_agrees_with_differences(theta):
    assert torch.autograd.gradcheck(lambda x: EPISODES.objective(x, 0.8), theta)


# --- REINFORCE -------------------------------------------------------------------------------


def test_returns_to_go_give_the_gradient(theta):
    torch.testing.assert_close(
        ascent(theta, returns_to_go(1.0)), exact_gradient(theta, 1.0), **EXACT
    )


def test_the_return_of_the_whole_episode_does_too(theta):
    whole = returns_to_go(1.0)[:, :1].expand(-1, 3)
    torch.testing.assert_close(ascent(theta, whole), exact_gradient(theta, 1.0), **EXACT)


def test_any_baseline_of_the_state_changes_nothing(theta):
    baseline = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    less = returns_to_go(1.0) - baseline[EPISODES.states]
    torch.testing.assert_close(ascent(theta, less), exact_gradient(theta, 1.0), **EXACT)


def test_a_baseline_of_the_action_changes_the_gradient(theta):
    baseline = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    less = returns_to_go(1.0) - baseline[EPISODES.states, EPISODES.actions]
    assert_differ(ascent(theta, less), exact_gradient(theta, 1.0))


def test_the_discounted_objective_needs_the_factor_gamma_to_the_t(theta):
    gamma = 0.8
    right = ascent(theta, discounts(gamma) * returns_to_go(gamma))
    torch.testing.assert_close(right, exact_gradient(theta, gamma), **EXACT)
    usual = ascent(theta, returns_to_go(gamma))
    for objective in (gamma, 1.0):
        assert_differ(usual, exact_gradient(theta, objective))


def test_exact_advantages_give_the_gradient(theta):
    gamma = 0.8
    pi = theta.detach().softmax(1).numpy()
    solution = policy_evaluation(EPISODES.mdp, pi / pi.sum(1, keepdims=True), gamma=gamma)
    A = torch.tensor(solution.Q - solution.V[:, None])
    advantages = discounts(gamma) * A[EPISODES.states, EPISODES.actions]
    torch.testing.assert_close(ascent(theta, advantages), exact_gradient(theta, gamma), **EXACT)
    assert np.abs((pi * A.numpy()).sum(1)).max() < 1e-9


# --- GAE and n-step --------------------------------------------------------------------------

LAMBDAS = [0.0, 0.3, 0.95, 1.0]


def advantages_of(V, gamma, lam):
    values, next_values = EPISODES.values(V)
    return gae(EPISODES.rewards, values, next_values, **FLAGS, gamma=gamma, lam=lam)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("lam", LAMBDAS)
def test_with_exact_values_gae_is_unbiased_for_every_lambda(theta, gamma, lam):
    advantages = discounts(gamma) * advantages_of(exact_values(theta, gamma), gamma, lam)
    torch.testing.assert_close(ascent(theta, advantages), exact_gradient(theta, gamma), **EXACT)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_with_wrong_values_gae_is_unbiased_only_at_lambda_one(theta, lam):
    V = torch.randn(5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found, exact = ascent(theta, advantages_of(V, 1.0, lam)), exact_gradient(theta, 1.0)
    if lam == 1.0:
        torch.testing.assert_close(found, exact, **EXACT)
    else:
        assert_differ(found, exact)


def test_the_bias_falls_as_lambda_rises_here(theta):
    V = torch.randn(5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = exact_gradient(theta, 1.0)
    bias = [(ascent(theta, advantages_of(V, 1.0, lam)) - exact).norm() for lam in LAMBDAS]
    assert bias == sorted(bias, reverse=True)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_with_exact_values_n_step_returns_are_unbiased(theta, n):
    V = exact_values(theta, 1.0)
    values, next_values = EPISODES.values(V)
    returns = n_step_returns(EPISODES.rewards, next_values, n=n, **FLAGS, gamma=1.0)
    found = ascent(theta, returns - values)
    torch.testing.assert_close(found, exact_gradient(theta, 1.0), **EXACT)


# --- PPO and KL ------------------------------------------------------------------------------


def test_ppo_on_its_own_rollouts_starts_along_the_gradient(theta):
    old_logprobs = EPISODES.logprobs(theta).detach()
    found = ascent(
        theta,
        advantages_of(exact_values(theta, 1.0), 1.0, 0.95),
        loss=lambda logprobs, A: ppo_clip_loss(logprobs, old_logprobs, A, clip=0.2),
    )
    torch.testing.assert_close(found, exact_gradient(theta, 1.0), **EXACT)


def test_ratios_per_action_do_not_make_old_episodes_new(theta):
    """Episodes drawn by an older policy: a ratio per action is not the ratio of the episode."""
    old = theta.detach().clone()
    old[:, 0] += 0.5
    old_logprobs = EPISODES.logprobs(old)
    advantages = returns_to_go(1.0)
    loss = ppo_clip_loss(EPISODES.logprobs(theta), old_logprobs, advantages, clip=1e6)
    per_action = -EPISODES.expected_gradient(theta, loss, drawn_by=old)
    exact = exact_gradient(theta, 1.0)
    assert_differ(per_action, exact)
    whole = (EPISODES.weights(theta) / EPISODES.weights(old)).detach()[:, None]
    loss = reinforce_loss(EPISODES.logprobs(theta), advantages * whole)
    torch.testing.assert_close(
        -EPISODES.expected_gradient(theta, loss, drawn_by=old), exact, **EXACT
    )


def penalised(theta, ref, beta):
    """J(θ) - β KL over whole episodes, enumerated: the dynamics cancel in the log-ratio."""
    log_ratio = (EPISODES.logprobs(theta) - EPISODES.logprobs(ref)).sum(1)
    value = EPISODES.objective(theta, 1.0) - beta * (EPISODES.weights(theta) * log_ratio).sum()
    return torch.autograd.grad(value, theta)[0]


def test_kl_in_the_reward_gives_the_gradient_of_the_penalised_objective(theta):
    """k1 in the reward, γ = λ = 1; a k2 loss per token misses how prefixes change."""
    beta, ref = 0.7, torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)
    logprobs, ref_logprobs = EPISODES.logprobs(theta), EPISODES.logprobs(ref)
    rewards = per_token_kl_reward(
        EPISODES.returns(1.0), logprobs, ref_logprobs, EPISODES.mask, beta=beta
    )
    exact = penalised(theta, ref, beta)
    found = ascent(theta, discounted_returns(rewards, gamma=1.0, **FLAGS))
    torch.testing.assert_close(found, exact, **EXACT)

    loss = reinforce_loss(logprobs, returns_to_go(1.0)) + beta * kl_k2(logprobs, ref_logprobs)
    assert_differ(-EPISODES.expected_gradient(theta, loss), exact)

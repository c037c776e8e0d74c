"""TRPO's linear algebra against the explicit kind, and its trust region."""

import copy

import pytest
import torch
from torch.func import functional_call
from worlds import actor_critic, flat

from rlbook.control import trpo as module
from rlbook.control.collect import Rollout, make_envs, rollouts
from rlbook.control.networks import Network
from rlbook.control.trpo import (
    TRPOConfig,
    conjugate_gradient,
    hessian_product,
    trpo,
    trust_region_step,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- conjugate gradient ----------------------------------------------------------------------


def positive(n, seed=0):
    root = torch.randn(n, n, generator=seeded(seed), dtype=torch.float64)
    return root @ root.T + torch.eye(n, dtype=torch.float64)


def test_conjugate_gradient_solves_a_linear_system():
    F = positive(12)
    b = torch.randn(12, generator=seeded(1), dtype=torch.float64)
    x = conjugate_gradient(lambda v: F @ v, b, steps=30, tolerance=1e-26)
    torch.testing.assert_close(x, torch.linalg.solve(F, b), rtol=1e-9, atol=1e-9)


def test_two_eigenvalues_need_two_steps():
    """CG finds the best polynomial of F: of degree 1 for two distinct eigenvalues."""
    basis = torch.linalg.qr(positive(9))[0]
    F = basis @ torch.diag(torch.tensor([2.0] * 4 + [7.0] * 5, dtype=torch.float64)) @ basis.T
    b = torch.ones(9, dtype=torch.float64)
    x = conjugate_gradient(lambda v: F @ v, b, steps=2)
    torch.testing.assert_close(x, torch.linalg.solve(F, b), rtol=1e-9, atol=1e-9)


def test_one_step_is_exact_only_along_the_target():
    """x = (bᵀb / bᵀFb) b: for F = diag(1, 3), b = (1, 1) that is 2/4 of b."""
    F = torch.diag(torch.tensor([1.0, 3.0]))
    x = conjugate_gradient(lambda v: F @ v, torch.ones(2), steps=1)
    assert x.tolist() == [0.5, 0.5]


def test_it_stops_when_nothing_is_left():
    calls = []

    def identity(v):
        calls.append(v)
        return v

    b = torch.tensor([1e-8, 2e-8])  # small, so that an absolute tolerance would do nothing
    assert torch.equal(conjugate_gradient(identity, b, steps=10), b)
    assert len(calls) == 1
    assert conjugate_gradient(identity, torch.zeros(2), steps=10).tolist() == [0.0, 0.0]


# --- the Fisher matrix -----------------------------------------------------------------------


def test_products_are_those_of_the_hessian_and_of_the_fisher_matrix():
    network = Network((3,), 3, generator=seeded(), hidden=(4,), orthogonal=False).double()
    x = torch.randn(5, 3, generator=seeded(1), dtype=torch.float64)
    names, parameters = zip(*network.named_parameters(), strict=True)
    sizes = [p.numel() for p in parameters]
    old = network(x).detach().log_softmax(-1)

    def logprobs(theta):
        pieces = [t.view_as(p) for t, p in zip(theta.split(sizes), parameters, strict=True)]
        return functional_call(network, dict(zip(names, pieces, strict=True)), x).log_softmax(-1)

    def mean_kl(theta):
        return (old.exp() * (old - logprobs(theta))).sum(-1).mean()

    theta = flat(network)
    hessian = torch.autograd.functional.hessian(mean_kl, theta)
    scores = torch.autograd.functional.jacobian(logprobs, theta)  # [5, 3, n]
    fisher = torch.einsum("sa,sai,saj->ij", old.exp(), scores, scores) / 5

    kl = (old.exp() * (old - network(x).log_softmax(-1))).sum(-1).mean()
    product = hessian_product(kl, list(parameters), damping=0.3)
    products = torch.stack([product(e) for e in torch.eye(len(theta), dtype=torch.float64)])
    damped = 0.3 * torch.eye(len(theta), dtype=torch.float64)
    torch.testing.assert_close(products, hessian + damped, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(products, fisher + damped, rtol=1e-9, atol=1e-9)


# --- the step --------------------------------------------------------------------------------


def batch(M=40):
    """M single actions in random states of three features; action a is worth feature a."""
    g = seeded(3)
    observations = torch.randn(M, 1, 3, generator=g, dtype=torch.float64)
    actions = torch.randint(3, (M, 1), generator=g)
    advantages = observations.gather(-1, actions[..., None]).squeeze(-1)
    empty = torch.zeros(M, 1)
    rollout = Rollout(
        observations, actions, empty, observations, empty.bool(), empty.bool(), ~empty.bool(), ()
    )
    return rollout, advantages


def actor(**options):
    return Network((3,), 3, generator=seeded(5), orthogonal=False, **options).double()


def log_pi(network, rollout):
    return network(rollout.observations).detach().log_softmax(-1)


@pytest.mark.parametrize("max_kl", [1e-4, 0.01, 0.5])
def test_a_step_stays_in_the_region_and_improves(max_kl):
    rollout, advantages = batch()
    network = actor(hidden=(8,))
    old = log_pi(network, rollout)
    metrics = trust_region_step(network, rollout, advantages, TRPOConfig(max_kl=max_kl))
    new = log_pi(network, rollout)
    kl = (old.exp() * (old - new)).sum(-1).mean().item()  # KL(π_old‖π), in this order
    assert metrics["kl"] == pytest.approx(kl, rel=1e-9)
    assert 0.1 * max_kl < kl <= max_kl
    chosen = (new - old).gather(-1, rollout.actions[..., None]).squeeze(-1)
    improvement = (chosen.exp() * advantages).mean() - advantages.mean()
    assert metrics["improvement"] == pytest.approx(improvement.item(), rel=1e-9)
    assert improvement > 0.0
    assert metrics["step_fraction"] in [0.5**k for k in range(11)]


def test_a_small_step_fills_the_region():
    """Without damping the quadratic model is exact as δ → 0: the KL of the full step is δ."""
    rollout, advantages = batch()
    config = TRPOConfig(max_kl=1e-8, damping=0.0, cg_steps=50)
    network = actor(hidden=())
    old = log_pi(network, rollout)
    trust_region_step(network, rollout, advantages, config)
    new = log_pi(network, rollout)
    kl = (old.exp() * (old - new)).sum(-1).mean().item()
    # The full step (KL within 1% of δ) or, if it lands a hair outside, half of it: a quarter.
    assert min(abs(kl / 1e-8 - 1.0), abs(kl / 0.25e-8 - 1.0)) < 0.01


@pytest.mark.parametrize(("damping", "same"), [(0.0, True), (1.0, False)])
def test_the_natural_gradient_does_not_depend_on_the_parameters(damping, same):
    """logits = W x = (W M⁻¹)(M x): two parametrisations of one policy. The step of the natural
    gradient gives both the same new policy. Damping measures lengths in parameters, so it does not.
    """
    rollout, advantages = batch()
    M = torch.tensor([[3.0, 0.0, 1.0], [0.0, 0.2, 0.0], [0.5, 0.0, 1.0]], dtype=torch.float64)
    one, two = actor(hidden=()), actor(hidden=())
    with torch.no_grad():
        two.layers[0].weight.copy_(one.layers[0].weight @ torch.linalg.inv(M))
    seen_as = Rollout(**(vars(rollout) | {"observations": rollout.observations @ M.T}))
    old = log_pi(one, rollout)
    torch.testing.assert_close(old, log_pi(two, seen_as), rtol=1e-9, atol=1e-9)
    config = TRPOConfig(max_kl=0.01, damping=damping, cg_steps=100)
    trust_region_step(one, rollout, advantages, config)
    trust_region_step(two, seen_as, advantages, config)
    change = log_pi(one, rollout) - old
    difference = (log_pi(two, seen_as) - old - change).norm() / change.norm()
    # CG stops at a residual of 10⁻⁵ of the gradient: the steps agree to about that.
    assert difference < 1e-3 if same else difference > 0.05


def test_a_step_that_never_passes_leaves_the_parameters_as_they_were(monkeypatch):
    """Uphill becomes downhill: no fraction of the step improves anything."""
    monkeypatch.setattr(module, "conjugate_gradient", lambda product, target, steps: -target)
    rollout, advantages = batch()
    network = actor(hidden=(8,))
    before = flat(network)
    metrics = trust_region_step(network, rollout, advantages, TRPOConfig())
    assert torch.equal(flat(network), before)
    assert metrics["step_fraction"] == metrics["kl"] == metrics["improvement"] == 0.0


def test_a_step_too_long_is_halved():
    rollout, advantages = batch()
    outside = TRPOConfig(max_kl=3.0, damping=0.0, backtracks=0)  # the model fails that far out
    network = actor(hidden=(8,))
    before = flat(network)
    assert trust_region_step(network, rollout, advantages, outside)["step_fraction"] == 0.0
    assert torch.equal(flat(network), before)
    halved = TRPOConfig(max_kl=3.0, damping=0.0, backtracks=10)
    assert 0.0 < trust_region_step(network, rollout, advantages, halved)["step_fraction"] < 1.0


def test_equal_advantages_move_nothing():
    rollout, advantages = batch()
    network = actor(hidden=(8,))
    before = copy.deepcopy(network)
    trust_region_step(network, rollout, torch.zeros_like(advantages), TRPOConfig())
    assert torch.equal(flat(network), flat(before))


def test_the_loop_keeps_to_its_region_on_cartpole():
    envs = make_envs("CartPole-v1", 4)
    network = actor_critic(envs, hidden=(16,))
    states = next(rollouts(envs, network.policy, steps=50, generator=seeded())).observations
    before = network.policy(states).detach().log_softmax(-1)
    for report in trpo(envs, network, TRPOConfig(total_steps=600, rollout_steps=50), seed=0):
        assert 0.0 < report["kl"] <= 0.01 and report["improvement"] > 0.0
    after = network.policy(states).detach().log_softmax(-1)
    assert (before.exp() * (before - after)).sum(-1).mean() > 1e-3  # and did move


def test_a_shared_body_is_refused():
    envs = make_envs("CartPole-v1", 2)
    with pytest.raises(ValueError, match="trpo trains policy and value apart"):
        next(trpo(envs, actor_critic(envs, shared=True), TRPOConfig(), seed=0))

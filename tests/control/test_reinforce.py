"""REINFORCE: its sampled gradient against the exact one of an MDP, and its baselines."""

import numpy as np
import pytest
import torch
from scripted import Sampled, layered_mdp, trajectories
from worlds import Corridor, actor_critic, flat, vector

from rlbook.control.collect import episodes
from rlbook.control.reinforce import (
    ReinforceConfig,
    advantage,
    fit_values,
    mean_return_at_step,
    reinforce,
)

MDP = layered_mdp()
T = 3  # actions in every episode of it
EPISODES, BATCHES, GAMMA = 24, 120, 0.7


def sampled_gradients(**settings):
    """∇J of each batch, [BATCHES, n], from the loop itself: its policy has a learning rate of 0,
    and its mean over B·T steps times T is the mean over episodes."""
    envs = vector(*[lambda: Sampled(MDP)] * EPISODES)
    network = actor_critic(envs, hidden=(), orthogonal=False)
    config = ReinforceConfig(
        total_steps=EPISODES * T * BATCHES, gamma=GAMMA, learning_rate=0.0,
        value_learning_rate=0.05, value_steps=3, **settings,
    )  # fmt: skip
    gradients = []
    for _ in reinforce(envs, network, config, seed=0):
        gradients.append(-T * network.actor.layers[0].weight.grad.flatten())
    assert len(gradients) == BATCHES
    return network, torch.stack(gradients).double().numpy()


def exact_gradient(network):
    """Autograd through J(θ) = Σ over all episodes of probability · discounted return."""
    weight, bias = network.actor.layers[0].weight, network.actor.layers[0].bias
    pi = (weight + bias[:, None]).T.softmax(-1)  # [S, A]: the observations are one-hot
    even = np.full((MDP.S, MDP.A), 1.0 / MDP.A)
    J = torch.zeros(())
    for start in np.flatnonzero(MDP.start):
        for chance, steps in trajectories(MDP, even, int(start)):
            dynamics = MDP.start[start] * chance * MDP.A ** len(steps)
            probability = torch.stack([pi[s, a] for s, a, _ in steps]).prod()
            J = J + dynamics * probability * sum(GAMMA**t * r for t, (_, _, r) in enumerate(steps))
    return torch.autograd.grad(J, weight)[0].flatten().double().numpy()


def worst_z(network, gradients):
    exact = exact_gradient(network)
    touched = np.abs(exact) > 1e-7  # the terminal state is never acted in
    error = gradients.std(axis=0, ddof=1) / np.sqrt(BATCHES)
    assert (gradients[:, ~touched] == 0).all()
    return np.abs((gradients.mean(axis=0) - exact) / np.where(touched, error, 1.0))[touched].max()


@pytest.fixture(scope="module")
def by_baseline():
    return {
        baseline: sampled_gradients(baseline=baseline, discount_state=True)
        for baseline in ("none", "mean", "value")
    }


@pytest.mark.parametrize("baseline", ["none", "mean", "value"])
def test_the_sampled_gradient_is_the_exact_one_on_average(by_baseline, baseline):
    """12 entries within 5 standard errors each: fails by chance once in 10⁴ seeds (t, 119)."""
    assert worst_z(*by_baseline[baseline]) < 5.0


def test_without_the_discount_of_the_state_it_is_not():
    assert worst_z(*sampled_gradients(baseline="mean")) > 8.0


def test_baselines_lower_the_variance(by_baseline):
    variance = {name: g.var(axis=0).sum() for name, (_, g) in by_baseline.items()}
    assert variance["mean"] < 0.8 * variance["none"]
    assert variance["value"] < 0.8 * variance["none"]


def test_the_mean_of_the_other_episodes_by_hand():
    """Step 0: returns 1, 2, 6. Step 1: 4, 8, the third is over. Step 2: the first alone."""
    returns = torch.tensor([[1.0, 4.0, 9.0], [2.0, 8.0, 99.0], [6.0, 99.0, 99.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()
    baseline = mean_return_at_step(returns, mask)
    assert baseline[:, 0].tolist() == [4.0, 3.5, 1.5]
    assert baseline[:2, 1].tolist() == [8.0, 4.0]
    assert baseline[0, 2] == 0.0
    junk = torch.where(mask, returns, float("nan"))
    assert torch.equal(mean_return_at_step(junk, mask)[mask], baseline[mask])


def corridor_batch():
    envs = vector(*[Corridor] * 6)
    network = actor_critic(envs, hidden=(8,), orthogonal=False)
    batch = episodes(envs, network.policy, generator=torch.Generator().manual_seed(0))
    lengths = batch.mask.sum(1)
    assert lengths.min() < lengths.max()  # so there is padding
    return network, batch


@pytest.mark.parametrize("baseline", ["none", "mean", "value"])
@pytest.mark.parametrize("whiten", [False, True])
def test_what_stands_after_an_end_changes_nothing(baseline, whiten):
    network, batch = corridor_batch()
    config = ReinforceConfig(baseline=baseline, whiten=whiten, discount_state=True)
    clean = advantage(network, batch, config)
    junk = type(batch)(**(vars(batch) | {"rewards": batch.rewards.where(batch.mask, torch.nan)}))
    dirty = advantage(network, junk, config)
    assert torch.equal(clean[0], dirty[0])
    assert (clean[0][~batch.mask] == 0).all()
    assert torch.equal(clean[1][batch.mask], dirty[1][batch.mask])
    assert clean[2] == dirty[2]


def test_whitening_comes_before_the_weights_of_the_steps():
    network, batch = corridor_batch()
    plain = ReinforceConfig(whiten=True, gamma=0.9)
    weighted = ReinforceConfig(whiten=True, gamma=0.9, discount_state=True)
    whitened = advantage(network, batch, plain)[0]
    seen = whitened[batch.mask]
    assert seen.mean().abs() < 1e-5 and abs(seen.std(correction=0) - 1.0) < 1e-4
    steps = torch.arange(batch.mask.shape[1])
    torch.testing.assert_close(advantage(network, batch, weighted)[0], whitened * 0.9**steps)


def test_returns_of_a_cut_episode():
    """Bootstrapped from V with a value network; the rewards seen without one."""
    network, batch = corridor_batch()
    row = int(batch.truncated[:, 19].nonzero()[0, 0])
    _, seen, _ = advantage(network, batch, ReinforceConfig(baseline="none", gamma=1.0))
    assert seen[row, 19].item() == pytest.approx(-0.1)
    _, bootstrapped, _ = advantage(network, batch, ReinforceConfig(baseline="value", gamma=0.5))
    after = network.value(batch.next_observations[row, 19]).item()
    assert bootstrapped[row, 19].item() == pytest.approx(-0.1 + 0.5 * after, abs=1e-6)


def test_the_fit_is_a_regression_on_the_steps_that_count():
    network, batch = corridor_batch()
    actor = flat(network.actor)
    targets = torch.where(batch.mask, 3.0 - batch.observations.argmax(-1), torch.nan)
    optimiser = torch.optim.Adam(network.critic.parameters(), lr=0.05)
    fit_values(network, optimiser, batch.observations, targets, batch.mask, 300)
    error = (network.value(batch.observations) - targets)[batch.mask]
    assert error.abs().max() < 0.05
    assert torch.equal(flat(network.actor), actor)


def test_refusals():
    envs = vector(Corridor)
    with pytest.raises(ValueError, match="baseline='median' must be one of none, mean, value"):
        next(reinforce(envs, actor_critic(envs), ReinforceConfig(baseline="median"), seed=0))
    shared = actor_critic(envs, shared=True)
    with pytest.raises(ValueError, match='baseline="value" trains policy and value apart'):
        next(reinforce(envs, shared, ReinforceConfig(), seed=0))
    next(reinforce(envs, shared, ReinforceConfig(baseline="mean"), seed=0))  # V is not trained

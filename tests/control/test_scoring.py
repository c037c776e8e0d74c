"""What an update is made from, against a naive loop and against numbers by hand."""

import pytest
import torch
from scripted import Scripted
from worlds import Corridor, actor_critic, uniform, vector

from rlbook.control.a2c import A2CConfig, a2c
from rlbook.control.collect import rollouts
from rlbook.control.scoring import explained_variance, score


def rollout_and_network():
    ends = [(0, 1.0, 1, ""), (1, -2.0, 2, "terminated")]
    cut = [(3, 0.5, 4, ""), (4, 3.0, 5, ""), (5, 1.0, 6, "truncated")]
    envs = vector(
        lambda: Scripted(ends, cut, ends, S=7, A=3), lambda: Scripted(cut, ends, cut, S=7, A=3)
    )
    rollout = next(rollouts(envs, uniform(envs), steps=7, generator=torch.Generator()))
    assert rollout.terminated.any() and rollout.truncated.any() and not rollout.ended[:, -1].all()
    return rollout, actor_critic(envs, hidden=(8,), orthogonal=False)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_a_score_agrees_with_a_plain_loop(lam):
    rollout, network = rollout_and_network()
    scored = score(network, rollout, gamma=0.9, lam=lam)
    for b in range(2):
        for t in range(7):
            weight, advantage = 1.0, 0.0
            for k in range(t, 7):
                now = network.value(rollout.observations[b, k]).item()
                then = network.value(rollout.next_observations[b, k]).item()
                if rollout.terminated[b, k]:
                    then = 0.0
                advantage += weight * (rollout.rewards[b, k].item() + 0.9 * then - now)
                weight *= 0.9 * lam
                if rollout.ended[b, k]:
                    break
            now = network.value(rollout.observations[b, t]).item()
            pi = torch.distributions.Categorical(logits=network.policy(rollout.observations[b, t]))
            logprob = pi.log_prob(rollout.actions[b, t]).item()
            assert scored.advantages[b, t].item() == pytest.approx(advantage, abs=1e-5)
            assert scored.targets[b, t].item() == pytest.approx(advantage + now, abs=1e-5)
            assert scored.values[b, t].item() == pytest.approx(now, abs=1e-5)
            assert scored.logprobs[b, t].item() == pytest.approx(logprob, abs=1e-5)
    assert not any(x.requires_grad for x in scored)


def test_explained_variance_by_hand():
    """Targets 0, 2 have variance 1. Errors 0, 1 have variance 1/4; a constant shift costs none."""
    targets = torch.tensor([0.0, 2.0])
    assert explained_variance(torch.tensor([0.0, 1.0]), targets) == 0.75
    assert explained_variance(torch.tensor([5.0, 7.0]), targets) == 1.0
    assert explained_variance(torch.tensor([3.0, 3.0]), targets) == 0.0
    assert explained_variance(torch.tensor([2.0, 0.0]), targets) == -3.0  # errors -2, 2
    assert explained_variance(targets, torch.ones(2)) == 0.0  # nothing to explain


def test_a2c_reports_the_explained_variance_of_its_values_before_the_update():
    envs, again = vector(Corridor, Corridor), vector(Corridor, Corridor)
    network, before = (actor_critic(envs, hidden=(8,), seed=3) for _ in range(2))
    report = next(a2c(envs, network, A2CConfig(rollout_steps=16, gamma=0.9, lam=0.5), seed=2))
    generator = torch.Generator().manual_seed(2)
    rollout = next(rollouts(again, before.policy, steps=16, generator=generator))
    scored = score(before, rollout, gamma=0.9, lam=0.5)
    expected = explained_variance(scored.values, scored.targets)
    assert report["explained_variance"] == pytest.approx(expected, abs=1e-5)
    assert abs(expected - explained_variance(scored.targets, scored.values)) > 0.01  # not symmetric

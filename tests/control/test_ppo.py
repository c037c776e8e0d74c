"""PPO: each setting does what it says; its first step is A2C's."""

from itertools import pairwise

import pytest
import torch
from worlds import Corridor, actor_critic, flat, flat_gradient, last, vector

from rlbook.control import ppo as module
from rlbook.control.a2c import A2CConfig, a2c
from rlbook.control.collect import make_envs, rollouts
from rlbook.control.ppo import PPOConfig, ppo, ppo_loss
from rlbook.control.scoring import score
from rlbook.functional.policy_losses import action_logprobs, entropy, ppo_clip_loss
from rlbook.functional.value_losses import clipped_value_loss

SIZE = 4 * 16  # four environments, sixteen steps


def run(updates=1, *, loop=ppo, config=PPOConfig, seed=0, **settings):
    """A few updates on CartPole; the network and the reports."""
    envs = make_envs("CartPole-v1", 4)
    network = actor_critic(envs, hidden=(16,), seed=seed)
    settings = config(**({"total_steps": updates * SIZE, "rollout_steps": 16} | settings))
    return network, list(loop(envs, network, settings, seed=seed))


@pytest.fixture
def calls(monkeypatch):
    """The arguments of every ppo_clip_loss: (logprobs, old_logprobs, advantages)."""
    seen = []

    def spy(*args, **options):
        seen.append([x.detach().clone() for x in args])
        return ppo_clip_loss(*args, **options)

    monkeypatch.setattr(module, "ppo_clip_loss", spy)
    return seen


def furthest_ratio(call):
    return (call[0] - call[1]).exp().sub(1.0).abs().max().item()


def test_the_first_minibatch_of_an_update_has_ratio_one(calls):
    run(updates=3, epochs=2, learning_rate=0.01)
    assert len(calls) == 3 * 2 * 4
    for k, call in enumerate(calls):
        if k % 8 == 0:
            assert furthest_ratio(call) < 1e-5
        elif k % 8 >= 4:
            assert furthest_ratio(call) > 1e-3


def test_a_policy_that_stays_has_no_kl_and_clips_nothing():
    _, (report,) = run(epochs=4, clip=0.01, learning_rate=0.0)
    assert abs(report["kl"]) < 1e-9
    assert report["clip_fraction"] == 0.0
    _, (report,) = run(epochs=4, minibatches=1, clip=0.01, learning_rate=0.01)
    assert report["kl"] > 1e-5
    assert report["clip_fraction"] > 0.1


def test_minibatches_keep_observations_actions_and_scores_together(calls):
    """With a learning rate of 0 every ratio of every minibatch is 1, and the mean squared error
    of the values is that of the whole rollout: targets - values = advantages."""
    _, (report,) = run(epochs=2, learning_rate=0.0, normalise="none")
    assert len(calls) == 8 and max(map(furthest_ratio, calls)) < 1e-5
    advantages = torch.cat([call[2] for call in calls[:4]])
    assert advantages.shape == (SIZE, 1)
    assert report["value_loss"] == pytest.approx(0.5 * advantages.square().mean().item(), rel=1e-5)
    again = torch.cat([call[2] for call in calls[4:]])
    assert not torch.equal(advantages, again)  # shuffled anew
    torch.testing.assert_close(advantages.sort(0)[0], again.sort(0)[0])


def test_without_a_clip_nothing_is_clipped():
    settings = {"epochs": 4, "learning_rate": 0.01}
    free, (report,) = run(clip=float("inf"), **settings)
    huge, _ = run(clip=1e9, **settings)
    tight, _ = run(clip=0.01, **settings)
    assert report["clip_fraction"] == 0.0
    assert torch.equal(flat(free), flat(huge))
    assert not torch.equal(flat(free), flat(tight))


def minibatch():
    """A rollout of CartPole as [M, 1], its score, and a network that has moved since."""
    envs = make_envs("CartPole-v1", 4)
    network = actor_critic(envs, hidden=(16,), orthogonal=False)
    stream = rollouts(envs, network.policy, steps=16, generator=torch.Generator().manual_seed(0))
    rollout = next(stream)
    scored = score(network, rollout, gamma=0.99, lam=0.95)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1.2)
    observations = rollout.observations.reshape(SIZE, 1, 4)
    return (
        network,
        observations,
        rollout.actions.reshape(SIZE, 1),
        type(scored)(*(x.reshape(SIZE, 1) for x in scored)),
    )


def test_without_clip_and_whitening_the_loss_is_the_plain_surrogate():
    network, observations, actions, old = minibatch()
    config = PPOConfig(clip=float("inf"), normalise="none", value_weight=0.0, entropy_weight=0.0)
    loss = ppo_loss(network, observations, actions, old, config)
    ratios = action_logprobs(network.policy(observations), actions).sub(old.logprobs).exp()
    torch.testing.assert_close(loss, -(ratios * old.advantages).mean())


def test_the_weights_of_value_and_entropy():
    network, observations, actions, old = minibatch()

    def loss(value_weight, entropy_weight):
        config = PPOConfig(value_weight=value_weight, entropy_weight=entropy_weight)
        return ppo_loss(network, observations, actions, old, config)

    value = 0.5 * (network.value(observations) - old.targets).square().mean()
    bonus = entropy(network.policy(observations)).mean()
    torch.testing.assert_close(loss(2.0, 0.0) - loss(0.0, 0.0), 2.0 * value)
    torch.testing.assert_close(loss(0.0, 3.0) - loss(0.0, 0.0), -3.0 * bonus)


def test_the_value_clip():
    network, observations, actions, old = minibatch()
    moved = (network.value(observations) - old.values).abs()
    clip = moved.median().item()
    off = ppo_loss(network, observations, actions, old, PPOConfig())
    on = ppo_loss(network, observations, actions, old, PPOConfig(value_clip=clip))
    values = network.value(observations)
    clipped = clipped_value_loss(values, old.values, old.targets, clip=clip).mean()
    torch.testing.assert_close(on - off, clipped - 0.5 * (values - old.targets).square().mean())
    assert on > off + 1e-3  # the larger of two losses


@pytest.mark.parametrize("normalise", ["minibatch", "batch", "none"])
def test_which_advantages_are_whitened_together(calls, normalise):
    run(epochs=1, normalise=normalise)
    pieces = [call[2] for call in calls]
    apart = max(piece.mean().abs().item() for piece in pieces)
    together = torch.cat(pieces)
    assert (apart < 1e-5) == (normalise == "minibatch")
    assert (together.mean().abs() < 1e-5) == (normalise != "none")
    assert (abs(together.std(correction=0) - 1.0) < 1e-4) == (normalise != "none")


def test_annealing():
    _, reports = run(updates=4, learning_rate=0.1, epochs=1)
    assert [r["learning_rate"] for r in reports] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    _, reports = run(updates=4, learning_rate=0.1, epochs=1, anneal=False)
    assert [r["learning_rate"] for r in reports] == [0.1] * 4


@pytest.mark.parametrize(("target", "epochs"), [(0.0, 1), (1e9, 5), (None, 5)])
def test_a_target_kl_stops_the_epochs(target, epochs):
    _, (report,) = run(epochs=5, learning_rate=0.01, target_kl=target)
    assert report["epochs"] == epochs


def test_the_gradient_is_cut_to_its_longest_length():
    settings = {"epochs": 1, "minibatches": 1}
    network, (report,) = run(max_grad_norm=1e-3, **settings)
    assert flat_gradient(network).norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert report["grad_norm"] > 0.1
    network, (free,) = run(max_grad_norm=None, **settings)
    assert flat_gradient(network).norm().item() == pytest.approx(free["grad_norm"], rel=1e-5)
    assert free["grad_norm"] == pytest.approx(report["grad_norm"], rel=1e-5)


def test_adams_epsilon_is_passed_on():
    """Adam's first step is lr · g / (|g| + ε): with a huge ε it is all but 0."""
    start, _ = run(learning_rate=0.0)
    still, _ = run(adam_epsilon=1e9)
    moved, _ = run()
    assert (flat(still) - flat(start)).abs().max() < 1e-9
    assert (flat(moved) - flat(start)).abs().max() > 1e-4


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_the_first_gradient_is_a2cs(whiten, shared):
    """At ratio 1 the clipped loss has REINFORCE's gradient; only the order of the sums differs."""
    common = {
        "total_steps": SIZE, "rollout_steps": 16, "gamma": 0.9, "lam": 0.8,
        "entropy_weight": 0.02, "value_weight": 0.7, "max_grad_norm": None,
    }  # fmt: skip
    gradients = []
    for loop, config in (
        (a2c, A2CConfig(**common, normalise=whiten)),
        (ppo, PPOConfig(**common, normalise="batch" if whiten else "none", epochs=1,
                        minibatches=1)),
    ):  # fmt: skip
        envs = make_envs("CartPole-v1", 4)
        network = actor_critic(envs, hidden=(16,), shared=shared)
        (report,) = loop(envs, network, config, seed=0)
        gradients.append(flat_gradient(network))
        assert report["grad_norm"] == pytest.approx(gradients[-1].norm().item(), rel=1e-5)
    scale = gradients[0].abs().max().item()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6 * scale)


def test_a2c_anneals_and_cuts_its_gradient():
    """Adam's steps are at most about its learning rate, which here falls to a quarter."""
    envs = make_envs("CartPole-v1", 4)
    network = actor_critic(envs, hidden=(16,))
    config = A2CConfig(total_steps=4 * SIZE, rollout_steps=16, anneal=True, max_grad_norm=1e-3)
    places = [flat(network)]
    for report in a2c(envs, network, config, seed=0):
        places.append(flat(network))
        assert report["grad_norm"] > 0.1
        assert flat_gradient(network).norm().item() == pytest.approx(1e-3, rel=1e-3)
    longest = [(b - a).abs().max().item() for a, b in pairwise(places)]
    assert longest[0] == pytest.approx(1e-3, rel=0.01)
    assert longest[3] < 0.5e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minibatches": 5}, r"64 actions .*rollout_steps=16.* minibatches=5"),
        ({"minibatches": 0}, "minibatches=0"),
        ({"normalise": "all"}, "normalise='all'"),
        ({"epochs": 0}, "epochs=0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(**settings)
    assert "\n" not in str(caught.value)


def test_total_steps_are_rounded_up_to_whole_rollouts():
    envs = vector(Corridor, Corridor)
    config = PPOConfig(total_steps=17, rollout_steps=4, minibatches=2)
    assert last(ppo(envs, actor_critic(envs), config, seed=0)).samples == 24

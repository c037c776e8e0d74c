"""Each loop solves a corridor of five cells, and the same seed gives the same parameters."""

from functools import partial
from itertools import islice

import pytest
import torch
from torch import nn
from worlds import Corridor, actor_critic, flat, q_network, vector

from rlbook.control.a2c import A2CConfig, a2c
from rlbook.control.collect import evaluate
from rlbook.control.dqn import DQNConfig, dqn
from rlbook.control.ppo import PPOConfig, ppo
from rlbook.control.reinforce import ReinforceConfig, reinforce
from rlbook.control.trpo import TRPOConfig, trpo

REINFORCE = partial(ReinforceConfig, total_steps=1250, learning_rate=0.02)
LOOPS = {
    "reinforce, none": (reinforce, REINFORCE(baseline="none", whiten=True)),
    "reinforce, mean": (reinforce, REINFORCE(baseline="mean")),
    "reinforce, value": (
        reinforce, REINFORCE(baseline="value", value_learning_rate=0.02, value_steps=5)
    ),
    "a2c": (a2c, A2CConfig(total_steps=2000, rollout_steps=8, learning_rate=0.01)),
    "trpo": (trpo, TRPOConfig(total_steps=1250, rollout_steps=32, max_kl=0.05)),
    "ppo": (ppo, PPOConfig(total_steps=1250, rollout_steps=32, learning_rate=0.01)),
    "dqn": (
        dqn,
        DQNConfig(
            total_steps=1200, learning_starts=200, exploration_steps=600, target_period=20,
            learning_rate=0.005, rollout_steps=2, gamma=0.9,
        ),
    ),
}  # fmt: skip


def train(name, seed, updates=None):
    """The network after so many updates (all of them by default), and its policy."""
    loop, config = LOOPS[name]
    envs = vector(*[Corridor] * 4)
    network = actor_critic(envs, hidden=(16,), seed=seed)
    if loop is dqn:
        network = q_network(envs, hidden=(16,), seed=seed, activation=nn.ReLU)
    for report in islice(loop(envs, network, config, seed=seed), updates):
        assert all(isinstance(x, float) for x in report.metrics.values())
    return network, network if loop is dqn else network.policy


@pytest.mark.parametrize("name", LOOPS)
def test_the_corridor_is_solved(name):
    """Four steps at -0.1 and +1 at the end: 0.6."""
    _, policy = train(name, seed=1)
    envs = vector(*[Corridor] * 4)
    returns = evaluate(envs, policy, generator=torch.Generator().manual_seed(0))
    assert returns == pytest.approx([0.6] * 4)


@pytest.mark.parametrize("name", LOOPS)
def test_the_same_seed_gives_the_same_parameters(name):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, _ = train(name, seed=1, updates=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    two, _ = train(name, seed=1, updates=4)
    other, _ = train(name, seed=2, updates=4)
    assert torch.equal(flat(one), flat(two))
    assert not torch.equal(flat(one), flat(other))

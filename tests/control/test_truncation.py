"""Reward 1 for ever, and a time limit that cuts every fifth step: every value is 1/(1-γ) = 10.

If a cut counted as an end, the values would be those of 5, 4, ... 1 rewards; the mean over the
five steps that look alike is (4.10 + 3.44 + 2.71 + 1.9 + 1) / 5 = 2.63.
"""

import pytest
import torch
from scripted import Ticking
from worlds import actor_critic, last, q_network, vector

from rlbook.control import dqn, reinforce, scoring
from rlbook.control.a2c import A2CConfig, a2c
from rlbook.control.ppo import PPOConfig, ppo
from rlbook.control.trpo import TRPOConfig, trpo
from rlbook.functional import returns

GAMMA = 0.9
STATE = torch.ones(1)


def actor_critic_value(loop, config):
    envs = vector(*[lambda: Ticking(limit=5)] * 3)
    network = actor_critic(envs, hidden=())
    last(loop(envs, network, config, seed=0))
    return network.value(STATE).item()


def a2c_value():
    config = A2CConfig(total_steps=3 * 10 * 80, rollout_steps=10, gamma=GAMMA, learning_rate=0.1)
    return actor_critic_value(a2c, config)


def ppo_value():
    config = PPOConfig(
        total_steps=3 * 10 * 25, rollout_steps=10, gamma=GAMMA, lam=0.9, learning_rate=0.1,
        minibatches=1, anneal=False,
    )  # fmt: skip
    return actor_critic_value(ppo, config)


def trpo_value():
    config = TRPOConfig(
        total_steps=3 * 10 * 15, rollout_steps=10, gamma=GAMMA, value_learning_rate=0.1
    )
    return actor_critic_value(trpo, config)


def reinforce_value():
    config = reinforce.ReinforceConfig(total_steps=3 * 5 * 15, gamma=GAMMA, value_learning_rate=0.1)
    return actor_critic_value(reinforce.reinforce, config)


def dqn_value(n):
    envs = vector(*[lambda: Ticking(limit=5)] * 3)
    network = q_network(envs, hidden=())
    config = dqn.DQNConfig(
        total_steps=3 * 300, learning_starts=30, gamma=GAMMA, n=n, batch_size=32, huber=None,
        learning_rate=0.1, target_period=5, max_grad_norm=None,
    )  # fmt: skip
    last(dqn.dqn(envs, network, config, seed=0))
    return network(STATE).mean().item()


LOOPS = {
    "a2c": a2c_value,
    "ppo": ppo_value,
    "trpo": trpo_value,
    "reinforce": reinforce_value,
    "dqn": lambda: dqn_value(1),
    "dqn, n=3": lambda: dqn_value(3),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_time_limit_is_not_an_end(loop):
    assert LOOPS[loop]() == pytest.approx(10.0, abs=0.3)  # a cut taken for an end: below 6


@pytest.mark.parametrize("loop", LOOPS)
def test_with_a_limit_taken_for_an_end_the_test_above_fails(loop, monkeypatch):
    """γ V at an end that is none is most of the value, so the learnt one stays far below 10."""

    def mistaken(formula):
        def call(*args, terminated, ended, **options):
            return formula(*args, terminated=ended, ended=ended, **options)

        return call

    monkeypatch.setattr(scoring, "gae", mistaken(returns.gae))
    monkeypatch.setattr(reinforce, "discounted_returns", mistaken(returns.discounted_returns))
    monkeypatch.setattr(dqn, "n_step_returns", mistaken(returns.n_step_returns))
    assert LOOPS[loop]() < 6.0

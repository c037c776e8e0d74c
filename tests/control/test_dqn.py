"""DQN: its targets by hand, its target network, its ε, and when it learns."""

import pytest
import torch
from worlds import Corridor, flat, last, q_network, vector

from rlbook.control import dqn as module
from rlbook.control.dqn import DQNConfig, dqn, epsilon, epsilon_greedy_logits, q_targets
from rlbook.control.networks import Network
from rlbook.control.replay import Windows

SMALL = DQNConfig(total_steps=240, rollout_steps=4, learning_starts=40, batch_size=16)


def table(rows):
    """A network that is a table: Q(state s, a) = rows[s][a]."""
    network = Network((len(rows),), 2, generator=torch.Generator(), hidden=())
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.tensor(rows).T)
    return network


def window(rewards, *, terminated=(), truncated=()):
    """States 0, 1, 2, ... and an end after the steps named."""
    n = len(rewards)
    states = torch.eye(4)[None]
    flags = torch.zeros(2, 1, n, dtype=torch.bool)
    flags[0, 0, list(terminated)] = True
    flags[1, 0, list(truncated)] = True
    return Windows(
        observations=states[:, :n],
        actions=torch.zeros(1, n, dtype=torch.long),
        rewards=torch.tensor([rewards]),
        next_observations=states[:, 1 : n + 1],
        terminated=flags[0],
        ended=flags[0] | flags[1],
    )


SLOW = table([[9.0, 9.0], [1.0, 3.0], [4.0, 2.0], [6.0, 8.0]])
ONLINE = table([[7.0, 7.0], [5.0, 2.0], [0.0, 1.0], [3.0, 0.0]])


@pytest.mark.parametrize(
    ("batch", "double", "expected"),
    [
        (window([1.0]), False, 1 + 0.5 * 3),
        (window([1.0]), True, 1 + 0.5 * 1),  # ONLINE prefers action 0 in state 1; SLOW values it 1
        (window([1.0], terminated=[0]), False, 1.0),
        (window([1.0], terminated=[0]), True, 1.0),
        (window([1.0], truncated=[0]), False, 1 + 0.5 * 3),  # a time limit is not an end
        (window([1.0, 2.0, 4.0]), False, 1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 8),
        (window([1.0, 2.0, 4.0]), True, 1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 6),
        (window([1.0, 2.0, 4.0], terminated=[1]), False, 1 + 0.5 * 2),
        (window([1.0, 2.0, 4.0], truncated=[1]), False, 1 + 0.5 * 2 + 0.25 * 4),
        (window([1.0, 2.0, 4.0], truncated=[1]), True, 1 + 0.5 * 2 + 0.25 * 2),
        (window([1.0, 2.0, 4.0], truncated=[0], terminated=[1]), False, 1 + 0.5 * 3),
        (window([1.0, 2.0, 4.0], terminated=[2]), False, 1 + 0.5 * 2 + 0.25 * 4),
    ],
)
def test_targets_by_hand(batch, double, expected):
    n = batch.rewards.shape[1]
    targets = q_targets(ONLINE, SLOW, batch, gamma=0.5, n=n, double=double)
    assert targets.tolist() == pytest.approx([expected])
    assert not targets.requires_grad


@pytest.mark.parametrize("huber", [None, 1.0])
def test_a_gradient_step_moves_the_action_taken_towards_the_target(huber):
    """One transition, Q(0, a=0) = 7 and target 1 + 0.5·3: error 4.5, Huber gradient 1."""
    network, batch = table([[7.0, 7.0], [5.0, 2.0], [0.0, 1.0], [3.0, 0.0]]), window([1.0])
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    config = DQNConfig(gamma=0.5, huber=huber, max_grad_norm=None)
    row = module._learn(network, SLOW, optimiser, batch, config)
    error = 4.5 if huber is None else 1.0
    weight = network.layers[0].weight
    assert weight[0, 0].item() == pytest.approx(7.0 - 0.1 * error)
    assert weight[1].tolist() == [7.0, 2.0, 1.0, 0.0]
    assert (row["q"], row["target"]) == (7.0, 2.5)
    assert row["loss"] == pytest.approx(0.5 * 4.5**2 if huber is None else 4.5 - 0.5)
    assert row["grad_norm"] == pytest.approx(error * 2**0.5)  # the weight and the bias of a = 0


def test_a_gradient_step_learns_the_first_step_of_a_window():
    """Q(0, a=1) = 7, target 1 + 0.5·2 + 0.25·4 + 0.125·8 = 4: error 3 in that entry alone."""
    network = table([[7.0, 7.0], [5.0, 2.0], [0.0, 1.0], [3.0, 0.0]])
    batch = window([1.0, 2.0, 4.0])._replace(actions=torch.tensor([[1, 0, 0]]))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    config = DQNConfig(gamma=0.5, n=3, huber=None, max_grad_norm=None)
    row = module._learn(network, SLOW, optimiser, batch, config)
    assert (row["q"], row["target"]) == (7.0, 4.0)
    weight = network.layers[0].weight
    assert weight[0].tolist() == [7.0, 5.0, 0.0, 3.0]
    assert weight[1].tolist() == pytest.approx([7.0 - 0.1 * 3.0, 2.0, 1.0, 0.0])


def test_epsilon_falls_linearly_and_stays():
    config = DQNConfig(epsilon_start=0.9, epsilon_end=0.1, exploration_steps=100)
    assert [epsilon(k, config) for k in (0, 25, 50, 100, 1000)] == pytest.approx(
        [0.9, 0.7, 0.5, 0.1, 0.1]
    )
    assert epsilon(0, DQNConfig(epsilon_end=0.1, exploration_steps=0)) == 0.1


def test_epsilon_greedy_probabilities():
    q = torch.tensor([[1.0, 3.0, 2.0, 0.0], [5.0, 4.0, 4.0, 4.0]])
    some = epsilon_greedy_logits(q, 0.2).softmax(-1)  # 0.2 / 4 each, 0.8 more for the best
    torch.testing.assert_close(
        some, torch.tensor([[0.05, 0.85, 0.05, 0.05], [0.85, 0.05, 0.05, 0.05]])
    )
    assert epsilon_greedy_logits(q, 0.0).softmax(-1).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    torch.testing.assert_close(epsilon_greedy_logits(q, 1.0).softmax(-1), torch.full((2, 4), 0.25))


@pytest.mark.parametrize("period", [1, 7, 10])
def test_the_target_network_is_a_copy_from_a_multiple_of_its_period(period, monkeypatch):
    online, slow = [], []

    def spy(network, copied, *args, **options):
        online.append(flat(network))
        slow.append(flat(copied))
        return q_targets(network, copied, *args, **options)

    monkeypatch.setattr(module, "q_targets", spy)
    envs = vector(Corridor, Corridor)
    config = DQNConfig(
        total_steps=120, rollout_steps=4, gradient_steps=3, learning_starts=8, batch_size=4,
        target_period=period,
    )  # fmt: skip
    last(dqn(envs, q_network(envs), config, seed=0))
    assert len(online) == 45  # 15 rollouts of 2 x 4 steps, 3 gradient steps after each
    for k, values in enumerate(slow):
        assert torch.equal(values, online[k // period * period])
        if k % period:
            assert not torch.equal(values, online[k])


def test_without_a_period_there_is_no_target_network(monkeypatch):
    same = []

    def spy(network, slow, *args, **options):
        same.append(slow is network)
        return q_targets(network, slow, *args, **options)

    monkeypatch.setattr(module, "q_targets", spy)
    envs = vector(Corridor)
    last(dqn(envs, q_network(envs), DQNConfig(total_steps=40, target_period=None,
                                              learning_starts=20), seed=0))  # fmt: skip
    assert same and all(same)


def test_reports_begin_with_learning_and_lose_no_return():
    envs = vector(Corridor, Corridor)
    reports = list(dqn(envs, q_network(envs), SMALL, seed=0))
    assert [r.samples for r in reports] == list(range(40, 241, 8))
    assert [r.update for r in reports] == list(range(1, 27))
    assert reports[0]["epsilon"] == pytest.approx(1.0 - 0.95 * 40 / 10_000)
    # Of the 240 steps all but the two running episodes (at most 19 steps each) are in a return:
    # an episode of k steps returns -0.1 k, and 1 more if it reached the end.
    returns = [g for r in reports for g in r.returns]
    steps = sum(round(-10 * g) if g < -1.95 else round(10 * (1.0 - g)) for g in returns)
    assert 240 - 38 <= steps <= 240


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_starts": 300}, "learning_starts=300 lies beyond total_steps=240"),
        ({"target_period": 0}, "target_period=0"),
        ({"capacity": 7}, "capacity=7"),
        ({"n": 0}, "n=0"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    envs = vector(Corridor, Corridor)
    config = DQNConfig(**(vars(SMALL) | change))
    with pytest.raises(ValueError, match=message):
        last(dqn(envs, q_network(envs), config, seed=0))

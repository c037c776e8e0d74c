"""The exercises of chapter 06: their hand cases, and the same numbers from the package."""

import numpy as np
import pytest
import torch

from rlbook.checks.deep_q import EXERCISES
from rlbook.checks.harness import SEED, find, judge
from rlbook.control.collect import Rollout
from rlbook.control.dqn import DQNConfig, epsilon, q_targets
from rlbook.control.replay import Replay, Windows

HAND_CASES = {
    "dqn_targets": [4.0, 2.0, 5.0],
    "double_dqn_targets": [2.0, 2.0, 4.5],
    "huber_loss": [0.125, 2.5, 0.5],
    "epsilon_at": [1.0, 0.6, 0.2, 0.2],
    "ring_write": [8.0, 5.0, 6.0, 7.0],
    "q_network_loop": [[3.375]],
}


class Lookup(torch.nn.Module):
    """A network that looks its answer up: the observation i has the values in row i."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.rows[observations.squeeze(-1).long()]


def cases_of(name: str) -> list[dict]:
    return find(name).cases(np.random.default_rng(SEED))


def test_every_exercise_has_a_hand_case() -> None:
    assert HAND_CASES.keys() == EXERCISES.keys()


@pytest.mark.parametrize("name", HAND_CASES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    """The arithmetic stands beside each case, in the chapter's module."""
    answer = find(name).reference(**cases_of(name)[0])
    np.testing.assert_allclose(np.asarray(answer), HAND_CASES[name], atol=1e-12)


@pytest.mark.parametrize("double", [False, True])
def test_the_targets_are_those_of_the_package(double: bool) -> None:
    for case in cases_of("dqn_targets"):
        rewards, terminated = case["rewards"], case["terminated"]
        rows = torch.arange(len(rewards))
        batch = Windows(
            observations=rows[:, None, None].double(),
            actions=torch.zeros(len(rewards), 1, dtype=torch.long),
            rewards=rewards[:, None],
            next_observations=rows[:, None, None].double(),
            terminated=terminated[:, None],
            ended=(terminated | case["truncated"])[:, None],
        )
        online, slow = Lookup(case["online_q"]), Lookup(case["slow_q"])
        found = q_targets(online, slow, batch, gamma=case["gamma"], n=1, double=double)
        if double:
            del case["truncated"]
        ours = find("double_dqn_targets" if double else "dqn_targets").reference(**case)
        torch.testing.assert_close(ours, found)


def test_the_schedule_is_that_of_the_package() -> None:
    for case in cases_of("epsilon_at"):
        config = DQNConfig(
            epsilon_start=case["start"], epsilon_end=case["end"], exploration_steps=case["over"]
        )
        theirs = [epsilon(int(steps), config) for steps in case["steps"]]
        np.testing.assert_allclose(find("epsilon_at").reference(**case), theirs, atol=1e-12)


def test_the_ring_is_that_of_the_package() -> None:
    memory, store = np.zeros(5), Replay(capacity=5)
    for added in range(0, 21, 3):
        items = np.arange(added, added + 3.0)
        memory = find("ring_write").reference(memory, added, items)
        rewards = torch.tensor(items, dtype=torch.float32)[None]
        no = torch.zeros(1, 3, dtype=torch.bool)
        some = torch.zeros(1, 3, 1)
        store.add(
            Rollout(some, torch.zeros(1, 3, dtype=torch.long), rewards, some, no, no, ~no, ())
        )
        assert store.rows[2][0].tolist() == memory.tolist()


def test_with_one_hot_inputs_the_mended_loop_is_the_table() -> None:
    rng = np.random.default_rng(0)
    s, s_next = rng.integers(4, size=(2, 60))
    a, r, end = rng.integers(3, size=60), rng.normal(size=60), rng.random(60) < 0.2
    Q = rng.normal(size=(4, 3))
    eye = torch.eye(4).double()
    found = find("q_network_loop").reference(
        torch.tensor(Q), eye[s], torch.tensor(a), torch.tensor(r), eye[s_next], torch.tensor(end),
        lr=0.3, gamma=0.9, period=1,
    )  # fmt: skip
    for t in range(60):
        future = 0.0 if end[t] else Q[s_next[t]].max()
        Q[s[t], a[t]] += 0.3 * (r[t] + 0.9 * future - Q[s[t], a[t]])
    np.testing.assert_allclose(found.numpy(), Q, atol=1e-12)


def test_other_right_answers_are_accepted() -> None:
    def dqn_targets(rewards, online_q, slow_q, terminated, truncated, gamma):
        return rewards + gamma * (1.0 - terminated.double()) * slow_q.amax(1)

    def huber_loss(predictions, targets, delta):
        return torch.nn.functional.huber_loss(predictions, targets, reduction="none", delta=delta)

    def epsilon_at(steps, start, end, over):
        return [max(end, start - (start - end) * step / over) for step in steps]

    def ring_write(memory, added, items):
        memory = list(memory)
        for k, item in enumerate(items):
            memory[(added + k) % len(memory)] = item
        return memory

    def double_dqn_targets(rewards, online_q, slow_q, terminated, gamma):
        y = torch.zeros(len(rewards))  # 32 bits
        for i, a in enumerate(online_q.argmax(dim=1)):
            y[i] = rewards[i] + (0.0 if terminated[i] else gamma * slow_q[i, a])
        return y

    for answer in (dqn_targets, double_dqn_targets, huber_loss, epsilon_at, ring_write):
        name = answer.__name__
        assert judge(name, find(name), answer).status == "right"

"""The replay memory: what it keeps, what it draws, and where its windows stop."""

import pytest
import torch
from oracles import chi_square_p

from rlbook.control.collect import Rollout
from rlbook.control.replay import Replay

GENERATOR = torch.Generator()


def clock(B, start, T, *, end_every=5):
    """Environment b at time k shows 1000 b + k, next k + 1, pays k, and ends every few steps:
    every second end is a termination."""
    time = torch.arange(start, start + T)
    ended = (time % end_every == end_every - 1).expand(B, T)
    terminated = ended & (time % (2 * end_every) == end_every - 1)
    now = (1000 * torch.arange(B)[:, None] + time).float()
    return Rollout(
        observations=now[..., None],
        actions=(time % 3).expand(B, T),
        rewards=time.float().expand(B, T),
        next_observations=now[..., None] + 1,
        terminated=terminated,
        truncated=ended & ~terminated,
        mask=torch.ones(B, T, dtype=torch.bool),
        returns=(),
    )


def filled(*, rollouts, T=3, B=2, capacity=17):
    """8 steps of each of two environments; rollouts of 3, so that they straddle the seam."""
    memory = Replay(capacity)
    for k in range(rollouts):
        memory.add(clock(B, k * T, T))
    return memory


def sample(memory, count, n=1, seed=0):
    return memory.sample(count, n=n, generator=GENERATOR.manual_seed(seed))


@pytest.mark.parametrize("rollouts", [1, 2, 3, 4, 7])
def test_it_holds_the_last_steps_of_each_environment(rollouts):
    memory = filled(rollouts=rollouts)
    newest = 3 * rollouts
    expected = {1000 * b + t for b in range(2) for t in range(max(0, newest - 8), newest)}
    assert len(memory) == len(expected)
    drawn = sample(memory, 2000).observations.flatten().int().tolist()
    assert set(drawn) == expected  # one of 16 is missed with a chance of 16 · (15/16)^2000 < 10⁻⁵⁴


def test_an_empty_memory_holds_and_draws_nothing():
    assert len(Replay(8)) == 0
    with pytest.raises(ValueError, match="empty"):
        sample(Replay(8), 1)


def test_every_transition_is_as_likely_as_any_other():
    """Fails by chance once in 10⁵ seeds."""
    memory = filled(rollouts=7)  # times 13 ... 20, the seam inside
    drawn = sample(memory, 8000, n=3).observations[:, 0].flatten().int()
    counts = torch.bincount(drawn % 1000 - 13 + 8 * (drawn // 1000), minlength=16)
    assert counts.shape == (16,)
    even = torch.full((16,), 1 / 16)
    assert chi_square_p(counts.numpy()[None], even.double().numpy()[None]) > 1e-5


@pytest.mark.parametrize("rollouts", [2, 3, 7])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_windows_keep_to_one_environment_and_never_pass_the_newest_step(rollouts, n):
    memory = filled(rollouts=rollouts)
    newest = 3 * rollouts - 1
    windows = sample(memory, 500, n=n)
    starts = set()
    for row in range(500):
        env, time = divmod(int(windows.observations[row, 0]), 1000)
        starts.add(time)
        for k in range(n):  # every step up to the first end is the next of the same environment
            assert windows.observations[row, k] == 1000 * env + time + k
            assert windows.next_observations[row, k] == 1000 * env + time + k + 1
            assert windows.rewards[row, k] == time + k <= newest
            assert windows.actions[row, k] == (time + k) % 3
            assert windows.terminated[row, k] == ((time + k) % 10 == 4)
            assert windows.ended[row, k] == ((time + k) % 5 == 4 or time + k == newest)
            if windows.ended[row, k]:
                break
    assert starts == set(range(max(0, newest - 7), newest + 1))


def test_a_rollout_that_is_larger_than_the_memory_is_refused():
    with pytest.raises(ValueError, match=r"capacity=5 cannot hold .* 2 x 3 .* at least 6"):
        filled(rollouts=1, capacity=5)
    assert len(filled(rollouts=4, capacity=6)) == 6  # no replay: just the last rollout

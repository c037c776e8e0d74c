"""Step credit: a response by hand, the telescope, and GAE as the other end."""

import pytest
import torch

from rlbook.functional.credit import step_advantages, token_advantages
from rlbook.functional.returns import gae


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, expected, tolerance=1e-12):
    expected = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def steps(*lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def test_two_responses_by_hand():
    values = torch.tensor([[0.5, 0.75, 0.25], [0.5, 0.125, 9.0]], dtype=torch.float64)
    rewards = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found = step_advantages(values, rewards, steps(3, 2))
    # 0.75 - 0.5, 0.25 - 0.75, 1 - 0.25; then 0.125 - 0.5, 0 - 0.125
    close(found, [[0.25, -0.5, 0.75], [-0.375, -0.125, 0.0]])


def test_steps_sum_to_reward_less_the_value_of_the_prompt():
    values, rewards, mask = random(50, 8), random(50, seed=1), steps(*range(1, 9), *[5] * 42)
    found = step_advantages(values, rewards, mask)
    close(found.sum(dim=1), rewards - values[:, 0])


def test_lambda_one_is_the_return_less_the_value():
    values, rewards, mask = random(3, 4), random(3, seed=1), steps(4, 2, 1)
    found = step_advantages(values, rewards, mask, lam=1.0)
    close(found, torch.where(mask, rewards[:, None] - values, 0.0))


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_with_a_step_for_each_token_it_is_gae(lam):
    values, rewards = random(2, 5), random(2, seed=1)
    mask = steps(5, 3)
    last = torch.tensor([[False] * 4 + [True], [False, False, True, False, False]])
    next_values = torch.where(last, 0.0, values.roll(-1, 1))
    expected = gae(
        torch.where(last, rewards[:, None], 0.0),
        values,
        next_values,
        terminated=last,
        ended=last,
        gamma=1.0,
        lam=lam,
    )
    close(step_advantages(values, rewards, mask, lam=lam), torch.where(mask, expected, 0.0))


def test_junk_outside_the_mask_does_not_leak():
    values = random(2, 4)
    mask = steps(4, 2)
    found = step_advantages(torch.where(mask, values, torch.nan), random(2, seed=1), mask)
    close(found, step_advantages(values, random(2, seed=1), mask))


def test_tokens_get_their_steps_advantage_and_eos_the_last():
    advantages = torch.tensor([[0.25, -0.5], [2.0, 0.0]])
    index = torch.tensor([[0, 0, 1, 1], [0, 0, 7, -3]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    found = token_advantages(advantages, index, mask)
    assert found.tolist() == [[0.25, 0.25, -0.5, -0.5], [2.0, 2.0, 0.0, 0.0]]


def test_errors_name_the_row():
    values, rewards = torch.zeros(2, 3), torch.zeros(2)
    with pytest.raises(ValueError, match="response 1 has no step"):
        step_advantages(values, rewards, torch.tensor([[True] * 3, [False] * 3]))
    with pytest.raises(ValueError, match="a gap in row 0"):
        step_advantages(values, rewards, torch.tensor([[True, False, True], [True] * 3]))
    with pytest.raises(ValueError, match=r"token 1 of response 0 belongs to step 3"):
        index = torch.tensor([[0, 3]])
        token_advantages(values[:1], index, torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"token 0 of response 0 belongs to step -1"):
        token_advantages(values[:1], index - 1, torch.tensor([[True, False]]))

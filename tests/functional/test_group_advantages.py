"""Group advantages: four samples by hand, reductions, and what the layout must not mix."""

import math

import pytest
import torch

from rlbook.functional.group_advantages import (
    dr_grpo_advantages,
    globally_normalised_advantages,
    grpo_advantages,
    informative_groups,
    overlong_penalty,
    rloo_advantages,
)

ALL = [
    grpo_advantages,
    dr_grpo_advantages,
    rloo_advantages,
    globally_normalised_advantages,
]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, expected, tolerance=1e-12):
    expected = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# Rewards 1, 0, 0, 0: mean 1/4; squares of the differences 9/16 + 3/16 = 3/4; sample variance 1/4,
# population variance 3/16. The others' mean is 0 for the first and 1/3 for the rest.
FOUR = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def test_four_samples_by_hand():
    close(dr_grpo_advantages(FOUR), [[0.75, -0.25, -0.25, -0.25]])
    close(rloo_advantages(FOUR), [[1.0, -1 / 3, -1 / 3, -1 / 3]])
    close(grpo_advantages(FOUR, epsilon=0.0), [[1.5, -0.5, -0.5, -0.5]])
    root = math.sqrt(3.0)
    population = grpo_advantages(FOUR, sample_std=False, epsilon=0.0)
    close(population, [[3 / root, -1 / root, -1 / root, -1 / root]])
    close(grpo_advantages(FOUR, epsilon=0.25), [[1.0, -1 / 3, -1 / 3, -1 / 3]])


def test_two_samples_are_half_root_two_or_one():
    two = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    half = math.sqrt(0.5)
    close(grpo_advantages(two, epsilon=0.0), [[half, -half]])
    close(grpo_advantages(two, epsilon=0.0, sample_std=False), [[1.0, -1.0]])


def test_leave_one_out_against_a_plain_loop():
    rewards = random(5, 7)
    found = rloo_advantages(rewards)
    for n in range(5):
        for k in range(7):
            others = [rewards[n, j].item() for j in range(7) if j != k]
            expected = rewards[n, k].item() - sum(others) / 6
            assert found[n, k].item() == pytest.approx(expected, abs=1e-12)


def test_global_normalisation_by_hand():
    # centred: ±1 and ±3: the root of the mean square is √5
    rewards = torch.tensor([[1.0, -1.0], [10.0, 4.0]], dtype=torch.float64)
    root = math.sqrt(5.0)
    found = globally_normalised_advantages(rewards, epsilon=0.0)
    close(found, [[1 / root, -1 / root], [3 / root, -3 / root]])


@pytest.mark.parametrize("advantages", ALL)
def test_a_group_sums_to_zero_and_shifts_do_not_matter(advantages):
    rewards = random(6, 5)
    close(advantages(rewards).sum(dim=1), torch.zeros(6), 1e-10)
    shifted = rewards + 10 * torch.arange(6.0, dtype=torch.float64)[:, None]
    close(advantages(shifted), advantages(rewards), 1e-9)


@pytest.mark.parametrize("advantages", ALL)
def test_equal_rewards_give_exactly_zero(advantages):
    # 0.1 summed seven times and divided by seven is not 0.1 in float32
    assert (advantages(torch.full((3, 7), 0.1)) == 0).all()
    for epsilon in (0.0, 1e-9):
        assert (grpo_advantages(torch.full((3, 7), 0.1), epsilon=epsilon) == 0).all()
        assert (globally_normalised_advantages(torch.full((2, 7), 0.1), epsilon=epsilon) == 0).all()


def test_interleaved_groups_are_another_thing():
    """K samples of one prompt stand in one row; the transposed layout gives other numbers."""
    rewards = torch.tensor([[1.0, 1.0], [0.0, 0.0]])  # an easy prompt and a hard one
    assert (rloo_advantages(rewards) == 0).all()
    assert (rloo_advantages(rewards.T.contiguous()) != 0).all()


def test_informative_groups():
    rewards = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert informative_groups(rewards).tolist() == [False, True, False]
    close_by = torch.tensor([[0.5, 0.5 + 1e-6], [0.5, 0.5]])  # however little they differ
    assert informative_groups(close_by).tolist() == [True, False]
    assert (dr_grpo_advantages(close_by)[0] != 0).all()


def test_a_price_in_front_of_the_limit_by_hand():
    """Limit 10, buffer 4: free up to 6 tokens, then a quarter for each more."""
    lengths = torch.tensor([1, 6, 7, 9, 10])
    close(overlong_penalty(lengths, limit=10, buffer=4), [0, 0, -0.25, -0.75, -1.0], 1e-7)


@pytest.mark.parametrize(("limit", "buffer"), [(12, 1), (12, 5), (12, 12)])
def test_the_price_is_the_papers_three_cases(limit, buffer):
    for length in range(1, limit + 3):
        expected = 0.0 if length <= limit - buffer else (limit - buffer - length) / buffer
        expected = -1.0 if length > limit else expected
        found = overlong_penalty(torch.tensor([length]), limit=limit, buffer=buffer)
        assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("buffer", [0, 11])
def test_a_buffer_outside_the_limit_is_refused(buffer):
    with pytest.raises(ValueError, match=f"buffer={buffer} tokens must lie in 1 ... 10"):
        overlong_penalty(torch.tensor([3]), limit=10, buffer=buffer)


@pytest.mark.parametrize("advantages", ALL)
def test_errors_name_the_sample(advantages):
    with pytest.raises(ValueError, match="K=1: a group needs at least 2"):
        advantages(torch.zeros(3, 1))
    bad = torch.zeros(3, 4)
    bad[1, 2] = torch.nan
    with pytest.raises(ValueError, match="sample 2 of prompt 1 is nan"):
        advantages(bad)


def test_negative_epsilon():
    for advantages in (grpo_advantages, globally_normalised_advantages):
        with pytest.raises(ValueError, match=r"epsilon=-0\.1 must not be negative"):
            advantages(FOUR, epsilon=-0.1)

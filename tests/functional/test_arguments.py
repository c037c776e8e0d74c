"""Errors at the door: what a user without shape annotations gets."""

import re

import pytest
import torch
from rollouts import jaxtyping_off

from rlbook.functional.arguments import (
    check_batch_time,
    check_bool,
    check_positive,
    check_same_shape,
    check_unit,
)
from rlbook.functional.kl import exact_kl, kl_k3, per_token_kl_reward
from rlbook.functional.masked import aggregate, masked_mean
from rlbook.functional.off_policy import importance_ratios, vtrace
from rlbook.functional.policy_losses import clip_active, ppo_clip_loss, reinforce_loss
from rlbook.functional.returns import discounted_returns, gae, lambda_returns, n_step_returns
from rlbook.functional.value_losses import clipped_value_loss, huber_loss, squared_loss, td_error


def test_shapes_that_would_broadcast_are_refused():
    check_same_shape(rewards=torch.zeros(2, 3), values=torch.zeros(2, 3), ended=None)
    message = "rewards (2, 3), values (2, 3, 1)"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_same_shape(rewards=torch.zeros(2, 3), values=torch.zeros(2, 3, 1))


def test_a_single_rollout_needs_its_batch_dimension():
    check_batch_time(rewards=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"rewards has shape \(3,\).*pass rewards\[None\]"):
        check_batch_time(rewards=torch.zeros(3))


def test_flags_must_be_bools():
    check_bool(ended=torch.tensor([True]), terminated=None)
    with pytest.raises(ValueError, match=r"ended holds torch.float32.*ended.bool\(\)"):
        check_bool(ended=torch.tensor([1.0]))


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_a_discount_lies_between_0_and_1(gamma):
    check_unit(gamma=0.0, lam=1.0)
    with pytest.raises(ValueError, match=re.escape(f"gamma={gamma} must lie in [0, 1]")):
        check_unit(lam=0.5, gamma=gamma)


@pytest.mark.parametrize("delta", [0.0, -1.0, float("nan")])
def test_positive_numbers(delta):
    check_positive(delta=1e-9)
    with pytest.raises(ValueError, match=f"delta={delta} must be above 0"):
        check_positive(delta=delta)


ROLLOUT = torch.zeros(2, 3)
NO = torch.zeros(2, 3, dtype=torch.bool)
WIDE = ROLLOUT[..., None]
FLAGS = {"terminated": NO, "ended": NO}


@pytest.mark.parametrize(
    "call",
    [
        lambda: gae(ROLLOUT, WIDE, ROLLOUT, **FLAGS, gamma=0.9, lam=0.9),
        lambda: gae(ROLLOUT[0], ROLLOUT[0], ROLLOUT[0], **FLAGS, gamma=0.9, lam=0.9),
        lambda: gae(ROLLOUT, ROLLOUT, ROLLOUT, terminated=NO, ended=NO[:1], gamma=0.9, lam=0.9),
        lambda: gae(ROLLOUT, ROLLOUT, ROLLOUT, terminated=NO, ended=NO.int(), gamma=0.9, lam=0.9),
        lambda: lambda_returns(ROLLOUT, WIDE, **FLAGS, gamma=0.9, lam=0.9),
        lambda: n_step_returns(ROLLOUT, ROLLOUT[:, :1], n=2, **FLAGS, gamma=0.9),
        lambda: discounted_returns(ROLLOUT[0], gamma=0.9),
        lambda: discounted_returns(ROLLOUT, gamma=0.9, terminated=NO.float()),
        lambda: td_error(ROLLOUT, WIDE, ROLLOUT, terminated=NO, gamma=0.9),
        lambda: squared_loss(ROLLOUT, WIDE),
        lambda: huber_loss(ROLLOUT, WIDE),
        lambda: clipped_value_loss(ROLLOUT, ROLLOUT, WIDE, clip=0.2),
        lambda: reinforce_loss(ROLLOUT, ROLLOUT[:, :1]),
        lambda: ppo_clip_loss(ROLLOUT, ROLLOUT, ROLLOUT[:, :1], clip=0.2),
        lambda: clip_active(ROLLOUT, ROLLOUT[:, :1], clip=0.2),
        lambda: importance_ratios(ROLLOUT, WIDE),
        lambda: vtrace(
            ROLLOUT, ROLLOUT, ROLLOUT, ROLLOUT[:, :1], ROLLOUT[:, :1], **FLAGS, gamma=0.9
        ),
        lambda: exact_kl(ROLLOUT, ROLLOUT[0]),
        lambda: kl_k3(ROLLOUT, ROLLOUT[0]),
        lambda: per_token_kl_reward(ROLLOUT[:, :1], ROLLOUT, ROLLOUT, ~NO, beta=0.1),
        lambda: aggregate(ROLLOUT[0], ~NO[0], "token-mean"),
        lambda: aggregate(ROLLOUT, ~NO[:1], "token-mean"),
        lambda: masked_mean(ROLLOUT, NO.float()),
    ],
)
def test_without_shape_checking_the_doors_hold(call):
    """Outside of the test run nothing reads the annotations: what would broadcast is refused."""
    with (
        jaxtyping_off(),
        pytest.raises(ValueError, match=r"must (have one shape|hold bools|be \[B)"),
    ):
        call()


def test_integer_rewards_are_discounted():
    """full_like(rewards, gamma) of integers would be 0."""
    with jaxtyping_off():
        returns = discounted_returns(torch.tensor([[1, 2, 4]]), gamma=0.5)
    assert returns.tolist() == [[1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4, 4]]

"""Credit per *step* of a response: from the values of a few states to an advantage for each token.

A response is cut into steps (a line of a solution, a move). s_i is the text before step i, and
somebody says what it is worth: fresh rollouts from s_i (VinePPO), or a value network. The step's
advantage is what it changed; each token of the step gets it.

Undiscounted, as for text: γ = 1. λ is GAE's: 0 is VinePPO's difference of neighbouring values, 1
is the whole return less V(s_i). With one token per step this *is* GAE over tokens.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlbook.functional.arguments import (
    check_batch_time,
    check_bool,
    check_same_shape,
)
from rlbook.functional.returns import gae


def step_advantages(
    step_values: Float[Tensor, "B S"],
    rewards: Float[Tensor, " B"],
    step_mask: Bool[Tensor, "B S"],
    *,
    lam: float = 0.0,
) -> Float[Tensor, "B S"]:
    """How much each step changed the expected reward.

        A_i = r_i + V(s_{i+1}) - V(s_i),    V(terminal) = 0,    r_i = 0 but for the last step

    With λ = 0 they sum to R - V(s_0) over a response's steps, exactly and whatever the values are:
    credit is moved about, never made. Do it before whitening, and once per step, not per token.

    Args:
        step_values: V(s_i) [B, S], the value of the state *before* step i; column 0 is the prompt.
        rewards: R [B] of the whole responses.
        step_mask: True for steps that exist, without gaps from column 0.
        lam: λ of GAE over steps.

    Raises ValueError for a response without steps and for a mask with gaps, naming the row.

    Book: 20_vineppo. Source: Kazemnejad et al. (2024), section 4.
    """
    check_batch_time(step_values=step_values)
    check_bool(step_mask=step_mask)
    check_same_shape(step_values=step_values, step_mask=step_mask)
    check_same_shape(rewards=rewards, one_per_response=step_values[:, 0])
    last = _last_step(step_mask)
    step_rewards = torch.where(last, rewards[:, None], 0.0)
    values = torch.where(step_mask, step_values, 0.0)
    next_values = torch.where(last, 0.0, values.roll(-1, dims=1))
    advantages = gae(
        step_rewards, values, next_values, terminated=last, ended=last, gamma=1.0, lam=lam
    )
    return torch.where(step_mask, advantages, 0.0)


def token_advantages(
    advantages: Float[Tensor, "B S"],
    step_index: Int[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """Give every token of a response its step's advantage.

        A_t = A_{i(t)}    i(t): the step that token t belongs to; EOS belongs to the last

    Args:
        advantages: [B, S] from ``step_advantages``.
        step_index: i(t) [B, T], from 0; anything outside the mask.
        response_mask: True where the policy chose the token; 0 comes out elsewhere.

    Raises ValueError for an index outside 0 ... S-1, naming row and token.

    Book: 20_vineppo. Source: Kazemnejad et al. (2024), section 4.
    """
    check_batch_time(advantages=advantages)
    check_bool(response_mask=response_mask)
    check_same_shape(step_index=step_index, response_mask=response_mask)
    outside = response_mask & ((step_index < 0) | (step_index >= advantages.shape[1]))
    if outside.any():
        b, t = (int(i) for i in outside.nonzero()[0])
        raise ValueError(
            f"token {t} of response {b} belongs to step {int(step_index[b, t])}, but there are "
            f"advantages for steps 0 ... {advantages.shape[1] - 1} only"
        )
    index = torch.where(response_mask, step_index, 0)
    return torch.where(response_mask, advantages.gather(1, index), 0.0)


def _last_step(step_mask: Tensor) -> Tensor:
    """True at each row's last step."""
    steps = step_mask.sum(dim=1)
    if (steps == 0).any():
        row = int((steps == 0).nonzero()[0, 0])
        raise ValueError(f"response {row} has no step, so its reward has no place: drop the row")
    run = torch.arange(step_mask.shape[1], device=step_mask.device) < steps[:, None]
    if (run != step_mask).any():
        row = int((run != step_mask).any(dim=1).nonzero()[0, 0])
        raise ValueError(f"step_mask has a gap in row {row}: steps fill it from column 0 on")
    return torch.arange(step_mask.shape[1], device=step_mask.device) == steps[:, None] - 1

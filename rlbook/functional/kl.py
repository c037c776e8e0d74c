"""How far a policy is from a reference: exactly, by three estimators, as a reward, as a target.

KL(π‖ref) = E_π[log π - log ref]. With d = log ref - log π at an action drawn from π, three
numbers per sample have been used for it:

    estimator            as an estimate of KL(π‖ref)       as a loss: E[∇ estimator]
    k1 = -d              unbiased, any sign                0
    k2 = ½ d²            biased, never negative            ∇KL(π‖ref)
    k3 = e^d - 1 - d     unbiased, never negative          ∇KL(ref‖π): the other one

The right column holds with samples held fixed, for one categorical choice (or for the log-ratio
of a whole sequence): the gradient of an unbiased estimate is not an unbiased estimate of the
gradient. *Summed per token over a sequence* none of them gives the sequence's ∇KL: each is the
gradient at fixed prefixes, and misses how the policy changes which prefixes occur. k1 in the
reward, undiscounted and with reward-to-go, does give it: ``per_token_kl_reward``.
Chapter 16 shows all of this by enumeration.

The names are Schulman's (2020), "Approximating KL divergence".
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlbook.functional.arguments import (
    check_batch_time,
    check_bool,
    check_positive,
    check_same_shape,
)

ERROR_LIMIT = 0.2  # Ziegler et al. (2019), section 2.2


def exact_kl(
    logits: Float[Tensor, "*shape V"], ref_logits: Float[Tensor, "*shape V"]
) -> Float[Tensor, "*shape"]:
    """KL divergence between two choices among V actions, in nats.

        KL(π‖ref) = Σ_a π(a) ( log π(a) - log ref(a) ),    0 · log 0 = 0

    Differentiable in both. Infinite where π allows an action that ref rules out (a logit of
    -inf); an action that π rules out adds 0. Swap the arguments for the other direction.

    Book: 09_ppo, 16_kl. Source: Kullback and Leibler (1951).
    """
    check_same_shape(logits=logits, ref_logits=ref_logits)
    log_pi = torch.log_softmax(logits, dim=-1)
    log_ref = torch.log_softmax(ref_logits, dim=-1)
    pi = log_pi.exp()
    possible = pi > 0
    difference = torch.where(possible, log_pi, 0.0) - torch.where(possible, log_ref, 0.0)
    return (pi * difference).sum(dim=-1)


def kl_k1(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The log-ratio itself: unbiased for KL(π‖ref), of either sign.

        k1 = log π - log ref

    As a loss it does nothing on average: E[∇k1] = E[∇ log π] = 0. Its place is in the reward.

    Book: 16_kl. Source: Schulman (2020).
    """
    return -_log_ratio(logprobs, ref_logprobs)


def kl_k2(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Half the squared log-ratio: a biased estimate of KL(π‖ref), and the right loss for it.

        k2 = ½ (log π - log ref)²

    For one categorical choice E[∇k2] = ∇KL(π‖ref).

    Book: 16_kl. Source: Schulman (2020).
    """
    return 0.5 * _log_ratio(logprobs, ref_logprobs).square()


def kl_k3(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The log-ratio with a term of mean 0 added: unbiased for KL(π‖ref), and never negative.

        k3 = e^d - 1 - d,    d = log ref - log π

    For one categorical choice E[∇k3] = ∇KL(ref‖π), the other direction. With the sign of d
    turned round it estimates something else altogether (a χ² less KL(π‖ref)).

    Book: 16_kl, 18_grpo. Source: Schulman (2020); Shao et al. (2024), equation 4.
    """
    d = _log_ratio(logprobs, ref_logprobs)
    return torch.expm1(d) - d


def per_token_kl_reward(
    rewards: Float[Tensor, " B"],
    logprobs: Float[Tensor, "B T"],
    ref_logprobs: Float[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    *,
    beta: float,
) -> Float[Tensor, "B T"]:
    """Reward per token: a price for leaving the reference, and the task's reward at the end.

        r_t = -β (log π - log ref)(a_t|s_t) + [t is the last token] R

    Their sum estimates R - β KL(π‖ref) of the whole response. With γ = λ = 1 REINFORCE on these
    follows its exact gradient. Cells outside the mask are 0; the result carries no gradient.

    Args:
        rewards: R [B], one per response.
        logprobs, ref_logprobs: [B, T] of the drawn tokens. Under the policy that drew them:
            temperature, and the moment at which it drew.
        response_mask: True for the policy's tokens, EOS included; R goes to the last True.
        beta: price in units of reward per nat, at least 0.

    Raises ValueError for a negative beta and for a response without tokens (its reward would be
    lost), naming the row.

    Book: 16_kl, 17_ppo_gpt2.
    Source: Ziegler et al. (2019), equation 2; Ouyang et al. (2022), equation 2.
    """
    check_batch_time(logprobs=logprobs)
    check_bool(response_mask=response_mask)
    check_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs, response_mask=response_mask)
    check_same_shape(rewards=rewards, one_per_response=logprobs[:, 0])
    if not beta >= 0.0:
        raise ValueError(
            f"beta={beta} must not be negative: that would pay for leaving the reference"
        )
    empty = ~response_mask.any(dim=1)
    if empty.any():
        row = int(empty.nonzero()[0, 0])
        raise ValueError(
            f"response {row} has no token in response_mask, so its reward has no place: a response "
            "holds at least its EOS; drop the row"
        )
    penalty = -beta * kl_k1(logprobs, ref_logprobs).detach()
    tokens_left = response_mask.flip(1).cumsum(1).flip(1)  # this one included
    last = response_mask & (tokens_left == 1)
    return torch.where(response_mask, penalty, 0.0) + torch.where(last, rewards[:, None], 0.0)


def adapt_kl_coefficient(
    coefficient: float, measured_kl: float, *, target: float, horizon: float, steps: int
) -> float:
    """The next β: higher if the policy is too far from the reference, lower if it is too near.

        e = clip( KL / KL_target - 1, -0.2, 0.2 ),    β ← β ( 1 + e · steps / horizon )

    Args:
        coefficient: β now, above 0 (0 would stay 0 for ever).
        measured_kl: mean KL per response in nats, estimated on the last batch.
        target: the KL per response to hold, in nats.
        horizon: over about how many responses β may change by a factor of e^±0.2.
        steps: responses since the last call (the batch size).

    Raises ValueError for a coefficient, target or horizon that is not above 0, for a KL that is not
    a finite number, and for a horizon of 0.2 · steps or less: β could reach 0, or change its sign.

    Book: 16_kl, 17_ppo_gpt2.
    Source: Ziegler et al. (2019), section 2.2; its K_β is steps / horizon.
    """
    check_positive(coefficient=coefficient, target=target, horizon=horizon)
    if not abs(measured_kl) < float("inf"):
        raise ValueError(f"measured_kl={measured_kl} is not a finite number")
    if not ERROR_LIMIT * steps < horizon:
        raise ValueError(
            f"horizon={horizon} is too short for {steps} responses at once: beta could fall to 0 "
            f"or below; take more than {ERROR_LIMIT * steps:g}"
        )
    error = min(max(measured_kl / target - 1.0, -ERROR_LIMIT), ERROR_LIMIT)
    return coefficient * (1.0 + error * steps / horizon)


def _log_ratio(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """d = log ref - log π. The reference is a constant."""
    check_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    return ref_logprobs.detach() - logprobs

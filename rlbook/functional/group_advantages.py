"""Advantages without a value network: K responses to one prompt judge each other.

rewards [N, K]: N prompts, and in each row the K responses to that prompt. The layout matters: a
group that mixes prompts compares what cannot be compared, and nothing fails. The result is
[N, K], one advantage per *response*; every token of the response gets it (``[:, None]`` after
flattening to [B]).

What tells the methods apart is what they divide by:

    r - mean                            dr_grpo    unbiased up to the factor (K-1)/K
    (r - mean) · K/(K-1)                rloo       unbiased: the others' mean as baseline
    (r - mean) / std of the group       grpo       weights each prompt by 1/std: another objective
    (r - mean) / std of the batch       globally normalised: the same weight for every prompt
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EPSILON = 1e-4  # added to a standard deviation; public code uses 1e-4 to 1e-9


def grpo_advantages(
    rewards: Float[Tensor, "N K"], *, sample_std: bool = True, epsilon: float = EPSILON
) -> Float[Tensor, "N K"]:
    """Rewards with mean 0 and standard deviation 1 within each group.

        A_k = ( r_k - mean ) / ( std + ε )

    A prompt that is nearly always or nearly never solved has a small std, so its few surprises
    weigh most. A group without spread gets 0.

    Args:
        rewards: [N, K], K ≥ 2.
        sample_std: divide the squares by K-1, as the common code does; False: by K. For K = 2
            two different rewards become ±0.71, or ±1.
        epsilon: ε, at least 0.

    Raises ValueError for K < 2 and for rewards that are not finite, naming the sample.

    Book: 18_grpo. Source: Shao et al. (2024), section 4.1.2.
    """
    centred = dr_grpo_advantages(rewards)
    if not epsilon >= 0.0:
        raise ValueError(f"epsilon={epsilon} must not be negative")
    std = rewards.std(dim=1, keepdim=True, correction=int(sample_std))
    # Equal rewards are centred to 0, but their std may be 0 as well: 0/0 where ε is 0.
    spread = informative_groups(rewards)[:, None]
    return centred / torch.where(spread, std + epsilon, 1.0)


def dr_grpo_advantages(rewards: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """Rewards less their group's mean, and nothing else.

        A_k = r_k - mean

    The mean contains r_k itself, which shrinks the expected gradient by (K-1)/K and does not turn
    it: a matter of the learning rate. A group without spread gets exactly 0, rounding or not.

    Raises ValueError for K < 2 and for rewards that are not finite, naming the sample.

    Book: 18_grpo. Source: Liu et al. (2025), section 3.
    """
    spread = informative_groups(rewards)[:, None]
    return torch.where(spread, rewards - rewards.mean(dim=1, keepdim=True), 0.0)


def rloo_advantages(rewards: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """Each reward less the mean of the *other* rewards of its group.

        A_k = r_k - (K-1)⁻¹ Σ_{j≠k} r_j = K/(K-1) · ( r_k - mean )

    The baseline does not depend on response k, so the policy gradient stays unbiased.

    Raises ValueError for K < 2 and for rewards that are not finite, naming the sample.

    Book: 18_grpo. Source: Kool et al. (2019); Ahmadian et al. (2024), section 3.
    """
    K = rewards.shape[-1]
    return dr_grpo_advantages(rewards) * (K / (K - 1))


def globally_normalised_advantages(
    rewards: Float[Tensor, "N K"], *, epsilon: float = EPSILON
) -> Float[Tensor, "N K"]:
    """Rewards less their group's mean, divided by one standard deviation for the whole batch.

        A = ( r - group mean ) / ( std over all N·K of ( r - group mean ) + ε )

    The step's size no longer depends on the rewards' scale, and every prompt keeps its weight.
    Depends on the batch: compute it before the batch is split.

    Raises ValueError for K < 2 and for rewards that are not finite, naming the sample.

    Book: 18_grpo. Source: Hu et al. (2025), REINFORCE++ with baseline.
    """
    centred = dr_grpo_advantages(rewards)
    if not epsilon >= 0.0:
        raise ValueError(f"epsilon={epsilon} must not be negative")
    if not informative_groups(rewards).any():
        return torch.zeros_like(rewards)
    return centred / (centred.square().mean().sqrt() + epsilon)


def informative_groups(rewards: Float[Tensor, "N K"]) -> Bool[Tensor, " N"]:
    """True for the groups whose rewards differ: the others carry no policy gradient.

    Dropping the others saves compute; the loss's denominator must go on counting them, or the
    step grows as more prompts are solved.

    Book: 18_grpo. Source: Yu et al. (2025, DAPO), section 3.2, "dynamic sampling".
    """
    _check(rewards)
    return rewards.amax(dim=1) > rewards.amin(dim=1)


def overlong_penalty(lengths: Int[Tensor, " B"], *, limit: int, buffer: int) -> Float[Tensor, " B"]:
    """What to add to the rewards of responses that come near the length limit.

        0 up to limit - buffer tokens,  then a line down,  -1 at the limit

    A response that is cut says little about its content; a soft price in front of the cliff tells
    the policy what was wrong with it. Lengths count tokens, EOS included.

    Raises ValueError unless 1 ≤ buffer ≤ limit.

    Book: 18_grpo. Source: Yu et al. (2025, DAPO), equation 13, "soft overlong punishment".
    """
    if not 1 <= buffer <= limit:
        raise ValueError(f"buffer={buffer} tokens must lie in 1 ... {limit}, the length limit")
    return ((limit - buffer - lengths) / buffer).clamp(min=-1.0, max=0.0)


def _check(rewards: Tensor) -> None:
    if rewards.ndim != 2:
        raise ValueError(
            f"rewards have shape {tuple(rewards.shape)}, but must be [N, K]: one row per prompt; "
            "for B = N·K responses use rewards.view(N, K)"
        )
    if rewards.shape[1] < 2:
        raise ValueError(
            f"K={rewards.shape[1]}: a group needs at least 2 responses to a prompt to be compared"
        )
    bad = ~torch.isfinite(rewards)
    if bad.any():
        n, k = (int(i) for i in bad.nonzero()[0])
        raise ValueError(f"the reward of sample {k} of prompt {n} is {rewards[n, k].item()}")

"""Learning about one policy from what another one drew.

``sampler_logprobs`` are the log-probabilities of the drawn actions under the policy that drew
them. Everything is done with differences of logs: a product of ratios becomes a sum.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlbook.functional.arguments import (
    check_batch_time,
    check_bool,
    check_positive,
    check_same_shape,
    check_unit,
)
from rlbook.functional.scan import reverse_linear_scan
from rlbook.functional.value_losses import td_error


def importance_ratios(
    logprobs: Float[Tensor, "*shape"], sampler_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """How much likelier each action is under the policy than under the one that drew it.

        ρ = π(a|s) / μ(a|s) = exp( log π - log μ )

    E_μ[ρ f] = E_π[f]. The gradient flows through ``logprobs`` alone: ∇ρ = ρ ∇ log π.

    Book: 09_ppo. Source: Sutton and Barto (2018), equation 5.3, for one action.
    """
    check_same_shape(logprobs=logprobs, sampler_logprobs=sampler_logprobs)
    return torch.exp(logprobs - sampler_logprobs.detach())


def truncated_importance_weights(
    logprobs: Float[Tensor, "*shape"], sampler_logprobs: Float[Tensor, "*shape"], *, maximum: float
) -> Float[Tensor, "*shape"]:
    """Importance ratios cut off at a maximum: weights of bounded variance, at the price of bias.

        w = min( π/μ, c )

    They are constants: weights of a loss, not part of what is differentiated. Raises ValueError
    for a maximum that is not above 0.

    Book: 09_ppo. Source: Ionides (2008), equation 3.
    """
    check_same_shape(logprobs=logprobs, sampler_logprobs=sampler_logprobs)
    check_positive(maximum=maximum)
    log_ratio = (logprobs - sampler_logprobs).detach()
    return log_ratio.clamp(max=math.log(maximum)).exp()


class VTrace(NamedTuple):
    """What V-trace gives, all [B, T].

    Attributes:
        targets: v_t, what the value network should predict in s_t.
        advantages: ρ_t ( r_t + γ v_{t+1} - V(s_t) ), for ``reinforce_loss``.
    """

    targets: Float[Tensor, "B T"]
    advantages: Float[Tensor, "B T"]


@torch.no_grad()
def vtrace(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    next_values: Float[Tensor, "B T"],
    logprobs: Float[Tensor, "B T"],
    sampler_logprobs: Float[Tensor, "B T"],
    *,
    terminated: Bool[Tensor, "B T"],
    ended: Bool[Tensor, "B T"],
    gamma: float,
    lam: float = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
) -> VTrace:
    """Value targets of π from the rollouts of a slightly different policy μ.

        v_t = V(s_t) + Σ_{k≥t} γ^{k-t} (c_t ... c_{k-1}) ρ_k δ_k,    δ_k the TD error
        ρ_k = min(ρ̄, π/μ),    c_k = λ min(c̄, π/μ)

    ρ̄ (clip_rho) decides *which* policy's values come out: π's if it never cuts, μ's as it goes to
    0. c̄ (clip_c) only decides how fast. On-policy, with λ = 1 and ρ̄, c̄ ≥ 1, these are the
    discounted returns. The results carry no gradient.

    Args: as for ``gae``; clip_rho and clip_c above 0 (``math.inf``: no clipping), else ValueError.

    Book: 09_ppo, as an outlook. Source: Espeholt et al. (2018), equation 1, remark 2 (λ) and
    section 4.2 (advantages; their code may clip that ρ elsewhere, here it is ρ̄ too).
    """
    check_unit(gamma=gamma, lam=lam)
    check_batch_time(rewards=rewards)
    check_bool(ended=ended)
    check_same_shape(rewards=rewards, logprobs=logprobs, ended=ended)
    rho = truncated_importance_weights(logprobs, sampler_logprobs, maximum=clip_rho)
    c = lam * truncated_importance_weights(logprobs, sampler_logprobs, maximum=clip_c)
    delta = rho * td_error(rewards, values, next_values, terminated=terminated, gamma=gamma)
    ended = ended | terminated
    targets = values + reverse_linear_scan(gamma * c, delta, ended=ended)

    last = torch.arange(rewards.shape[1], device=rewards.device) == rewards.shape[1] - 1
    next_targets = torch.where(ended | last, next_values, targets.roll(-1, dims=1))
    error = td_error(rewards, values, next_targets, terminated=terminated, gamma=gamma)
    return VTrace(targets, rho * error)

"""Losses of a policy, one per action; only ``aggregate`` reduces them.

Book-wide rule: ``logprobs`` carries the gradient; ``old_logprobs`` and ``advantages`` are
constants, and are detached here, so that a value network cannot be trained through the policy's
loss by accident.

A loss's *value* says little (REINFORCE's and PPO's is 0 at the start of a step if advantages have
mean 0); its gradient is what counts. What stands in masked cells must not overflow:
``masked.blank`` the inputs, see the head of masked.py.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlbook.functional.arguments import check_bool, check_same_shape
from rlbook.functional.off_policy import importance_ratios


def reinforce_loss(
    logprobs: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Make actions likelier in proportion to their advantage.

        L_t = -A_t log π(a_t|s_t)

    In expectation over the policy's own rollouts -Σ_t ∇L_t = ∇ E[return], if A_t is the
    undiscounted return from t on, less anything that does not depend on a_t. For the *discounted*
    objective A_t needs a factor γ^t, which most code drops; chapter 07 shows what that changes.

    Book: 07_policy_gradient. Source: Williams (1992), theorem 1; Sutton and Barto (2018),
    equation 13.8.
    """
    check_same_shape(logprobs=logprobs, advantages=advantages)
    return -advantages.detach() * logprobs


def ppo_clip_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    clip: float,
    clip_high: float | None = None,
    dual_clip: float | None = None,
) -> Float[Tensor, "B T"]:
    """PPO's clipped surrogate: no reward for moving an action's probability further than the clip.

        L_t = -min( ρ_t A_t, clip(ρ_t, 1-ε, 1+ε) A_t ),    ρ_t = π(a_t|s_t) / π_old(a_t|s_t)

    At ρ = 1 its gradient is REINFORCE's. The same function trains CartPole and GPT-2.

    Args:
        logprobs: log π [B, T], with gradient.
        old_logprobs: log π_old [B, T], the centre of the clip.
        advantages: [B, T].
        clip: ε, at least 0.
        clip_high: another ε for the upper side (DAPO's "clip-higher"); default: clip.
        dual_clip: c > 1: where A < 0 the loss is at most -c A, so that a ratio that has run away
            cannot blow up the step; default: off. PPO's own clip bounds each sign of A on one side
            only; with c both sides are bounded, hence its other name, two-sided clipping. It is
            for samplers that lag behind: the ratio is then far from 1 before the first step.

    Raises ValueError for a negative clip, a dual_clip that is not above 1, shapes that differ.

    Book: 09_ppo, 17_ppo_gpt2. Source: Schulman et al. (2017), equation 7; Yu et al. (2025),
    equation 10 (clip_high); Ye et al. (2020), equation 5 (dual_clip, there c = 3).
    """
    low, high = _clip_interval(clip, clip_high, dual_clip)
    check_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    advantages = advantages.detach()
    ratio = importance_ratios(logprobs, old_logprobs)
    loss = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)


def cispo_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    clip_high: float,
    clip: float | None = None,
) -> Float[Tensor, "B T"]:
    """REINFORCE with a clipped ratio as its weight: the clip bounds a token's pull, never cuts it.

        L_t = -sg[ clip(ρ_t, 1-ε, 1+ε_high) ] A_t log π(a_t|s_t)

    sg: taken as a constant. Where PPO's clip would stop a token's gradient, this one caps it, so a
    rare and decisive token ("wait") goes on teaching in every epoch. Clipped on the upper side
    alone it is the truncated importance weight of asynchronous training (one-sided clipping).

    Args:
        logprobs, old_logprobs, advantages: as for ``ppo_clip_loss``.
        clip_high: ε_high, at least 0. clip: ε of the lower side; default: none, as in the paper.

    Raises ValueError for a negative clip and for shapes that differ.

    Book: 18_grpo. Source: MiniMax (2025, MiniMax-M1), equations 4 and 5; Wu et al. (2025,
    LlamaRL), for samplers that lag behind.
    """
    low, high = _clip_interval(0.0 if clip is None else clip, clip_high, None)
    check_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    ratio = importance_ratios(logprobs, old_logprobs).detach()
    weight = ratio.clamp(min=None if clip is None else low, max=high)
    return reinforce_loss(logprobs, weight * advantages)


def sequence_level(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    *,
    per_token: bool = True,
) -> Float[Tensor, "B T"]:
    """Log-probs that have one ratio for the whole response: put them into ``ppo_clip_loss``.

        log s = |y|⁻¹ Σ_t ( log π - log π_old )(a_t|s_t),    result_t = log π_old(a_t|s_t) + log s

    s is the geometric mean of the tokens' ratios. A reward belongs to the response, so its clip
    does too: one token that has run away no longer decides, all tokens stay or go together. Its
    ε is some hundred times smaller than PPO's. Cells outside the mask equal ``old_logprobs``.

    Args:
        per_token: False leaves out |y|⁻¹: s is then π(y|x) / π_old(y|x), the ratio of the response
            as a single action, as leave-one-out methods have it.

    Book: 18_grpo. Source: Zheng et al. (2025, GSPO), equations 5 and 7; Ahmadian et al. (2024),
    section 3 (a response as one action).
    """
    check_bool(response_mask=response_mask)
    check_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, response_mask=response_mask)
    old_logprobs = old_logprobs.detach()
    log_ratio = torch.where(response_mask, logprobs - old_logprobs, 0.0)
    log_s = log_ratio.sum(dim=1)
    if per_token:
        log_s = log_s / response_mask.sum(dim=1).clamp(min=1)
    return torch.where(response_mask, old_logprobs + log_s[:, None], old_logprobs)


def clip_active(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"] | None = None,
    *,
    clip: float,
    clip_high: float | None = None,
    dual_clip: float | None = None,
) -> Float[Tensor, "B T"]:
    """1 where the clip is active, else 0; its ``masked_mean`` is the clip fraction.

    Two conventions exist, and a log should say which it shows:
    with ``advantages``, 1 where ``ppo_clip_loss`` has no gradient *because of the clip*:
    A > 0 and ρ > 1 + ε_high, or A < 0 and ρ < 1 - ε (or A < 0 and ρ > c, with dual_clip);
    without, 1 wherever ρ is outside [1 - ε, 1 + ε_high], which is what most libraries log, and is
    never the smaller number.

    Book: 09_ppo.
    """
    low, high = _clip_interval(clip, clip_high, dual_clip)
    check_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    with torch.no_grad():
        ratio = importance_ratios(logprobs, old_logprobs)
        if advantages is None:
            active = (ratio < low) | (ratio > high)
        else:
            active = ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))
            if dual_clip is not None:
                active |= (advantages < 0) & (ratio > dual_clip)
        return active.to(logprobs.dtype)


def entropy(logits: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape"]:
    """Entropy of a choice among V actions, in nats.

        H = -Σ_a π(a) log π(a),    0 · log 0 = 0

    A logit of -inf rules its action out: it adds 0 and gets gradient 0. From 0 (certain) to
    log V (uniform).

    Book: 08_actor_critic. Source: Mnih et al. (2016), section 4 (as a bonus).
    """
    log_pi = torch.log_softmax(logits, dim=-1)
    finite = log_pi.masked_fill(log_pi == -torch.inf, 0.0)
    return -(log_pi.exp() * finite).sum(dim=-1)


def action_logprobs(
    logits: Float[Tensor, "*shape V"], actions: Int[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """log π(a) of the actions taken, from the logits of all of them.

        log π(a) = z_a - log Σ_j exp z_j

    One gather and one logsumexp: the log-probabilities of the other actions are never formed,
    which saves memory where V is a vocabulary.

    Book: 07_policy_gradient.
    """
    if logits.shape[:-1] != actions.shape:
        raise ValueError(
            f"actions have shape {tuple(actions.shape)}, but logits {tuple(logits.shape)} need one "
            "action per row: the shapes may differ in the last axis of logits only"
        )
    chosen = logits.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(dim=-1)


def _clip_interval(
    clip: float, clip_high: float | None, dual_clip: float | None
) -> tuple[float, float]:
    clip_high = clip if clip_high is None else clip_high
    if not (clip >= 0.0 and clip_high >= 0.0):
        raise ValueError(f"clip={clip}, clip_high={clip_high}: neither may be negative")
    if dual_clip is not None and not dual_clip > 1.0:
        raise ValueError(
            f"dual_clip={dual_clip} must exceed 1: it bounds ratios that have run away (3 is usual)"
        )
    return 1.0 - clip, 1.0 + clip_high

"""Losses of preferences: which of several responses people (or a rule) liked better.

A reward model is trained on *scores* r, one per response (``bradley_terry_loss``, ``k_wise_loss``,
``plackett_luce_loss``). DPO, IPO and KTO train the policy itself: there the place of the score is
taken by the implicit reward

    r̂(y) = β log( π(y|x) / π_ref(y|x) )

of the whole response. So ``chosen``, ``rejected`` and their references are *sums* of
log-probabilities over the response's tokens, EOS included; a mean over tokens is another method.
References are constants. One number per pair or prompt comes out; ``.mean()`` is the caller's.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlbook.functional.arguments import (
    check_batch_time,
    check_bool,
    check_positive,
    check_same_shape,
)


def bradley_terry_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    *,
    margin: float | Float[Tensor, " B"] = 0.0,
) -> Float[Tensor, " B"]:
    """How surprised the scores are that the first response was preferred to the second.

        L = -log σ( r_w - r_l - m )

    Without a margin this is the likelihood of the Bradley-Terry model, P(w ≻ l) = σ(r_w - r_l).

    Args:
        chosen, rejected: scores r_w, r_l [B].
        margin: m, how far apart the scores should be: a number, or one per pair [B] from graded
            labels ("much better").

    Raises ValueError for shapes that differ.

    Book: 14_reward_model. Source: Bradley and Terry (1952); Ouyang et al. (2022), equation 1;
    Touvron et al. (2023, Llama 2), equation 2 (margin).
    """
    check_same_shape(chosen=chosen, rejected=rejected)
    if isinstance(margin, Tensor):
        check_same_shape(chosen=chosen, margin=margin)
    return -logsigmoid(chosen - rejected - margin)


def k_wise_loss(
    scores: Float[Tensor, "N K"], mask: Bool[Tensor, "N K"] | None = None
) -> Float[Tensor, " N"]:
    """Bradley-Terry's loss averaged over all pairs of one prompt's ranked responses.

        L = -(K(K-1)/2)⁻¹ Σ_{i<j} log σ( r_i - r_j )

    The pairs of one prompt belong together: shuffled among the pairs of other prompts, each
    response would be trained on in K-1 separate steps, and overfitted.

    Args:
        scores: [N, K], in order of the ranking: column 0 was liked best.
        mask: True for responses that exist, where prompts have rankings of unequal length.

    Raises ValueError for a prompt with fewer than two responses, naming the row.

    Book: 14_reward_model. Source: Ouyang et al. (2022), equation 1.
    """
    mask = _ranking_mask(scores, mask)
    pairs = torch.triu(mask[:, :, None] & mask[:, None, :], diagonal=1)
    scores = torch.where(mask, scores, 0.0)
    losses = -logsigmoid(scores[:, :, None] - scores[:, None, :])
    return torch.where(pairs, losses, 0.0).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2))


def plackett_luce_loss(
    scores: Float[Tensor, "N K"], mask: Bool[Tensor, "N K"] | None = None
) -> Float[Tensor, " N"]:
    """How surprised the scores are by a whole ranking: a choice of the best, again and again.

        L = -Σ_i ( r_i - log Σ_{j≥i} e^{r_j} )    each a softmax choice among what is left

    For K = 2 it is Bradley-Terry's loss. For K > 2 it is not the mean over pairs: the pairs of a
    ranking are not independent, and here they are not counted as if they were.

    Args and errors: as for ``k_wise_loss``.

    Book: 14_reward_model. Source: Plackett (1975); Rafailov et al. (2023), appendix A.3.
    """
    mask = _ranking_mask(scores, mask)
    scores = torch.where(mask, scores, -torch.inf)
    remaining = scores.flip(1).logcumsumexp(dim=1).flip(1)
    choices = torch.where(mask, remaining, 0.0) - torch.where(mask, scores, 0.0)
    return torch.where(mask, choices, 0.0).sum(dim=1)


def dpo_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    ref_chosen: Float[Tensor, " B"],
    ref_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    """Direct preference optimisation: Bradley-Terry's loss of the implicit rewards.

        h = log π(y_w)/π_ref(y_w) - log π(y_l)/π_ref(y_l)
        L = -(1-s) log σ(β h) - s log σ(-β h)

    At π = π_ref it is log 2, with slope -β(½ - s) in h. The margin h may rise while the
    log-probabilities of *both* responses fall: log them apart.

    Args:
        chosen, rejected: log π of the whole responses, summed over tokens [B], with gradient.
        ref_chosen, ref_rejected: the same under π_ref.
        beta: β, the price of KL in units of reward per nat, above 0.
        label_smoothing: s in [0, 0.5), the share of labels believed to be flipped.

    Book: 19_dpo. Source: Rafailov et al. (2023), equation 7; Mitchell (2023), "A note on DPO with
    noisy preferences" (label smoothing).
    """
    check_positive(beta=beta)
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing={label_smoothing} must lie in [0, 0.5): at a half the labels say "
            "nothing, beyond it they say the opposite"
        )
    h = beta * _log_ratio_margin(chosen, rejected, ref_chosen, ref_rejected)
    return -(1.0 - label_smoothing) * logsigmoid(h) - label_smoothing * logsigmoid(-h)


def ipo_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    ref_chosen: Float[Tensor, " B"],
    ref_rejected: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    """Identity preference optimisation: pull the margin to a fixed size, and no further.

        L = ( h - 1/(2β) )²,    h as in ``dpo_loss``

    DPO's loss keeps falling as h grows, so labels that never disagree drive h to infinity
    whatever β is; the square stops it at 1/(2β).

    Args and errors: as for ``dpo_loss``. β is the paper's τ. The paper's h is over whole
    responses, as here. Some libraries divide each log-probability by the response's length first,
    which its authors have recommended since: divide the arguments for that.

    Book: 19_dpo. Source: Azar et al. (2024), equation 17.
    """
    check_positive(beta=beta)
    h = _log_ratio_margin(chosen, rejected, ref_chosen, ref_rejected)
    return (h - 1.0 / (2.0 * beta)).square()


def kto_loss(
    logprobs: Float[Tensor, " B"],
    ref_logprobs: Float[Tensor, " B"],
    desirable: Bool[Tensor, " B"],
    *,
    beta: float,
    reference_point: float | Float[Tensor, ""],
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Tensor, " B"]:
    """Kahneman-Tversky optimisation: single responses, each marked good or bad.

        r̂ = log π(y)/π_ref(y)
        L = λ_D ( 1 - σ( β(r̂ - z) ) )  if desirable,   λ_U ( 1 - σ( β(z - r̂) ) )  if not

    Args:
        logprobs, ref_logprobs: of the whole responses, summed over tokens [B].
        desirable: True for good ones [B].
        beta: β, above 0.
        reference_point: z ≥ 0, a constant: an estimate of KL(π‖π_ref), in the paper from
            responses paired with the wrong prompts, ``kto_reference_point``.
        desirable_weight, undesirable_weight: λ_D, λ_U, to balance unequal numbers of the two.

    Raises ValueError for a negative or non-finite reference point.

    Book: 19_dpo. Source: Ethayarajh et al. (2024), equation 8.
    """
    check_positive(beta=beta)
    check_bool(desirable=desirable)
    check_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs, desirable=desirable)
    z = float(reference_point)
    if not 0.0 <= z < math.inf:
        raise ValueError(
            f"reference_point={z} estimates a KL divergence, so it must be a number that is not "
            "negative: see kto_reference_point"
        )
    surplus = beta * (logprobs - ref_logprobs.detach() - z)
    gains = desirable_weight * torch.sigmoid(-surplus)  # 1 - σ(x) = σ(-x)
    losses = undesirable_weight * torch.sigmoid(surplus)
    return torch.where(desirable, gains, losses)


def kto_reference_point(
    logprobs: Float[Tensor, " B"], ref_logprobs: Float[Tensor, " B"]
) -> Float[Tensor, ""]:
    """KTO's z: how far the policy has moved on responses that do not answer their prompt.

        z = max( 0, mean log π(y'|x)/π_ref(y'|x) )

    Args: summed log-probabilities [B] of prompts x, each with *another* prompt's response y'.
    A cheap stand-in for KL(π‖π_ref), biased; the result carries no gradient.

    Book: 19_dpo. Source: Ethayarajh et al. (2024), section 4.
    """
    check_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    return (logprobs - ref_logprobs).detach().mean().clamp(min=0.0)


def _log_ratio_margin(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor
) -> Tensor:
    """h, the difference of two log-ratios. The references are constants."""
    check_same_shape(
        chosen=chosen, rejected=rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected
    )
    return (chosen - ref_chosen.detach()) - (rejected - ref_rejected.detach())


def _ranking_mask(scores: Tensor, mask: Tensor | None) -> Tensor:
    """The mask, checked: at least two responses in each row."""
    check_batch_time(scores=scores)
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    check_bool(mask=mask)
    check_same_shape(scores=scores, mask=mask)
    short = mask.sum(dim=1) < 2
    if short.any():
        row = int(short.nonzero()[0, 0])
        raise ValueError(
            f"prompt {row} has {int(mask[row].sum())} response(s), but a ranking needs at least 2: "
            "drop the prompt"
        )
    return mask

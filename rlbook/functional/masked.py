"""Means over the cells that count, and the one place where a loss becomes a number.

Masks are bool and True means: this cell counts. What stands in the other cells (padding, the
step after a reset; NaN and inf included) changes neither a value nor a gradient here, because
cells are chosen with ``torch.where`` and never multiplied: NaN·0 is NaN.

One trap remains, and no reduction can close it. Where an *earlier* operation made the junk,
its own backward step multiplies the 0 that comes from here by its derivative, and 0·inf is NaN:
``exp(1000)`` in a masked cell of a PPO ratio is enough. So replace inputs, not outputs:
``blank(logprobs, mask)`` before the operation.
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

HOWS = ("token-mean", "sequence-mean", "fixed-length")
EPSILON = 1e-8  # added to a variance: equal numbers whiten to 0, not to 0/0


def blank(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x with 0 in the cells that do not count; gradients there are exactly 0.

    Use it on what goes *into* an operation that could overflow (exp, a square) on junk.

    Book: 09_ppo.
    """
    _check(x, mask)
    return torch.where(mask, x, 0.0)


def masked_mean(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, dim: int | None = None
) -> Float[Tensor, "..."]:
    """The mean of the cells that count, over everything or along one dimension.

        Σ m x / Σ m

    Raises ValueError where no cell counts: the mean of nothing is not a number.

    Book: 09_ppo, 12_text_as_mdp.
    """
    _check(x, mask)
    dims = tuple(range(x.ndim)) if dim is None else (dim,)
    count = mask.sum(dims)
    if not (count > 0).all():
        raise ValueError(_nothing(mask, "masked_mean"))
    return blank(x, mask).sum(dims) / count


def masked_whiten(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, shift_mean: bool = True
) -> Float[Tensor, "*shape"]:
    """Scale the cells that count to variance 1, and shift them to mean 0; 0 in the others.

        (x - μ) / √(σ² + 10⁻⁸),    + μ if not shift_mean

    σ² is the population variance (divide by n), as in the authors' code. Whiten the whole batch
    once, before it is split: micro-batches that whiten themselves follow another gradient.
    Raises ValueError if no cell counts.

    Book: 09_ppo, 17_ppo_gpt2. Source: Ziegler et al. (2019), the published code's ``whiten``.
    """
    mean = masked_mean(x, mask)
    centred = blank(x - mean, mask)
    scaled = centred / torch.sqrt(masked_mean(centred.square(), mask) + EPSILON)
    return scaled if shift_mean else torch.where(mask, scaled + mean, 0.0)


def aggregate(
    x: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    how: str,
    *,
    length: int | None = None,
    denominator: int | float | None = None,
) -> Float[Tensor, ""]:
    """Make one number of a loss per token: the only function of the book that reduces a loss.

        "token-mean"      Σ_b Σ_t m x / Σ_b Σ_t m              every token weighs the same (DAPO)
        "sequence-mean"   Σ_b (Σ_t m x / Σ_t m) / B            every sequence does (GRPO)
        "fixed-length"    Σ_b Σ_t m x / (B · length)           neither: a plain sum (Dr. GRPO)

    Args:
        x: unreduced loss [B, T].
        mask: True where a token counts. A row without a True adds 0, and counts as a sequence.
        how: one of the three names.
        length: for "fixed-length" alone: the longest response allowed, the same in every step.
        denominator: what to divide by instead of this batch's own count: the number of tokens
            ("token-mean") or sequences (the others) of the *whole optimiser step*. With it the
            gradients of micro-batches add up exactly to the gradient of the whole batch, however
            unequal their lengths; ``unit_count(mask, how)`` of the whole batch is this number.

    Raises ValueError for an unknown ``how``, a length that is missing or does not belong, and a
    mask without a True unless ``denominator`` is given (then such a micro-batch adds 0).

    Book: 09_ppo, 18_grpo. Source: Shao et al. (2024), equation 3; Yu et al. (2025, DAPO),
    equation 8; Liu et al. (2025, Dr. GRPO), section 3.
    """
    _check(x, mask)
    check_batch_time(x=x)
    _check_how(how)
    if (length is None) == (how == "fixed-length"):
        raise ValueError(
            f"length={length} with how={how!r}: give length (the longest response allowed) with "
            '"fixed-length", and only with it'
        )
    if denominator is None:
        denominator = unit_count(mask, how)
        if not mask.any():
            raise ValueError(
                _nothing(mask, "aggregate")
                + "; for one micro-batch of a step pass denominator=, the count of the whole step"
            )
    check_positive(denominator=denominator)
    if how == "sequence-mean":
        per_sequence = blank(x, mask).sum(1) / mask.sum(1).clamp(min=1)
        return per_sequence.sum() / denominator
    if length is not None:
        check_positive(length=length)
    return blank(x, mask).sum() / (denominator * (length or 1))


def unit_count(mask: Bool[Tensor, "B T"], how: str) -> int:
    """What ``aggregate`` divides by: tokens for "token-mean", else sequences (rows).

    Book: 18_grpo.
    """
    _check_how(how)
    return int(mask.sum()) if how == "token-mean" else len(mask)


def _check_how(how: str) -> None:
    if how not in HOWS:
        raise ValueError(f"how={how!r} is unknown: use one of {', '.join(map(repr, HOWS))}")


def _check(x: Tensor, mask: Tensor) -> None:
    check_bool(mask=mask)
    check_same_shape(x=x, mask=mask)


def _nothing(mask: Tensor, what: str) -> str:
    return f"{what} over a mask {tuple(mask.shape)} with nothing to average: no cell counts there"

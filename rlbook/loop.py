"""The few lines that every training loop shares."""

import math
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor


def minibatches(
    count: int, parts: int, *, generator: torch.Generator
) -> Iterator[Int[Tensor, " size"]]:
    """Shuffle 0 ... count-1 and cut it into ``parts`` equal pieces.

    Raises:
        ValueError: count is not divisible by parts.
    """
    if parts < 1 or count % parts:
        raise ValueError(
            f"{count} samples cannot be cut into {parts} equal minibatches: choose a number that "
            f"divides {count}"
        )
    yield from torch.randperm(count, generator=generator).view(parts, -1)


def optimiser_step(
    optimiser: torch.optim.Optimizer,
    loss: Float[Tensor, ""],
    *,
    max_grad_norm: float | None = None,
) -> float:
    """One step down the gradient of ``loss``; returns the gradient's norm before clipping.

    Args:
        max_grad_norm: the gradient of all parameters together is scaled down to at most this
            length; None does not clip.

    Raises:
        ValueError: the loss or its gradient is not finite; no parameter has moved then.
    """
    if not torch.isfinite(loss):
        raise ValueError(
            f"the loss is {loss.item()}: lower the learning rate, or look for NaN in the inputs"
        )
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    limit = float("inf") if max_grad_norm is None else max_grad_norm
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit).item()
    if not math.isfinite(norm):
        raise ValueError(
            f"the loss is {loss.item()}, but its gradient is {norm}: look for a root, a log or a "
            "division at 0, or for overflow in masked cells"
        )
    optimiser.step()
    return norm


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group of parameters this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate


def mean_metrics(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the steps of one update."""
    rows = list(rows)
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

"""Errors at the door, shared by the formulas: each names the argument, its value and the remedy.

Shapes must be equal, never merely broadcastable: values [B, T, 1] against rewards [B, T] would
otherwise give [B, T, T] in silence.
"""

import torch
from torch import Tensor


def check_same_shape(**tensors: Tensor | None) -> None:
    """ValueError unless all the tensors given have one shape."""
    given = {name: tuple(x.shape) for name, x in tensors.items() if x is not None}
    if len(set(given.values())) > 1:
        shapes = ", ".join(f"{name} {shape}" for name, shape in given.items())
        raise ValueError(f"these must have one shape, batch first, but have: {shapes}")


def check_batch_time(**tensors: Tensor) -> None:
    """ValueError unless every tensor is [B, T]."""
    for name, x in tensors.items():
        if x.ndim != 2:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, but must be [B, T]: batch first, then time; "
                f"for a single rollout pass {name}[None]"
            )


def check_bool(**tensors: Tensor | None) -> None:
    """ValueError unless every tensor given holds bools."""
    for name, x in tensors.items():
        if x is not None and x.dtype != torch.bool:
            raise ValueError(f"{name} holds {x.dtype}, but must hold bools: use {name}.bool()")


def check_unit(**numbers: int | float) -> None:
    """ValueError unless every number lies in [0, 1]."""
    for name, x in numbers.items():
        if not 0.0 <= x <= 1.0:
            raise ValueError(f"{name}={x} must lie in [0, 1]")


def check_positive(**numbers: int | float) -> None:
    """ValueError unless every number is above 0."""
    for name, x in numbers.items():
        if not x > 0.0:
            raise ValueError(f"{name}={x} must be above 0")

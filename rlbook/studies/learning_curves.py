"""Curves of learning against environment steps, on positions that runs have in common."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from rlbook.report import StepReport


def mean_returns(
    reports: Iterable[StepReport], positions: Sequence[int]
) -> Float[np.ndarray, " positions"]:
    """The mean return of the episodes that ended between one position and the next.

    Position x_i takes the episodes reported at x_{i-1} < samples ≤ x_i. Where none ended the
    value before it is kept; positions before the first end take the first one's value.

    Args:
        reports: of one training run, in order. positions: environment steps, rising.
    """
    sums, counts = np.zeros((2, len(positions) + 1))
    for report in reports:
        i = int(np.searchsorted(positions, report.samples))
        sums[i] += sum(report.returns)
        counts[i] += len(report.returns)
    seen = np.flatnonzero(counts[:-1])
    if len(seen) == 0:
        raise ValueError("no episode ended: train for longer, or choose later positions")
    latest = np.searchsorted(seen, np.arange(len(positions)), side="right") - 1
    held = seen[latest.clip(min=0)]
    return sums[held] / counts[held]

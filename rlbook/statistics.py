"""Intervals: how sure a mean over seeds is. numpy only.

Samples come with the seeds on the first axis, [N, ...]; everything else is done for each entry
of the other axes on its own, so a band over a curve holds at each of its points, not for the
whole curve at once.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class Interval(NamedTuple):
    """An estimate and the ends of its interval, each of the samples' shape without the seeds."""

    mean: Float[np.ndarray, "*entries"]
    low: Float[np.ndarray, "*entries"]
    high: Float[np.ndarray, "*entries"]


def mean_interval(samples: Any, *, level: float = 0.95) -> Interval:
    """The mean of N samples and its Student t interval.

        mean ± t_{N-1}((1 + level)/2) · s/√N,     s² = Σ (x - mean)² / (N - 1)

    Student's t and not the normal distribution, because s is itself estimated from a few
    samples: with 10 seeds, ±1.96 s/√N would cover the true mean in 92% of cases, not in 95%
    (t gives ±2.26). It is exact for Gaussian samples, and close for averages over many runs.

    Args:
        samples: numbers [N, ...], independent along the first axis.
        level: the share of such intervals that hold the true mean, in (0, 1).

    Raises:
        ValueError: fewer than two samples, a number that is not finite, a level outside (0, 1).

    Source: Student (1908), "The probable error of a mean".
    """
    samples = _checked(samples, level)
    mean = samples.mean(axis=0)
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    reach = t_quantile((1.0 + level) / 2.0, len(samples) - 1) * error
    return Interval(mean, mean - reach, mean + reach)


def paired_interval(a: Any, b: Any, *, level: float = 0.95) -> Interval:
    """The mean of a - b and its interval, where a[i] and b[i] come from the same seed.

    The interval of the differences is narrower than two separate ones where the seed moves
    both alike (the same bandit, the same episodes).

    Raises:
        ValueError: a and b differ in shape; otherwise as ``mean_interval``.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"a {a.shape} and b {b.shape} are not pairs: give one entry per seed each")
    return mean_interval(a - b, level=level)


def bootstrap_interval(
    samples: Any,
    *,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    generator: np.random.Generator,
    resamples: int = 2000,
) -> Interval:
    """The percentile bootstrap: how a statistic moves when the seeds are drawn again.

    Draw N of the N samples with replacement, ``resamples`` times; the interval spans the middle
    ``level`` of the statistics. For medians and other statistics that have no simple formula;
    with fewer than about 20 seeds it comes out too narrow: for a mean use ``mean_interval``.

    Args:
        samples: numbers [N, ...]. statistic: called as ``statistic(samples, axis=0)``.
        generator: draws the resamples.

    Returns:
        The statistic of the samples themselves (in the place of the mean), low, high.

    Source: Efron (1979); Efron and Tibshirani (1993), section 13.3.
    """
    samples = _checked(samples, level)
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1")
    N = len(samples)
    drawn = [statistic(samples[generator.integers(N, size=N)], axis=0) for _ in range(resamples)]
    low, high = np.quantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=0)
    return Interval(np.asarray(statistic(samples, axis=0)), np.asarray(low), np.asarray(high))


@functools.lru_cache(maxsize=256)
def t_quantile(p: float, degrees: int) -> float:
    """The number that Student's t with some degrees of freedom falls below with probability p.

    With t = √ν tan θ the distribution function is an integral of a smooth function,

        P(T ≤ t) = 1/2 + Γ((ν+1)/2) / (√π Γ(ν/2)) · ∫_0^θ cos^{ν-1} u du,

    which Gauss and Legendre's rule gives to rounding; the quantile is found by bisection.
    """
    if not 0.0 < p < 1.0:
        raise ValueError(f"p={p} is a probability: it must lie in (0, 1)")
    if degrees < 1:
        raise ValueError(f"degrees={degrees} must be at least 1")
    if p < 0.5:
        return -t_quantile(1.0 - p, degrees)
    low, high = 0.0, 1.0
    while _t_probability(high, degrees) < p:
        low, high = high, 2.0 * high
    for _ in range(80):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _t_probability(middle, degrees) < p else (low, middle)
    return (low + high) / 2.0


def _t_probability(t: float, degrees: int) -> float:
    """P(T ≤ t) for t ≥ 0."""
    nodes, weights = _gauss_legendre()
    theta = math.atan(t / math.sqrt(degrees))
    area = (weights * np.cos(theta * nodes) ** (degrees - 1)).sum() * theta
    scale = math.exp(math.lgamma((degrees + 1) / 2.0) - math.lgamma(degrees / 2.0))
    return 0.5 + scale / math.sqrt(math.pi) * float(area)


@functools.cache
def _gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the rule of order 64 on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    return (nodes + 1.0) / 2.0, weights / 2.0


def _checked(samples: Any, level: float) -> np.ndarray:
    samples = np.asarray(samples, float)
    if samples.ndim == 0 or len(samples) < 2:
        raise ValueError(
            f"samples of shape {samples.shape} have no interval: give at least 2 along the first "
            "axis, one per seed"
        )
    if not np.isfinite(samples).all():
        where = tuple(np.argwhere(~np.isfinite(samples))[0].tolist())
        raise ValueError(f"samples{list(where)} = {samples[where]}: every sample must be finite")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level} is a share: it must lie in (0, 1), such as 0.95")
    return samples

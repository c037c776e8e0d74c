"""Intervals: against hand arithmetic, scipy and exact bootstraps; how often they hold the truth."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from rlbook.statistics import bootstrap_interval, mean_interval, paired_interval, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 19, 30, 99, 1_000, 100_000])
def test_t_quantiles_are_scipys(degrees: int) -> None:
    # With many degrees of freedom the difference of two large logarithms loses digits.
    tolerance = 1e-9 if degrees <= 1_000 else 1e-7
    for p in (0.5001, 0.6, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9995, 0.99999):
        expected = stats.t.ppf(p, degrees)
        assert t_quantile(p, degrees) == pytest.approx(expected, rel=tolerance, abs=1e-9)
        assert t_quantile(1.0 - p, degrees) == pytest.approx(-expected, rel=1e-6, abs=1e-6)


def test_t_quantiles_of_the_printed_tables() -> None:
    assert round(t_quantile(0.975, 1), 3) == 12.706
    assert round(t_quantile(0.975, 9), 3) == 2.262
    assert round(t_quantile(0.975, 10**7), 3) == 1.960  # the normal distribution
    assert t_quantile(0.5, 4) == pytest.approx(0.0, abs=1e-12)


def test_a_mean_interval_by_hand() -> None:
    # mean 3; s² = ((1-3)² + (2-3)² + (6-3)²) / 2 = 7; s/√3 = √(7/3); t_2(0.975) = 4.302653
    mean, low, high = mean_interval([1.0, 2.0, 6.0])
    assert mean == 3.0
    assert high - 3.0 == pytest.approx(4.3026527 * (7.0 / 3.0) ** 0.5, abs=1e-6)
    assert 3.0 - low == pytest.approx(high - 3.0, abs=1e-12)


def test_each_entry_has_its_own_interval() -> None:
    samples = np.random.default_rng(0).normal(size=(7, 4, 3))
    band = mean_interval(samples, level=0.8)
    assert band.mean.shape == band.low.shape == band.high.shape == (4, 3)
    expected = stats.t.interval(
        0.8, 6, loc=samples[:, 2, 1].mean(), scale=stats.sem(samples[:, 2, 1])
    )
    assert (band.low[2, 1], band.high[2, 1]) == pytest.approx(expected, abs=1e-9)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    """20,000 intervals from 4 samples each: the share that holds 0 has standard deviation
    √(0.95 · 0.05 / 20,000) = 0.0015, so ±0.008 is 5 of them (failure below 1e-6; the seed is
    fixed). The normal quantile would give 0.85."""
    samples = np.random.default_rng(1).normal(size=(4, 20_000))
    _, low, high = mean_interval(samples)
    assert np.mean((low < 0.0) & (high > 0.0)) == pytest.approx(0.95, abs=0.008)


def test_pairs_forget_what_both_share() -> None:
    generator = np.random.default_rng(2)
    shared, noise = generator.normal(size=12), 0.01 * generator.normal(size=12)
    difference = paired_interval(shared + 1.0 + noise, shared)
    same = mean_interval(1.0 + noise)
    assert np.allclose(difference, same, atol=1e-12)
    assert difference.high - difference.low < 0.05
    with pytest.raises(ValueError, match=r"a \(3,\) and b \(4,\) are not pairs"):
        paired_interval(np.zeros(3), np.zeros(4))


def test_the_bootstrap_of_three_samples_is_the_exact_one() -> None:
    """All 27 resamples of three numbers are equally likely; 20,000 draws of them find the same
    5% and 95% quantiles, since 1/27 < 5% < 4/27 and each share is met within 0.01 (failure
    below 1e-6; the seed is fixed)."""
    samples = np.array([0.0, 1.0, 10.0])
    exact = [np.median(draw) for draw in itertools.product(samples, repeat=3)]
    median, low, high = bootstrap_interval(
        samples,
        statistic=np.median,
        level=0.9,
        generator=np.random.default_rng(3),
        resamples=20_000,
    )
    assert median == 1.0
    expected = np.quantile(exact, [0.05, 0.95], method="inverted_cdf")
    assert [low, high] == expected.tolist() == [0.0, 10.0]


def test_the_bootstrap_of_a_mean_comes_near_the_t_interval() -> None:
    """For 200 Gaussian samples both are mean ± 1.96 s/√N to a few percent; the ends of 2,000
    resamples wobble by about 0.04 standard errors each."""
    samples = np.random.default_rng(4).normal(size=(200, 2))
    by_t = mean_interval(samples)
    by_draws = bootstrap_interval(samples, generator=np.random.default_rng(5))
    error = samples.std(axis=0, ddof=1) / np.sqrt(200)
    assert np.array_equal(by_draws.mean, by_t.mean)
    assert np.abs(by_draws.low - by_t.low).max() < 0.25 * error.min()
    assert np.abs(by_draws.high - by_t.high).max() < 0.25 * error.min()


@pytest.mark.parametrize(
    ("samples", "level", "message"),
    [
        ([1.0], 0.95, r"samples of shape \(1,\) have no interval: give at least 2"),
        (3.0, 0.95, r"samples of shape \(\) have no interval"),
        ([[1.0, 2.0], [3.0, np.nan]], 0.95, r"samples\[1, 1\] = nan: every sample must be finite"),
        ([1.0, 2.0], 95.0, r"level=95.0 is a share: it must lie in \(0, 1\)"),
    ],
)
def test_what_has_no_interval(samples: object, level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(samples, level=level)
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(samples, level=level, generator=np.random.default_rng(0))


def test_other_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="resamples=0 must be at least 1"):
        bootstrap_interval([1.0, 2.0], generator=np.random.default_rng(0), resamples=0)
    with pytest.raises(ValueError, match=r"p=1.0 is a probability"):
        t_quantile(1.0, 3)
    with pytest.raises(ValueError, match="degrees=0 must be at least 1"):
        t_quantile(0.9, 0)


def test_it_needs_numpy_alone() -> None:
    code = "import sys, rlbook.statistics; print('scipy' in sys.modules, 'torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "False"]

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.calibration.histogram import MagnitudeHistogram
from edgewise.calibration.observers import LEVELS, choose_amax, entropy_bins, mse_bins, percentile_bins
from edgewise.runtime.contract.manifest import CalibrationMethod
from edgewise.runtime.system.errors import CalibrationError


def entropy_by_loops(counts: list[float], step: int) -> int:
    """The published description, a bin at a time."""
    counts = [counts[1], *counts[1:]]
    best, best_divergence = len(counts), math.inf
    for bins in sorted(range(len(counts), LEVELS - 1, -step)):
        inside, outside = sum(counts[:bins]), sum(counts[bins:])
        if inside == 0 or (counts[bins - 1] == 0 and outside > 0):
            continue
        reference = counts[:bins]
        reference[-1] += outside
        spread = [0.0] * bins
        for level in range(LEVELS):
            members = [b for b in range(bins) if level * bins <= b * LEVELS < (level + 1) * bins]
            filled = [b for b in members if counts[b] > 0]
            for b in filled:
                spread[b] = sum(counts[m] for m in members) / len(filled)
        divergence = 0.0
        for p, q in zip(reference, spread, strict=True):
            if p > 0:
                p, q = p / (inside + outside), q / inside
                divergence += p * math.log(p / q)
        if divergence < best_divergence - 1e-12:
            best, best_divergence = bins, divergence
    return best


def random_counts(seed: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tail = np.exp(-np.arange(size) / rng.uniform(10, size / 3)) * rng.uniform(50, 5000)
    counts = rng.poisson(tail).astype(np.float64)
    counts[0], counts[-1] = rng.integers(0, 10**6), rng.integers(1, 3)
    return counts


@given(seed=st.integers(0, 10**6), size=st.integers(LEVELS, 420))
@settings(max_examples=15, deadline=None)
def test_entropy_equals_the_plain_loops(seed: int, size: int) -> None:
    counts = random_counts(seed, size)
    assert entropy_bins(counts, step=9) == entropy_by_loops(list(counts), step=9)


def test_entropy_cuts_a_far_outlier_and_keeps_a_flat_range() -> None:
    rng = np.random.default_rng(0)
    bell = np.histogram(np.abs(rng.normal(0, 1, 10**6)), bins=4000, range=(0, 40))[0].astype(np.float64)
    bell[-1] = 1
    assert 250 < entropy_bins(bell) < 600
    assert entropy_bins(np.full(2048, 7.0)) == 2048


def test_entropy_of_zeros_with_a_few_others() -> None:
    counts = np.zeros(3000)
    counts[0], counts[-1] = 10**7, 1
    assert entropy_bins(counts) == 3000


@given(seed=st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_mse_is_the_least_of_all_candidates(seed: int) -> None:
    counts = random_counts(seed, 600)
    centres = np.arange(600) + 0.5

    def error(limit: float) -> float:
        scale = limit / 127
        return sum(
            float(count * (x - min(max(np.rint(x / scale), 0), 127) * scale) ** 2)
            for x, count in zip(centres, counts, strict=True)
        )

    chosen = mse_bins(counts, candidates=12)
    assert error(chosen) <= min(error(limit) for limit in np.linspace(LEVELS, 600, 12)) * (1 + 1e-9)


def test_percentile_is_that_of_the_values() -> None:
    values = np.random.default_rng(0).exponential(1, 200_000).astype(np.float32)
    histogram = MagnitudeHistogram()
    histogram.add(values)
    for percentile in (50.0, 99.0, 99.99):
        amax = choose_amax(histogram, CalibrationMethod.PERCENTILE, percentile)
        assert amax == pytest.approx(np.percentile(values, percentile), abs=2 * histogram.bin_width)
    assert choose_amax(histogram, CalibrationMethod.PERCENTILE, 100.0) == values.max()


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.1, math.nan])
def test_percentiles_outside_of_their_range(percentile: float) -> None:
    with pytest.raises(CalibrationError, match="percentile lies"):
        percentile_bins(np.ones(300), percentile)


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_no_method_exceeds_what_was_seen(method: CalibrationMethod) -> None:
    rng = np.random.default_rng(1)
    for values in (rng.normal(0, 3, 5000), rng.uniform(-1, 0.5, 50), np.array([0.3]), np.full(9, -2.0)):
        histogram = MagnitudeHistogram()
        histogram.add(values.astype(np.float32))
        assert 0 < choose_amax(histogram, method) <= np.abs(values.astype(np.float32)).max()


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_a_constant_is_represented_and_zero_has_no_range(method: CalibrationMethod) -> None:
    histogram = MagnitudeHistogram()
    histogram.add(np.full(100, 1.7, np.float32))
    assert choose_amax(histogram, method) == pytest.approx(1.7, rel=1e-3)
    zeros = MagnitudeHistogram()
    zeros.add(np.zeros(100, np.float32))
    assert choose_amax(zeros, method) == 0

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgewise.calibration.histogram import BINS, MagnitudeHistogram

VALUES = arrays.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(-(2.0**40), 2.0**40, width=32, allow_nan=False) | st.sampled_from([0.0, 1.0, -2.0]),
)


def counted(*samples: np.ndarray) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram()
    for sample in samples:
        assert histogram.add(sample)
    return histogram


@given(st.lists(VALUES, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_one_histogram_over_the_final_range(samples: list[np.ndarray]) -> None:
    histogram = counted(*samples)
    values = np.abs(np.concatenate(samples).astype(np.float64))
    expected = np.bincount((values / histogram.bin_width).astype(np.int64), minlength=BINS)
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.largest_magnitude == values.max()


@given(st.lists(VALUES, min_size=2, max_size=4))
@settings(max_examples=60, deadline=None)
def test_order_of_samples_does_not_matter(samples: list[np.ndarray]) -> None:
    forward, backward = counted(*samples), counted(*reversed(samples))
    np.testing.assert_array_equal(forward.counts, backward.counts)
    assert (forward.exponent, forward.minimum, forward.maximum) == (
        backward.exponent,
        backward.minimum,
        backward.maximum,
    )


def test_more_than_half_of_the_bins_are_used() -> None:
    for magnitude in (1e-6, 0.99, 1.0, 1.01, 3e5):
        assert counted(np.array([magnitude], np.float32)).used_bins > BINS // 2


def test_large_tensors_are_counted_exactly() -> None:
    values = np.zeros(1 << 21, np.float32)
    values[::2] = -0.75
    histogram = counted(values)
    assert histogram.counts[0] == histogram.counts[3072] == 1 << 20
    assert histogram.counts.sum() == values.size


def test_nan_is_refused_and_nothing_counted() -> None:
    histogram = counted(np.ones(4, np.float32))
    assert not histogram.add(np.array([1.0, np.nan, np.inf], np.float32))
    assert histogram.counts.sum() == 4
    assert not histogram.unbounded


@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_infinities_are_remembered_beside_what_is_counted(infinity: float) -> None:
    histogram = counted(np.ones(4, np.float32))
    assert histogram.add(np.array([1.0, infinity, 2.0], np.float32))
    assert histogram.unbounded
    assert histogram.counts.sum() == 6
    assert (histogram.minimum, histogram.maximum) == (1.0, 2.0)
    assert histogram.add(np.full(3, infinity, np.float32))
    assert histogram.counts.sum() == 6


def test_zeros_alone() -> None:
    histogram = counted(np.zeros((2, 3), np.float32))
    assert histogram.largest_magnitude == 0
    assert histogram.used_bins == 1
    histogram.add(np.array([0.5], np.float32))
    assert histogram.counts[0] == 6

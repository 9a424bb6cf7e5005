"""How a tensor's largest represented magnitude is chosen from the histogram of its magnitudes.

All four methods give `amax` of a symmetric eight-bit range: real values in [-amax, amax] become codes
-127..127, larger ones saturate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgewise.calibration.histogram import MagnitudeHistogram
from edgewise.runtime.contract.manifest import CalibrationMethod
from edgewise.runtime.system.errors import CalibrationError

LEVELS = 128
"""Magnitudes that a signed symmetric code can take."""

DEFAULT_PERCENTILE = 99.99

_ENTROPY_STEP = 4
_MSE_CANDIDATES = 256


def choose_amax(
    histogram: MagnitudeHistogram, method: CalibrationMethod, percentile: float = DEFAULT_PERCENTILE
) -> float:
    """The magnitude that code 127 shall stand for.

    Args:
        histogram: At least one value.
        method: Min-max takes the largest magnitude seen; percentile the magnitude below which that share of
            all values lies; entropy the smallest loss of information; MSE the smallest squared error.
        percentile: 0 < percentile <= 100, in percent; read by that method only.

    Returns:
        0 <= amax <= `histogram.largest_magnitude`; 0 only for a tensor that was always zero.
    """
    largest = histogram.largest_magnitude
    if method is CalibrationMethod.MINMAX or histogram.used_bins <= LEVELS:
        return largest
    counts = histogram.counts[: histogram.used_bins].astype(np.float64)
    if method is CalibrationMethod.PERCENTILE:
        bins = percentile_bins(counts, percentile)
    elif method is CalibrationMethod.ENTROPY:
        bins = float(entropy_bins(counts))
    else:
        bins = mse_bins(counts)
    return min(bins * histogram.bin_width, largest)


def percentile_bins(counts: NDArray[np.float64], percentile: float) -> float:
    """The position, in bins, below which `percentile` percent of the values lie, linear inside a bin."""
    if not 0.0 < percentile <= 100.0:
        raise CalibrationError(f"a percentile lies in (0, 100], not at {percentile}")
    below = np.cumsum(counts)
    wanted = below[-1] * percentile / 100.0
    index = int(np.searchsorted(below, wanted))
    before = below[index - 1] if index else 0.0
    return index + float((wanted - before) / (below[index] - before))


def entropy_bins(counts: NDArray[np.float64], step: int = _ENTROPY_STEP) -> int:
    """The number of leading bins to represent, by the least Kullback-Leibler divergence.

    As NVIDIA describes TensorRT's calibrator: for every candidate number of bins, the reference P holds the
    candidate's bins with all larger values added to the last; Q is those bins (without the outliers) merged
    into 128 levels and spread evenly over the bins that were not empty; the candidate with the least
    KL(P || Q) wins, the smallest of equals. A candidate whose last bin is empty while values lie above it
    cannot represent them, and does not count.

    Zero needs no level of its own, and after a Relu it outweighs everything: the first bin takes the count
    of the second.

    Args:
        counts: At least 128 bins, the last of them not empty.
        step: Distance between candidates.
    """
    counts = counts.copy()
    counts[0] = counts[1]
    total = counts.sum()
    if total == 0:
        return counts.size
    candidates = np.arange(counts.size, LEVELS - 1, -step)[::-1]
    divergence = _divergence(counts, candidates) if candidates.size else np.zeros(1)
    return int(candidates[int(np.argmin(divergence))])


def _divergence(counts: NDArray[np.float64], candidates: NDArray[np.int64]) -> NDArray[np.float64]:
    """KL(P || Q) of every candidate, from running sums: each is a matter of 128 levels."""
    total = counts.sum()
    sums = np.concatenate([[0.0], np.cumsum(counts)])
    filled = np.concatenate([[0], np.cumsum(counts > 0)])
    logs = np.concatenate([[0.0], np.cumsum(_x_log_x(counts))])
    inside = sums[candidates]
    outside = total - inside
    last = counts[candidates - 1]

    edges = -(-np.arange(LEVELS + 1)[None, :] * candidates[:, None] // LEVELS)
    mass = np.diff(sums[edges], axis=1)
    bins = np.diff(filled[edges], axis=1)
    level = np.divide(mass, bins, out=np.ones_like(mass), where=bins > 0)
    reference = mass.copy()
    reference[:, -1] += outside

    entropy = logs[candidates] - _x_log_x(last) + _x_log_x(last + outside) - total * np.log(total)
    cross = np.sum(reference * np.log(np.where(level > 0, level, 1.0)), axis=1)
    with np.errstate(divide="ignore"):
        cross -= total * np.log(inside)
    divergence = (entropy - cross) / total
    return np.where(((last == 0) & (outside > 0)) | (inside == 0), np.inf, divergence)


def _x_log_x(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * np.log(np.where(values > 0, values, 1.0))


def mse_bins(counts: NDArray[np.float64], candidates: int = _MSE_CANDIDATES) -> float:
    """The position, in bins, of the amax whose codes have the least mean squared error.

    Values count as lying at the centre of their bin; the smallest of equal candidates wins.
    """
    centres = np.arange(counts.size, dtype=np.float64) + 0.5
    limits = np.linspace(LEVELS, counts.size, candidates)
    errors = [_squared_error(counts, centres, limit) for limit in limits]
    return float(limits[int(np.argmin(errors))])


def _squared_error(counts: NDArray[np.float64], centres: NDArray[np.float64], limit: float) -> float:
    scale = limit / (LEVELS - 1)
    codes = np.minimum(np.rint(centres / scale), LEVELS - 1)
    return float(np.dot(counts, (centres - codes * scale) ** 2))

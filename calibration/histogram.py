"""A histogram of magnitudes that takes values as they come, whatever their range turns out to be.

The range is a power of two. When a larger value comes, the range doubles until the value fits, and
neighbouring bins are added together; as all bin edges are binary fractions of the range this loses nothing:
the counts are those that one histogram over the final range would have had, in any order of the samples.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

BINS = 4096
"""Between 2048 and 4096 of them lie below the largest magnitude."""

_CHUNK = 1 << 16
_LEAST_EXPONENT = -100


class MagnitudeHistogram:
    """Counts of |x| in `BINS` equal bins over [0, 2^exponent), and the extremes of x.

    A magnitude below 2^-100 counts as zero. Infinities are not counted, but remembered: `unbounded`.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.exponent = _LEAST_EXPONENT
        self.minimum = math.inf
        self.maximum = -math.inf
        self.unbounded = False

    @property
    def bin_width(self) -> float:
        """The width of one bin, a power of two."""
        return math.ldexp(1.0, self.exponent) / BINS

    @property
    def largest_magnitude(self) -> float:
        """The largest |x| added; 0 before anything was added."""
        return max(abs(self.minimum), abs(self.maximum)) if self.minimum <= self.maximum else 0.0

    @property
    def used_bins(self) -> int:
        """The number of bins up to and with the one of the largest magnitude."""
        return int(np.flatnonzero(self.counts)[-1]) + 1 if self.counts.any() else 0

    def add(self, values: NDArray[np.float32]) -> bool:
        """Count float32 values of any shape.

        Returns:
            False where a value is NaN; nothing is counted then.
        """
        if values.size == 0:
            return True
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if math.isnan(low):
            return False
        if math.isinf(low) or math.isinf(high):
            self.unbounded = True
            return self.add(flat[np.isfinite(flat)])
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._extend(max(abs(low), abs(high)))
        self._count(flat, signed=low < 0)
        return True

    def _extend(self, magnitude: float) -> None:
        """Double the range until `magnitude` lies inside."""
        needed = max(math.frexp(magnitude)[1], _LEAST_EXPONENT)
        while self.exponent < needed:
            if not self.counts.any():
                self.exponent = needed
                return
            halves = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([halves, np.zeros(BINS - halves.size, np.int64)])
            self.exponent += 1

    def _count(self, flat: NDArray[np.float32], *, signed: bool) -> None:
        # A multiplication by a power of two is exact, so bin numbers are; OpenCV counts 16-bit integers three
        # times as fast as floats. Chunks stay in the cache.
        scale = np.float32(1.0 / self.bin_width)
        scaled = np.empty(min(_CHUNK, flat.size), np.float32)
        bins = np.empty(scaled.size, np.uint16)
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            size = chunk.size
            np.multiply(np.abs(chunk) if signed else chunk, scale, out=scaled[:size])
            np.copyto(bins[:size], scaled[:size], casting="unsafe")
            found = cv2.calcHist([bins[:size].reshape(1, -1)], [0], None, [BINS], [0, BINS])
            self.counts += np.asarray(found).reshape(-1).astype(np.int64)

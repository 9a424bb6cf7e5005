"""Low-resolution probability masks resampled to boolean crops of the frame.

The definition, for every pixel of the frame: its centre is mapped to mask cells along each axis as
u = lower + t, with t rounded to 2**-22 of a cell; its value is

    (1 - ty) * ((1 - tx) * m[y, x] + tx * m[y, x + 1]) + ty * ((1 - tx) * m[y + 1, x] + tx * m[y + 1, x + 1])

in float64, each operation rounded, with zeros outside the mask; it is set where value > threshold.

How it is computed: only where a mask cell above the threshold can reach, as two products with matrices of two
weights a row, in float32. Those weights are exact in float32, so a value is within 2**-22 of the definition;
the few pixels that lie within 2**-20 of the threshold are decided by the definition itself. The crops
therefore equal a resampling of the full frame, whatever the BLAS underneath.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.errors import ResultError
from edgewise.runtime.geometry import Axis, Geometry, Size
from edgewise.runtime.masks import IntArray, MaskCrops

Probabilities = NDArray[np.float32]

_STEPS = 1 << 22
"""Positions between two mask cells."""
_MARGIN = 2.0**-20
_SLAB = 64
"""Columns of a crop that are resampled at a time: few weights of a product are zeros then, and the product
is small enough for a BLAS to keep it on one core."""


@dataclass(frozen=True, eq=False)
class Taps:
    """The two mask cells under each of P pixels of one axis.

    Args:
        lower: int64 [P], the first cell, -1 where it lies before the mask; never decreasing for one mask.
        weight: float64 [P], of cell `lower + 1`; `lower` has the rest.
        matrix: float32 [P, cells], the same as a matrix; cells outside the mask are left out.
    """

    lower: IntArray
    weight: NDArray[np.float64]
    matrix: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Span:
    """The pixels of one axis that each of n crops covers.

    Args:
        start: int64 [n], first pixel of the frame.
        length: int64 [n], number of pixels.
        tap: int64 [n], where the first pixel stands in the taps.
    """

    start: IntArray
    length: IntArray
    tap: IntArray


def paste_prototype_masks(masks: Probabilities, geometry: Geometry, threshold: float) -> MaskCrops:
    """Masks that cover the whole network input (YOLACT), bilinear with half-pixel centres.

    A frame pixel's centre goes through the geometry to the network input and from there to mask cells
    (`MaskRule.BILINEAR_HALF_PIXEL`): u = network * cells / network length - 0.5, held inside the mask, which
    repeats its edge. Padding of the input falls away; pixels outside the input are not set.

    Args:
        masks: float32 [n, cells down, cells across], probabilities.
        geometry: Of the frame that the network saw.
        threshold: A pixel is set above it.

    Raises:
        ResultError: Ill-typed masks, values outside 0..1, or a turned geometry.
    """
    _check_masks(masks)
    across, down = geometry.axes()
    cells = _cells_above(masks, threshold)
    taps_x, (low_x, high_x) = _whole_axis(across, masks.shape[2])
    taps_y, (low_y, high_y) = _whole_axis(down, masks.shape[1])
    span_x = _reach(taps_x.lower, cells[:, 0], cells[:, 2], low_x, high_x)
    span_y = _reach(taps_y.lower, cells[:, 1], cells[:, 3], low_y, high_y)
    return _resample(masks, (taps_x, taps_y), (span_x, span_y), threshold, geometry.source_size)


def paste_box_masks(
    masks: Probabilities, boxes: NDArray[np.floating], frame_size: Size, threshold: float
) -> MaskCrops:
    """Masks that fill their boxes (Mask R-CNN), sampled at pixel centres with zeros outside.

    Along an axis (`MaskRule.PASTE_ALIGNED`) u = (pixel + 0.5 - box start) * cells / box length - 0.5.

    Args:
        masks: float32 [n, cells down, cells across], probabilities.
        boxes: float [n, 4], xyxy in continuous frame pixels; may leave the frame. A box without an extent
            gives an empty crop.
        frame_size: (height, width).
        threshold: A pixel is set above it; at least 0.

    Raises:
        ResultError: Ill-typed masks or boxes, or values outside 0..1.
    """
    _check_masks(masks)
    if boxes.shape != (len(masks), 4) or not np.isfinite(boxes).all():
        raise ResultError(f"{len(masks)} masks need finite boxes [{len(masks)}, 4], not {list(boxes.shape)}")
    corners = boxes.astype(np.float64)
    cells = _cells_above(masks, threshold)
    height, width = frame_size
    span_x, taps_x = _box_axis(corners[:, 0], corners[:, 2], cells[:, 0], cells[:, 2], masks.shape[2], width)
    span_y, taps_y = _box_axis(corners[:, 1], corners[:, 3], cells[:, 1], cells[:, 3], masks.shape[1], height)
    return _resample(masks, (taps_x, taps_y), (span_x, span_y), threshold, frame_size)


def _check_masks(masks: Probabilities) -> None:
    if masks.ndim != 3 or masks.dtype != np.float32 or 0 in masks.shape[1:]:
        raise ResultError(f"masks must be float32 [n, height, width], not {masks.dtype} {list(masks.shape)}")
    if masks.size and not (masks.min() >= -1e-3 and masks.max() <= 1 + 1e-3):
        raise ResultError(
            "mask values are not probabilities: some lie outside 0..1 or are not numbers",
            hint="the graph must apply the sigmoid; run `edgewise selftest` on the bundle",
        )


def _cells_above(masks: Probabilities, threshold: float) -> IntArray:
    """int64 [n, 4], first x, first y, last x, last y of the cells above the threshold; last < first: none."""
    found = [cv2.boundingRect((mask > threshold).view(np.uint8)) for mask in masks]
    rectangles = np.array(found, np.int64).reshape(-1, 4)
    rectangles[:, 2:] += rectangles[:, :2] - 1
    return rectangles


def _taps(positions: NDArray[np.floating], cells: int) -> Taps:
    steps = np.rint(positions * _STEPS).astype(np.int64)
    lower = steps >> 22
    weight = (steps & (_STEPS - 1)) / _STEPS
    # Columns before and behind take the weights of cells outside the mask.
    matrix = np.zeros((len(lower), cells + 3), np.float32)
    place = np.arange(len(lower)) * (cells + 3) + lower + 1
    flat = matrix.ravel()
    flat[place] = 1 - weight
    flat[place + 1] = weight
    return Taps(lower, weight, matrix[:, 1 : cells + 1])


@lru_cache(maxsize=8)
def _whole_axis(axis: Axis, cells: int) -> tuple[Taps, tuple[int, int]]:
    """The taps of every frame pixel, and the range [first, last) of pixels that lie in the network input."""
    network = (np.arange(axis.source_length) + 0.5) * axis.scale + axis.offset
    inside = np.flatnonzero((network >= 0) & (network < axis.network_length))
    seen = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)
    positions = network * (cells / axis.network_length) - 0.5
    return _taps(np.clip(positions, 0.0, float(cells - 1)), cells), seen


def _reach(lower: IntArray, first: IntArray, last: IntArray, low: int, high: int) -> Span:
    """The pixels with a tap on cells first..last."""
    start = np.clip(np.searchsorted(lower, first - 1, side="left"), low, high)
    stop = np.clip(np.searchsorted(lower, last, side="right"), low, high)
    return Span(start, np.where(last < first, 0, stop - start), start)


def _box_axis(
    begin: NDArray[np.float64],
    end: NDArray[np.float64],
    first: IntArray,
    last: IntArray,
    cells: int,
    frame_length: int,
) -> tuple[Span, Taps]:
    extent = end - begin
    solid = (extent > 0) & (last >= first)
    pitch = np.where(solid, extent, 1.0) / cells
    # One pixel more on either side than a cell can reach, so that rounding here decides nothing.
    start = np.clip(np.ceil(begin + (first - 0.5) * pitch - 0.5) - 1, 0, frame_length)
    stop = np.clip(np.floor(begin + (last + 1.5) * pitch - 0.5) + 2, start, frame_length)
    length = np.where(solid, stop - start, 0).astype(np.int64)
    tap = np.cumsum(length) - length
    owner = np.repeat(np.arange(len(length)), length)
    pixel = np.arange(len(owner)) - tap[owner] + start[owner]
    positions = (pixel + 0.5 - begin[owner]) / pitch[owner] - 0.5
    return Span(start.astype(np.int64), length, tap), _taps(np.clip(positions, -1.0, float(cells)), cells)


def _resample(
    masks: Probabilities,
    taps: tuple[Taps, Taps],
    spans: tuple[Span, Span],
    threshold: float,
    frame_size: Size,
) -> MaskCrops:
    """Crops of the masks; `taps` and `spans` are (across, down)."""
    taps_x, taps_y = taps
    span_x, span_y = spans
    empty = (span_x.length == 0) | (span_y.length == 0)
    widths, heights = np.where(empty, 0, span_x.length), np.where(empty, 0, span_y.length)
    places = np.stack([span_x.start, span_y.start, widths, heights], axis=1)
    areas = widths * heights
    surely = np.empty(int(areas.sum()), np.bool_)
    # Reused for every crop, so that it stays in the processor's cache.
    possibly = np.empty(int(areas.max(initial=0)), np.bool_)
    values = np.empty(len(possibly), np.float32)
    high, low = np.float32(threshold + _MARGIN), np.float32(threshold - _MARGIN)
    lower_x, lower_y = taps_x.lower, taps_y.lower
    doubtful: list[IntArray] = []
    done = 0
    rows = zip(
        masks, widths.tolist(), heights.tolist(), span_x.tap.tolist(), span_y.tap.tolist(), strict=True
    )
    for mask, w, h, x, y in rows:
        if not w:
            continue
        top, bottom = max(int(lower_y[y]), 0), int(lower_y[y + h - 1]) + 2
        first, last = max(int(lower_x[x]), 0), int(lower_x[x + w - 1]) + 2
        tall = mask[top:bottom, first:last].T @ taps_y.matrix[y : y + h, top:bottom].T
        pixels = w * h
        crop = values[:pixels].reshape(w, h)
        for slab in range(0, w, _SLAB):
            end = min(slab + _SLAB, w)
            left = max(int(lower_x[x + slab]), 0)
            right = int(lower_x[x + end - 1]) + 2
            weights = taps_x.matrix[x + slab : x + end, left:right]
            np.matmul(weights, tall[left - first : right - first], out=crop[slab:end])
        sure, possible = surely[done : done + pixels], possibly[:pixels]
        np.greater(values[:pixels], high, out=sure)
        np.greater(values[:pixels], low, out=possible)
        if np.count_nonzero(sure) != np.count_nonzero(possible):
            doubtful.append(np.flatnonzero(sure != possible) + done)
        done += pixels
    if doubtful:
        pixel = np.concatenate(doubtful)
        owner = np.searchsorted(np.cumsum(areas), pixel, side="right")
        column, row = np.divmod(pixel - (np.cumsum(areas) - areas)[owner], heights[owner])
        at = (span_x.tap[owner] + column, span_y.tap[owner] + row)
        surely[pixel] = _defined(masks, owner, taps, at) > threshold
    return MaskCrops(surely, places, frame_size)


def _defined(
    masks: Probabilities, owner: IntArray, taps: tuple[Taps, Taps], at: tuple[IntArray, IntArray]
) -> NDArray[np.float64]:
    """The defined value at single pixels, given as indices into the taps of each axis."""
    (x, tx), (y, ty) = ((tap.lower[place], tap.weight[place]) for tap, place in zip(taps, at, strict=True))

    def cell(row: IntArray, column: IntArray) -> NDArray[np.float64]:
        height, width = masks.shape[1:]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        values = masks[owner, np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        return np.where(inside, values, 0).astype(np.float64)

    upper = (1 - tx) * cell(y, x) + tx * cell(y, x + 1)
    below = (1 - tx) * cell(y + 1, x) + tx * cell(y + 1, x + 1)
    return (1 - ty) * upper + ty * below

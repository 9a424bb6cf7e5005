"""Low-resolution probability masks resampled to boolean crops of the frame.

The definition. A mask covers a rectangle of the frame; along each axis the centre of a pixel lies at

    u = (pixel + 0.5 - begin) / pitch - 0.5,  pitch = (end - begin) / cells

between the centres of mask cells, held inside 0..cells - 1 and rounded to 2**-22 of a cell: u = lower + t.
With lerp(a, b, t) = a + t * (b - a) in float64, each operation rounded, the pixel's value is

    lerp(lerp(m[y, x], m[y, x + 1], tx), lerp(m[y + 1, x], m[y + 1, x + 1], tx), ty)

and the pixel is set where value > threshold.

How it is computed. Down a column of the frame the value runs in straight pieces from mask row to mask row
(`knots`), so it crosses the threshold at most once between two of them. It is enough to interpolate the knots
of every column, to find where neighbouring knots lie on different sides, and to solve for the pixel there.
The work grows with columns x mask rows and not with pixels, and no pixel is decided by anything but the
definition: a solution too close to a pixel's centre is settled by evaluating it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.errors import ResultError
from edgewise.runtime.geometry import Axis, Geometry, Size
from edgewise.runtime.masks import IntArray, MaskCrops

Probabilities = NDArray[np.float32]
Doubles = NDArray[np.float64]

_STEPS = 1 << 22
"""Positions between two mask cells."""


def paste_prototype_masks(masks: Probabilities, geometry: Geometry, threshold: float) -> MaskCrops:
    """Masks that cover the whole network input (YOLACT): `MaskRule.BILINEAR_HALF_PIXEL`.

    Their rectangle is the network input as it lies in the frame; cells at the edge of the mask are repeated.
    Padding of the input falls outside the frame and so away; pixels outside the input are not set.

    Args:
        masks: float32 [n, cells down, cells across], probabilities.
        geometry: Of the frame that the network saw.
        threshold: A pixel is set above it; at least 0.

    Raises:
        ResultError: Ill-typed masks, values outside 0..1, or a turned geometry.
    """
    _check(masks, threshold)
    cells = _cells_above(masks, threshold)
    across, down = geometry.axes()
    line_x = _input_line(across, cells[:, 0], cells[:, 2], masks.shape[2])
    line_y = _input_line(down, cells[:, 1], cells[:, 3], masks.shape[1])
    return _paste(masks, line_x, line_y, threshold, geometry.source_size)


def _input_line(axis: Axis, first: IntArray, last: IntArray, cells: int) -> _Line:
    begin, end = -axis.offset / axis.scale, (axis.network_length - axis.offset) / axis.scale
    low, high = np.clip(np.ceil([begin - 0.5, end - 0.5]), 0, axis.source_length).astype(int).tolist()
    origin, pitch = np.full(len(first), begin), np.full(len(first), (end - begin) / cells)
    return _line(origin, pitch, first, last, cells, (low, high))


def paste_box_masks(
    masks: Probabilities, boxes: NDArray[np.floating], frame_size: Size, threshold: float
) -> MaskCrops:
    """Masks that fill their boxes (Mask R-CNN): `MaskRule.PASTE_ALIGNED`.

    Their rectangle is the box, not rounded; outside the mask stand zeros, as a ring of cells around it.

    Args:
        masks: float32 [n, cells down, cells across], probabilities.
        boxes: float [n, 4], xyxy in continuous frame pixels; may leave the frame. A box without an extent
            gives an empty crop.
        frame_size: (height, width).
        threshold: A pixel is set above it; at least 0.

    Raises:
        ResultError: Ill-typed masks or boxes, or values outside 0..1.
    """
    _check(masks, threshold)
    if boxes.shape != (len(masks), 4) or not np.isfinite(boxes).all():
        raise ResultError(f"{len(masks)} masks need finite boxes [{len(masks)}, 4], not {list(boxes.shape)}")
    count, down, across = masks.shape
    ringed = np.zeros((count, down + 2, across + 2), np.float32)
    ringed[:, 1:-1, 1:-1] = masks
    corners = boxes.astype(np.float64)
    solid = np.all(corners[:, 2:] > corners[:, :2], axis=1)
    pitch = np.where(solid[:, None], corners[:, 2:] - corners[:, :2], 1.0) / [across, down]
    origin = corners[:, :2] - pitch
    cells = _cells_above(ringed, threshold)
    cells[~solid, 2:] = -1
    height, width = frame_size
    line_x = _line(origin[:, 0], pitch[:, 0], cells[:, 0], cells[:, 2], across + 2, (0, width))
    line_y = _line(origin[:, 1], pitch[:, 1], cells[:, 1], cells[:, 3], down + 2, (0, height))
    return _paste(ringed, line_x, line_y, threshold, frame_size)


def _check(masks: Probabilities, threshold: float) -> None:
    if masks.ndim != 3 or masks.dtype != np.float32 or 0 in masks.shape[1:]:
        raise ResultError(f"masks must be float32 [n, height, width], not {masks.dtype} {list(masks.shape)}")
    if not threshold >= 0:
        raise ResultError(f"a mask threshold must be at least 0, not {threshold}")
    if masks.size and not (masks.min() >= -1e-3 and masks.max() <= 1 + 1e-3):
        raise ResultError(
            "mask values are not probabilities: some lie outside 0..1 or are not numbers",
            hint="the graph must apply the sigmoid; run `edgewise selftest` on the bundle",
        )


def _cells_above(masks: Probabilities, threshold: float) -> IntArray:
    """int64 [n, 4], first x, first y, last x, last y of the cells above the threshold; last < first: none."""
    # The largest float32 that is not above the threshold separates the same cells.
    limit = np.float32(threshold)
    if float(limit) > threshold:
        limit = np.nextafter(limit, np.float32(-1))
    found = [cv2.boundingRect((mask > limit).view(np.uint8)) for mask in masks]
    rectangles = np.array(found, np.int64).reshape(-1, 4)
    rectangles[:, 2:] += rectangles[:, :2] - 1
    return rectangles


@dataclass(frozen=True, eq=False)
class _Line:
    """What n crops cover along one axis: pixels of the frame, and a window of mask cells.

    `start`, `length`: the pixels. `cell`, `cells`: first and number of the window's cells. `tap`: where the
    pixels of each crop begin in `lower` (first of the two cells of each pixel, counted in the window) and
    `weight` (of the second). `offset`, `pitch`: the pixel under a position of the window, both counted from
    the crop's first, is offset + position * pitch.
    """

    start: IntArray
    length: IntArray
    cell: IntArray
    cells: IntArray
    tap: IntArray
    lower: IntArray
    weight: Doubles
    offset: Doubles
    pitch: Doubles


def _line(
    origin: Doubles, pitch: Doubles, first: IntArray, last: IntArray, cells: int, seen: tuple[int, int]
) -> _Line:
    """The pixels in seen[0]..seen[1] that cells first..last can set; cell i covers origin + pitch * i.."""
    low, high = seen
    # One pixel more on either side than a cell reaches, so that rounding here decides nothing.
    start = np.clip(np.ceil(origin + (first - 0.5) * pitch - 0.5) - 1, low, high)
    stop = np.clip(np.floor(origin + (last + 1.5) * pitch - 0.5) + 2, low, high)
    # The mask's edge cells are repeated without end.
    start = np.where(first == 0, low, start).astype(np.int64)
    stop = np.where(last == cells - 1, high, stop).astype(np.int64)
    length = np.where(last < first, 0, np.maximum(stop - start, 0))
    # The neighbours of the reaching cells are not above the threshold; beyond them nothing can be.
    cell, end = np.maximum(first - 1, 0), np.minimum(last + 1, cells - 1)
    tap = np.cumsum(length) - length
    pixel = np.arange(int(length.sum())) + np.repeat(start - tap, length)
    position = (pixel + 0.5 - np.repeat(origin, length)) / np.repeat(pitch, length) - 0.5
    position = np.minimum(np.maximum(position, np.repeat(cell, length)), np.repeat(end, length))
    steps = np.rint(position * _STEPS).astype(np.int64) - np.repeat(cell << 22, length)
    return _Line(
        start=start,
        length=length,
        cell=cell,
        cells=np.maximum(end - cell + 1, 0),
        tap=tap,
        lower=steps >> 22,
        weight=(steps & (_STEPS - 1)) / _STEPS,
        offset=origin + (cell + 0.5) * pitch - 0.5 - start,
        pitch=pitch,
    )


def _paste(masks: Probabilities, across: _Line, down: _Line, threshold: float, frame_size: Size) -> MaskCrops:
    empty = (across.length == 0) | (down.length == 0)
    widths, heights = np.where(empty, 0, across.length), np.where(empty, 0, down.length)
    found: list[tuple[IntArray, Doubles, Doubles]] = []
    places = zip(
        across.cell.tolist(),
        across.cells.tolist(),
        down.cell.tolist(),
        down.cells.tolist(),
        across.tap.tolist(),
        widths.tolist(),
        strict=True,
    )
    for mask, (x, columns, y, rows, tap, width) in zip(masks, places, strict=True):
        window = mask[y : y + rows, x : x + columns] if width else mask[:0, :0]
        pixels = slice(tap, tap + width)
        found.append(_crossings(window, across.lower[pixels], across.weight[pixels], threshold))
    owner = np.repeat(np.arange(len(masks)), [len(at) for at, _, _ in found])
    at, before, after = (np.concatenate(part) for part in zip(*found, strict=True)) if found else _NOTHING
    knots = (down.cells + 1)[owner]
    # Exact for these numbers, and several times faster than the division of integers.
    column = ((at + 0.5) / knots).astype(np.int64)
    knot = at - column * knots
    height = heights[owner]
    row = _rows(down, owner, knot, before, after, threshold, height)
    offset = np.cumsum(widths * heights) - widths * heights
    edges = offset[owner] + column * height + row
    lengths = np.diff(edges, prepend=0, append=int((widths * heights).sum()))
    inside = np.zeros(len(lengths), np.bool_)
    inside[1::2] = True
    data = np.repeat(inside, lengths)
    return MaskCrops(data, np.stack([across.start, down.start, widths, heights], axis=1), frame_size)


_NOTHING = (np.zeros(0, np.int64), np.zeros(0), np.zeros(0))


def _crossings(
    window: Probabilities, lower: IntArray, weight: Doubles, threshold: float
) -> tuple[IntArray, Doubles, Doubles]:
    """Where the knots of successive columns change sides: index of the knot behind, values on both sides.

    A knot of 0, never above the threshold, is put behind every column: with r rows in the window, the index
    is column * (r + 1) + row; row 0 means that a column begins above the threshold, row r that it ends there.
    """
    rows, columns = window.shape
    cells = np.zeros((columns + 1, rows + 1))
    cells[:columns, :rows] = window.T
    knots = cells.take(lower, axis=0)
    rise = (cells[1:] - cells[:-1]).take(lower, axis=0)
    rise *= weight[:, None]
    knots += rise
    values = knots.reshape(-1)
    above = np.zeros(len(values) + 1, np.bool_)
    np.greater(values, threshold, out=above[1:])
    at = (above[1:] != above[:-1]).nonzero()[0]
    return at, values.take(at - 1, mode="wrap"), values.take(at)


def _rows(
    down: _Line,
    owner: IntArray,
    knot: IntArray,
    before: Doubles,
    after: Doubles,
    threshold: float,
    height: IntArray,
) -> IntArray:
    """The first pixel of the crop's column that lies on the side of the knot behind, for each crossing."""
    inside = (knot > 0) & (knot < down.cells[owner])
    rise = np.where(inside, after - before, 1.0)
    pitch = down.pitch[owner]
    solution = down.offset[owner] + (knot - 1 + (threshold - before) / rise) * pitch
    nearest = np.rint(solution)
    row = np.clip(np.ceil(solution), 0, height).astype(np.int64)
    # Rounding of positions, and of values where the rise is tiny, can move a solution over a pixel's centre.
    close = inside & ((np.abs(solution - nearest) < 2.0**-20 * pitch + 2.0**-20) | (np.abs(rise) < 2.0**-28))
    doubtful = np.flatnonzero(close)
    if doubtful.size:
        chosen = owner[doubtful], knot[doubtful], before[doubtful], after[doubtful]
        row[doubtful] = _settled(down, *chosen, threshold, height[doubtful], row[doubtful])
    return np.where(inside, row, np.where(knot == 0, 0, height))


def _settled(
    down: _Line,
    owner: IntArray,
    knot: IntArray,
    before: Doubles,
    after: Doubles,
    threshold: float,
    height: IntArray,
    row: IntArray,
) -> IntArray:
    """Rows moved until the definition puts the row before on the first side and the row on the second."""

    def beyond(candidate: IntArray) -> NDArray[np.bool_]:
        tap = down.tap[owner] + np.clip(candidate, 0, height - 1)
        lower = down.lower[tap]
        above = before + down.weight[tap] * (after - before) > threshold
        there = (lower > knot - 1) | ((lower == knot - 1) & (above != (before > threshold)))
        return (candidate >= height) | ((candidate >= 0) & there)

    while (step := beyond(row - 1).astype(np.int64)).any():
        row = row - step
    while (step := (~beyond(row)).astype(np.int64)).any():
        row = row + step
    return row

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

from edgewise.runtime.pixels.geometry import Axis, Geometry, Size
from edgewise.runtime.pixels.masks import IntArray, MaskCrops
from edgewise.runtime.system.errors import ResultError

Probabilities = NDArray[np.float32]
Doubles = NDArray[np.float64]

_STEPS = 1 << 22
"""Positions between two mask cells."""
_BATCH = 1 << 16
"""Knots that are interpolated at a time."""


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
    _check_boxes(masks, boxes, threshold)
    corners = boxes.astype(np.float64)
    solid = np.all(corners[:, 2:] > corners[:, :2], axis=1)
    sides = np.where(solid[:, None], corners[:, 2:] - corners[:, :2], 1.0)
    pitch = sides / [masks.shape[2], masks.shape[1]]
    return _paste_ringed(masks, corners[:, :2] - pitch, pitch, solid, frame_size, threshold)


def paste_padded_masks(
    masks: Probabilities, boxes: NDArray[np.floating], frame_size: Size, threshold: float
) -> MaskCrops:
    """Masks that fill their boxes, on whole pixels: `MaskRule.PASTE_PADDED`.

    A ring of cells of zeros is put around a mask, and its box grows about its centre as the mask did. The
    rectangle of the ringed mask begins at the pixel of the box's first corner and ends behind that of the
    last, coordinates cut off towards 0; it is at least one pixel wide and high.

    Args and raises: as `paste_box_masks`, but a box without an extent is one pixel.
    """
    _check_boxes(masks, boxes, threshold)
    grown = np.array([masks.shape[2] + 2, masks.shape[1] + 2], np.float64)
    # In float32, as the original: a truncation shows the last bit.
    corners = boxes.astype(np.float32)
    centre = (corners[:, 2:] + corners[:, :2]) * np.float32(0.5)
    half = (corners[:, 2:] - corners[:, :2]) * np.float32(0.5) * (grown / (grown - 2)).astype(np.float32)
    first, last = np.trunc(centre - half), np.trunc(centre + half)
    sides = np.maximum(last.astype(np.float64) - first + 1, 1)
    solid = np.ones(len(masks), np.bool_)
    return _paste_ringed(masks, first.astype(np.float64), sides / grown, solid, frame_size, threshold)


def _check_boxes(masks: Probabilities, boxes: NDArray[np.floating], threshold: float) -> None:
    _check(masks, threshold)
    if boxes.shape != (len(masks), 4) or not np.isfinite(boxes).all():
        raise ResultError(f"{len(masks)} masks need finite boxes [{len(masks)}, 4], not {list(boxes.shape)}")


def _paste_ringed(
    masks: Probabilities,
    origin: Doubles,
    pitch: Doubles,
    solid: NDArray[np.bool_],
    frame_size: Size,
    threshold: float,
) -> MaskCrops:
    """Masks with a ring of zeros around them, whose cell i begins at `origin` + `pitch` * i (x, y), [n, 2].

    Of what is not `solid`, bool [n], nothing is set.
    """
    count, down, across = masks.shape
    ringed = np.zeros((count, down + 2, across + 2), np.float32)
    ringed[:, 1:-1, 1:-1] = masks
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
    pixels of each crop begin in `lower` (first of the two cells of each pixel) and `weight` (of the second).
    `offset`, `pitch`: position u of the mask lies at the crop's pixel offset + u * pitch.
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
    steps = np.rint(position * _STEPS).astype(np.int64)
    return _Line(
        start=start,
        length=length,
        cell=cell,
        cells=np.maximum(end - cell + 1, 0),
        tap=tap,
        lower=steps >> 22,
        weight=(steps & (_STEPS - 1)) / _STEPS,
        offset=origin + 0.5 * pitch - 0.5 - start,
        pitch=pitch,
    )


def _paste(masks: Probabilities, across: _Line, down: _Line, threshold: float, frame_size: Size) -> MaskCrops:
    empty = (across.length == 0) | (down.length == 0)
    widths, heights = np.where(empty, 0, across.length), np.where(empty, 0, down.length)
    areas = widths * heights
    edges = [np.zeros(1, np.int64)]
    begin = np.cumsum(areas) - areas
    for batch in _batches(np.flatnonzero(areas), widths * down.cells):
        edges.append(_edges(masks, across, down, batch, begin[batch], threshold))
    edges.append(areas.sum(keepdims=True))
    lengths = np.diff(np.concatenate(edges))
    inside = np.zeros(len(lengths), np.bool_)
    inside[1::2] = True
    data = np.repeat(inside, lengths)
    return MaskCrops(data, np.stack([across.start, down.start, widths, heights], axis=1), frame_size)


def _batches(members: IntArray, knots: IntArray) -> list[IntArray]:
    """Successive members whose knots together stay in the processor's cache."""
    batch = np.cumsum(knots[members]) // _BATCH
    return np.split(members, np.flatnonzero(np.diff(batch)) + 1) if members.size else []


def _edges(
    masks: Probabilities, across: _Line, down: _Line, batch: IntArray, begin: IntArray, threshold: float
) -> IntArray:
    """Where pixels of the batch's crops begin and cease to be set, in turn, in the order of the data.

    Args:
        batch: Indices of masks with a crop.
        begin: Where the data of each crop begins.
    """
    widths, heights = across.length[batch], down.length[batch]
    rows = int(down.cells[batch].max())
    first_row = np.minimum(down.cell[batch], masks.shape[1] - rows)
    # A line of the table is a column of a mask; a knot of 0, never above the threshold, ends it.
    lines = across.cells[batch] + 1
    line = np.cumsum(lines) - lines
    table = np.zeros((int(lines.sum()), rows + 1))
    windows = zip(
        batch.tolist(),
        line.tolist(),
        across.cell[batch].tolist(),
        across.cells[batch].tolist(),
        first_row.tolist(),
        strict=True,
    )
    for index, at, x, columns, y in windows:
        table[at : at + columns, :rows] = masks[index, y : y + rows, x : x + columns].T

    owner = np.repeat(np.arange(len(batch)), widths)
    column = np.arange(len(owner)) - np.repeat(np.cumsum(widths) - widths, widths)
    tap = column + across.tap[batch][owner]
    lower = across.lower[tap] + (line - across.cell[batch])[owner]
    knots = table.take(lower, axis=0)
    rise = (table[1:] - table[:-1]).take(lower, axis=0)
    rise *= across.weight[tap][:, None]
    knots += rise

    values = knots.reshape(-1)
    above = np.zeros(len(values) + 1, np.bool_)
    np.greater(values, threshold, out=above[1:])
    crossing = (above[1:] != above[:-1]).nonzero()[0]
    crossed = crossing // (rows + 1)
    knot = crossing - crossed * (rows + 1)
    whose = owner[crossed]
    pieces = _Pieces(
        member=batch[whose],
        knot=knot + first_row[whose],
        before=values.take(crossing - 1, mode="wrap"),
        after=values.take(crossing),
        height=heights[whose],
    )
    row = np.where(knot == 0, 0, np.where(knot == rows, pieces.height, _rows(down, pieces, threshold)))
    return (begin[owner] + column * heights[owner])[crossed] + row


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Straight pieces of columns whose two knots lie on different sides of the threshold.

    Args:
        member: Index of the mask.
        knot: Mask row of the knot behind.
        before: Value at the knot in front.
        after: Value at the knot behind.
        height: Pixels of the column.
    """

    member: IntArray
    knot: IntArray
    before: Doubles
    after: Doubles
    height: IntArray


def _rows(down: _Line, pieces: _Pieces, threshold: float) -> IntArray:
    """The first pixel of the column that lies on the side of the knot behind, for each piece."""
    rise = pieces.after - pieces.before
    # Columns that begin or end on a side have no piece there; their knots may be equal.
    rise[rise == 0] = 1
    pitch = down.pitch[pieces.member]
    solution = down.offset[pieces.member] + (pieces.knot - 1 + (threshold - pieces.before) / rise) * pitch
    row = np.minimum(np.maximum(np.ceil(solution), 0), pieces.height).astype(np.int64)
    # Rounding of positions, and of values where the rise is tiny, can move a solution over a pixel's centre.
    tolerance = 2.0**-20 * (1 + float(pitch.max(initial=0)))
    close = (np.abs(solution - np.rint(solution)) < tolerance) | (np.abs(rise) < 2.0**-28)
    doubtful = np.flatnonzero(close)
    if doubtful.size:
        row[doubtful] = _settled(down, pieces, doubtful, threshold, row[doubtful])
    return row


def _settled(down: _Line, pieces: _Pieces, chosen: IntArray, threshold: float, row: IntArray) -> IntArray:
    """Rows moved until the definition puts the row before on the first side and the row on the second."""
    tap, height = down.tap[pieces.member[chosen]], pieces.height[chosen]
    before, after, piece = pieces.before[chosen], pieces.after[chosen], pieces.knot[chosen] - 1

    def beyond(candidate: IntArray) -> NDArray[np.bool_]:
        at = tap + np.clip(candidate, 0, height - 1)
        above = before + down.weight[at] * (after - before) > threshold
        lower = down.lower[at]
        there = (lower > piece) | ((lower == piece) & (above != (before > threshold)))
        return (candidate >= height) | ((candidate >= 0) & there)

    while (step := beyond(row - 1).astype(np.int64)).any():
        row = row - step
    while (step := (~beyond(row)).astype(np.int64)).any():
        row = row + step
    return row

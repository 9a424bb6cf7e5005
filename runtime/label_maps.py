"""Maps of small whole numbers (semantic labels, segment ids): counting, renaming, boxes, nearest resampling.

Resampling is exact, so that areas and votes can be counted before it. Along each axis the centre of a frame
pixel lies at

    u = ((pixel + 0.5) * scale + offset) * cells / network_length

cells from the beginning of the map, computed in float64 in this order, multiplied by 2**22 and rounded to an
integer (half to even). That integer shifted right by 22 bits is the cell that the pixel shows; a centre on
the border of two cells shows the second. A pixel whose cell is not among 0..cells - 1 shows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.geometry import Axis, Geometry, Size
from edgewise.runtime.masks import BoolArray, IntArray

LabelMap = NDArray[Any]
"""Integers [h, w]."""

_STEP_BITS = 22
_STRIPE = 1 << 23
"""Pixels that OpenCV may count at a time: it gives counts in float32, exact up to 2**24."""


def narrowest(count: int) -> np.dtype[np.unsignedinteger[Any]]:
    """The dtype for labels 0..count - 1 that the operations here are fastest with."""
    return np.dtype(np.uint8 if count <= 1 << 8 else np.uint16 if count <= 1 << 16 else np.uint32)


def count_labels(labels: LabelMap, count: int, where: NDArray[np.uint8] | None = None) -> IntArray:
    """int64 [count], pixels of each label.

    Args:
        labels: Unsigned integers [h, w] below `count`.
        count: Number of labels.
        where: uint8 [h, w], count only where it is not zero.
    """
    if labels.dtype != np.uint8:
        chosen = labels.ravel() if where is None else labels[where != 0]
        return np.bincount(chosen, minlength=count).astype(np.int64)
    total = np.zeros(max(count, 256), np.int64)
    rows = max(1, _STRIPE // max(1, labels.shape[1]))
    for top in range(0, len(labels), rows):
        stripe = np.ascontiguousarray(labels[top : top + rows])
        mask = None if where is None else np.ascontiguousarray(where[top : top + rows])
        counted = cv2.calcHist([stripe], [0], mask, [256], [0, 256])
        total[:256] += counted.ravel().astype(np.int64)
    return total[:count]


def rename_labels(labels: LabelMap, names: LabelMap) -> LabelMap:
    """`names[labels]`: a map of the dtype of `names`, whose entry i is the new label of i."""
    if labels.dtype == np.uint8 and names.dtype == np.uint8 and labels.size:
        table = np.zeros(256, np.uint8)
        table[: len(names)] = names[:256]
        return np.asarray(cv2.LUT(labels, table), np.uint8).reshape(labels.shape)
    return names.take(labels)


def label_boxes(labels: LabelMap, count: int) -> IntArray:
    """int64 [count, 4], the first column and row and one past the last column and row of each label.

    A label that does not occur gets 0, 0, 0, 0. The work grows with the number of horizontal runs.
    """
    boxes = np.zeros((count, 4), np.int64)
    height, width = labels.shape
    if not labels.size:
        return boxes
    begins = np.empty(labels.shape, np.bool_)
    begins[:, 0] = True
    np.not_equal(labels[:, 1:], labels[:, :-1], out=begins[:, 1:])
    start = np.flatnonzero(begins)
    end = np.append(start[1:], height * width)
    label = labels.ravel()[start]
    order = np.argsort(label, kind="stable")
    found, first = np.unique(label[order], return_index=True)
    row, left = np.divmod(start[order], width)
    right = left + (end - start)[order]
    # Runs of a label follow one another from the top down.
    last = np.append(first[1:], len(row)) - 1
    boxes[found] = np.stack(
        [np.minimum.reduceat(left, first), row[first], np.maximum.reduceat(right, first), row[last] + 1],
        axis=1,
    )
    return boxes


@dataclass(frozen=True, eq=False)
class NearestLine:
    """Which map cells the pixels of one axis of the frame show, by the module's rule.

    Attributes:
        cells: int64 [k], the cells that are seen, rising.
        edges: int64 [k + 1], cell i of `cells` is shown by the pixels edges[i]..edges[i + 1] - 1.
        pixels: Length of the axis; what lies before edges[0] or behind edges[k] shows nothing.
    """

    cells: IntArray
    edges: IntArray
    pixels: int

    @property
    def repeats(self) -> IntArray:
        """int64 [k], pixels that show each cell; all at least 1."""
        return np.diff(self.edges)


def nearest_line(axis: Axis, cells: int) -> NearestLine:
    """The line of a map with `cells` cells along this axis of the network input."""
    position = (np.arange(axis.source_length) + 0.5) * axis.scale + axis.offset
    steps = np.rint(position * cells / axis.network_length * (1 << _STEP_BITS))
    cell = np.clip(steps, -(2.0**62), 2.0**62).astype(np.int64) >> _STEP_BITS
    inside = np.flatnonzero((cell >= 0) & (cell < cells))
    if not inside.size:
        return NearestLine(np.zeros(0, np.int64), np.zeros(1, np.int64), axis.source_length)
    # Positions rise, so the pixels inside are neighbours, and so are those of one cell.
    seen, first = np.unique(cell[inside], return_index=True)
    edges = inside[0] + np.append(first, len(inside))
    return NearestLine(seen, edges.astype(np.int64), axis.source_length)


@dataclass(frozen=True, eq=False)
class NearestGrid:
    """A map over the network input as the frame shows it; `down` and `across` are its axes."""

    down: NearestLine
    across: NearestLine

    @property
    def frame_size(self) -> Size:
        """(height, width)."""
        return self.down.pixels, self.across.pixels

    def seen(self, labels: LabelMap) -> LabelMap:
        """The cells [k, l] of a map that some pixel shows."""
        return labels.take(self.down.cells, axis=0).take(self.across.cells, axis=1)

    def weights(self) -> IntArray:
        """int64 [k, l], the number of frame pixels that show each cell of `seen`."""
        return np.outer(self.down.repeats, self.across.repeats)

    def spread(self, seen: LabelMap, outside: int = 0) -> LabelMap:
        """The frame's map [H, W] from the cells of `seen`; pixels that show nothing get `outside`."""
        wide = seen.repeat(self.across.repeats, axis=1)
        rows = np.repeat(np.arange(len(seen)), self.down.repeats)
        top, bottom = int(self.down.edges[0]), int(self.down.edges[-1])
        left, right = int(self.across.edges[0]), int(self.across.edges[-1])
        if (bottom - top, right - left) == self.frame_size:
            return wide.take(rows, axis=0)
        frame = np.full(self.frame_size, outside, seen.dtype)
        frame[top:bottom, left:right] = wide.take(rows, axis=0)
        return frame

    def boxes(self, boxes: IntArray) -> IntArray:
        """Frame boxes of `label_boxes` of cells of `seen`: columns and rows become pixels."""
        left, top, right, bottom = boxes.T
        across, down = self.across.edges, self.down.edges
        placed = np.stack([across[left], down[top], across[right], down[bottom]], axis=1)
        placed[right == left] = 0
        return placed


def nearest_grid(geometry: Geometry, map_size: Size) -> NearestGrid:
    """How the frame shows a map of `map_size` that covers the whole network input.

    Raises:
        ResultError: A turned geometry.
    """
    across, down = geometry.axes()
    return NearestGrid(nearest_line(down, map_size[0]), nearest_line(across, map_size[1]))


def as_mask(chosen: BoolArray) -> NDArray[np.uint8]:
    """A bool map as the bytes that OpenCV takes for a mask."""
    return np.ascontiguousarray(chosen).view(np.uint8)

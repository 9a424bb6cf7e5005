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

from edgewise.runtime.pixels.geometry import Axis, Geometry, Size
from edgewise.runtime.pixels.masks import BoolArray, IntArray

LabelMap = NDArray[Any]
"""Integers [h, w]."""

_STEP_BITS = 22


def narrowest(count: int) -> np.dtype[np.unsignedinteger[Any]]:
    """The dtype for labels 0..count - 1 that the operations here are fastest with."""
    return np.dtype(np.uint8 if count <= 1 << 8 else np.uint16 if count <= 1 << 16 else np.uint32)


def rename_labels(labels: LabelMap, names: LabelMap) -> LabelMap:
    """`names[labels]`: a map of the dtype of `names`, whose entry i is the new label of i."""
    if labels.dtype == np.uint8 and names.dtype.str[1:] in ("u1", "u2") and labels.size:
        table = np.zeros(256, names.dtype)
        table[: len(names)] = names[:256]
        return np.asarray(cv2.LUT(labels, table)).reshape(labels.shape)
    return names.take(labels)


@dataclass(frozen=True, eq=False)
class LabelRuns:
    """A map as its horizontal runs of equal labels, from the top down and from left to right.

    Attributes:
        label: Unsigned [r], of the map's dtype.
        row, left, right: int64 [r], the pixels left..right - 1 of the row have the label.
    """

    label: LabelMap
    row: IntArray
    left: IntArray
    right: IntArray

    def renamed(self, names: LabelMap) -> LabelRuns:
        """The runs with `names[label]` as labels; neighbours may then carry the same one."""
        return LabelRuns(names[self.label], self.row, self.left, self.right)

    def areas(self, count: int) -> IntArray:
        """int64 [count], pixels of each label 0..count - 1."""
        # Sums of whole numbers below 2**53 are exact in float64.
        return np.bincount(self.label, self.right - self.left, minlength=count).astype(np.int64)

    def boxes(self, count: int) -> IntArray:
        """int64 [count, 4], first column and row, and one past the last column and row, of each label.

        A label that does not occur gets 0, 0, 0, 0.
        """
        boxes = np.zeros((count, 4), np.int64)
        if not len(self.label):
            return boxes
        order = np.argsort(self.label, kind="stable")
        label, row, left, right = (array[order] for array in (self.label, self.row, self.left, self.right))
        first = np.flatnonzero(np.diff(label.astype(np.int64), prepend=-1))
        # Runs of a label follow one another from the top down.
        last = np.append(first[1:], len(label)) - 1
        boxes[label[first]] = np.stack(
            [np.minimum.reduceat(left, first), row[first], np.maximum.reduceat(right, first), row[last] + 1],
            axis=1,
        )
        return boxes


def label_runs(labels: LabelMap) -> LabelRuns:
    """The runs of an unsigned map [h, w]; the work behind it grows with their number and not with pixels."""
    height, width = labels.shape
    begins = np.ones(labels.shape, np.bool_)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=begins[:, 1:])
    start = np.flatnonzero(begins)
    length = np.diff(start, append=height * width)
    row, left = np.divmod(start, max(width, 1))
    return LabelRuns(labels.reshape(-1)[start], row, left, left + length)


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
        """Frame boxes of `LabelRuns.boxes` of cells of `seen`: columns and rows become pixels."""
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

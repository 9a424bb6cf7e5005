"""Instance masks as boolean crops of the frame, and their arithmetic.

A frame is large and an instance is small, so a mask is kept as the smallest rectangle that was computed and
its place. Crops lie one after another in one flat array, each column by column, because that is the order in
which COCO counts runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.system.errors import ResultError

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MaskCrops:
    """Masks of n instances in one frame.

    Args:
        data: bool [sum of w * h], the crops one after another, each column by column.
        places: int64 [n, 4], x, y, w, h of each crop in whole source pixels; inside the frame.
        frame_size: (height, width) of the frame.
    """

    data: BoolArray
    places: IntArray
    frame_size: Size

    def __post_init__(self) -> None:
        height, width = self.frame_size
        x, y, w, h = self.places.T
        if ((x < 0) | (y < 0) | (w < 0) | (h < 0) | (x + w > width) | (y + h > height)).any():
            raise ResultError(f"a mask crop leaves the {height} x {width} frame")
        if self.data.shape != (int((w * h).sum()),) or self.data.dtype != np.bool_:
            raise ResultError(
                f"crops with {(w * h).sum()} pixels need as many bools, not {self.data.dtype} "
                f"{list(self.data.shape)}"
            )

    def __len__(self) -> int:
        return len(self.places)

    @property
    def offsets(self) -> IntArray:
        """int64 [n + 1], where each crop starts in `data`, and the end."""
        return np.concatenate([[0], np.cumsum(self.places[:, 2] * self.places[:, 3])]).astype(np.int64)

    def __iter__(self) -> Iterator[BoolArray]:
        """bool [h, w] of each instance: views, laid out column by column."""
        ends = self.offsets.tolist()
        for index, (_, _, w, h) in enumerate(self.places.tolist()):
            yield self.data[ends[index] : ends[index + 1]].reshape(w, h).T

    def select(self, indices: IntArray) -> MaskCrops:
        """The crops at `indices`, in that order."""
        crops = list(self)
        chosen = [crops[index].T.ravel() for index in indices.tolist()]
        data = np.concatenate(chosen) if chosen else np.zeros(0, np.bool_)
        return MaskCrops(data, self.places[indices], self.frame_size)

    def areas(self) -> IntArray:
        """int64 [n], pixels set in each mask."""
        return np.array([np.count_nonzero(crop) for crop in self], np.int64)

    def dense(self) -> BoolArray:
        """bool [n, H, W], whole frames; large."""
        frames = np.zeros((len(self), *self.frame_size), np.bool_)
        for frame, crop, (x, y, w, h) in zip(frames, self, self.places.tolist(), strict=True):
            frame[y : y + h, x : x + w] = crop
        return frames


def crop_dense(masks: BoolArray) -> MaskCrops:
    """The smallest crops of whole-frame masks, bool [n, H, W]."""
    places = np.zeros((len(masks), 4), np.int64)
    pieces: list[BoolArray] = []
    for index, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
            places[index] = left, top, right - left, bottom - top
            pieces.append(mask[top:bottom, left:right].T.ravel())
    data = np.concatenate(pieces) if pieces else np.zeros(0, np.bool_)
    return MaskCrops(data, places, (masks.shape[1], masks.shape[2]))


def mask_iou(first: MaskCrops, second: MaskCrops) -> NDArray[np.float64]:
    """Intersection over union, float64 [n, m]; 0 where both masks of a pair are empty.

    Only the pixels that two crops share are compared.

    Raises:
        ResultError: The frames differ in size.
    """
    if first.frame_size != second.frame_size:
        raise ResultError(f"masks of {first.frame_size} and {second.frame_size} frames cannot be compared")
    corner = np.maximum(first.places[:, None, :2], second.places[None, :, :2])
    far = np.minimum(
        (first.places[:, :2] + first.places[:, 2:])[:, None],
        (second.places[:, :2] + second.places[:, 2:])[None],
    )
    shared = np.zeros((len(first), len(second)), np.int64)
    crops_a, crops_b = list(first), list(second)
    for a, b in np.argwhere((far > corner).all(axis=2)).tolist():
        (left, top), (right, bottom) = corner[a, b].tolist(), far[a, b].tolist()
        (ax, ay), (bx, by) = first.places[a, :2].tolist(), second.places[b, :2].tolist()
        part_a = crops_a[a][top - ay : bottom - ay, left - ax : right - ax]
        part_b = crops_b[b][top - by : bottom - by, left - bx : right - bx]
        shared[a, b] = np.count_nonzero(part_a & part_b)
    union = first.areas()[:, None] + second.areas()[None] - shared
    return shared / np.maximum(union, 1)

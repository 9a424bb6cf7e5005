"""Parts and places on their charts as crops of the frame, one a person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.pixels.masks import IntArray
from edgewise.runtime.system.errors import ResultError

Labels = NDArray[np.uint8]
Charts = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SurfaceCrops:
    """Surfaces of n people in one frame, one after another, row by row.

    Args:
        labels: uint8 [sum of w * h], the part that a pixel shows, 0 where it shows nothing of the person.
        uv: float32 [2, sum of w * h], U and V on the part's chart, about 0..1; 0 where the label is 0.
        places: int64 [n, 4], x, y, w, h of each crop in whole source pixels; inside the frame.
        frame_size: (height, width) of the frame.

    Raises:
        ResultError: A crop leaves the frame, or the arrays do not belong together.
    """

    labels: Labels
    uv: Charts
    places: IntArray
    frame_size: Size

    def __post_init__(self) -> None:
        height, width = self.frame_size
        x, y, w, h = self.places.T
        if ((x < 0) | (y < 0) | (w < 0) | (h < 0) | (x + w > width) | (y + h > height)).any():
            raise ResultError(f"the crop of a surface leaves the {height} x {width} frame")
        count = int((w * h).sum())
        if (self.labels.shape, self.labels.dtype) != ((count,), np.uint8) or (
            self.uv.shape,
            self.uv.dtype,
        ) != ((2, count), np.float32):
            raise ResultError(
                f"crops with {count} pixels need uint8 labels [{count}] and float32 uv [2, {count}], not "
                f"{self.labels.dtype} {list(self.labels.shape)} and {self.uv.dtype} {list(self.uv.shape)}"
            )

    @classmethod
    def of(cls, crops: list[tuple[Labels, Charts]], places: IntArray, frame_size: Size) -> SurfaceCrops:
        """Of labels [h, w] and uv [2, h, w] each."""
        labels = [np.zeros(0, np.uint8), *(labels.ravel() for labels, _ in crops)]
        uv = [np.zeros((2, 0), np.float32), *(uv.reshape(2, -1) for _, uv in crops)]
        return cls(np.concatenate(labels), np.concatenate(uv, axis=1), places.reshape(-1, 4), frame_size)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[tuple[Labels, Charts]]:
        """uint8 [h, w] and float32 [2, h, w] of each person: views."""
        end = 0
        for w, h in self.places[:, 2:].tolist():
            start, end = end, end + w * h
            yield self.labels[start:end].reshape(h, w), self.uv[:, start:end].reshape(2, h, w)

    def select(self, indices: IntArray) -> SurfaceCrops:
        """The crops at `indices`, in that order."""
        crops = list(self)
        return SurfaceCrops.of([crops[index] for index in indices], self.places[indices], self.frame_size)


def whole_places(boxes: NDArray[np.float32]) -> IntArray:
    """int64 [n, 4], x, y, w, h of the crops of boxes [n, 4] in xyxy inside the frame.

    By the published rule each is the whole part of its number, and a side has at least a pixel.
    """
    sides = np.maximum((boxes[:, 2:] - boxes[:, :2]).astype(np.int64), 1)
    return np.concatenate([boxes[:, :2].astype(np.int64), sides], axis=1)

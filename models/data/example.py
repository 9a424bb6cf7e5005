"""One image with its ground truth in its own pixels, before augmentation and preprocessing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """One image with its ground truth in its own pixels.

    Attributes:
        frame: uint8 [h, w, 3] BGR.
        boxes: float64 [n, 4], x1 y1 x2 y2 in continuous pixels (column j covers [j, j + 1)).
        classes: int64 [n], index into the dataset's things.
        masks: bool [n, h, w].
        crowd_boxes: float64 [c, 4], regions to be left out of the loss.
        semantic: int16 [h, w], index into the vocabulary's classes, -1 where nothing is known; None where
            the dataset describes things only.
        points: float64 [n, k, 3], x, y in continuous pixels and visibility (0: not labelled, or outside the
            picture) of each object's keypoints; None where the dataset names none.
        flip_pairs: Indices of the keypoints that change places in a mirror.
    """

    frame: Image
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    masks: NDArray[np.bool_]
    crowd_boxes: NDArray[np.float64]
    semantic: NDArray[np.int16] | None = None
    points: NDArray[np.float64] | None = None
    flip_pairs: tuple[tuple[int, int], ...] = ()

"""Parts of a picture made unrecognisable, without a way back."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.cover import Cover
from edgewise.runtime.system.errors import ResultError

MARGIN = 0.2
"""A box is enlarged by this share of its sides at each of them."""
LEAST_MARGIN = 2.0
"""Pixels, of a small one."""
CELLS = 6
"""What is left of a box: so many average colours across and down."""


def covered(frame: NDArray[np.uint8], boxes: NDArray[np.float32], cover: Cover) -> NDArray[np.uint8]:
    """A copy of the frame in which every box, a little enlarged, is covered.

    Args:
        frame: uint8 [h, w, 3].
        boxes: float32 [n, 4], xyxy in continuous frame pixels; what lies outside the frame is left out.
        cover: How.

    Raises:
        ResultError: A coordinate is not finite: what would have to be covered is not known.
    """
    if not np.isfinite(boxes).all():
        raise ResultError("a box that is to be covered has a coordinate that is not finite")
    hidden = frame.copy()
    height, width = frame.shape[:2]
    corners = boxes.astype(np.float64)
    margin = np.maximum(MARGIN * (corners[:, 2:] - corners[:, :2]), LEAST_MARGIN)
    low = np.floor(corners[:, :2] - margin).clip(0, (width, height)).astype(int)
    high = np.ceil(corners[:, 2:] + margin).clip(0, (width, height)).astype(int)
    for (left, top), (right, bottom) in zip(low.tolist(), high.tolist(), strict=True):
        part = frame[top:bottom, left:right]
        if part.size:
            hidden[top:bottom, left:right] = _hidden(part, cover)
    return hidden


def _hidden(part: NDArray[np.uint8], cover: Cover) -> NDArray[np.uint8]:
    if cover is Cover.BOX:
        return np.zeros_like(part)
    size = part.shape[1], part.shape[0]
    small = cv2.resize(part, (min(CELLS, size[0]), min(CELLS, size[1])), interpolation=cv2.INTER_AREA)
    way = cv2.INTER_NEAREST if cover is Cover.PIXELATE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(small, size, interpolation=way), np.uint8)

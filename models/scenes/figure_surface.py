"""The surface of a figure: ten parts, each a chart whose place every pixel knows.

Along a limb U runs from its beginning at the body to its end, and V from the limb's inner side to its outer
one; of torso and head U runs across the picture to the figure's left and V up the body.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float64]

PARTS = (
    "torso",
    "head",
    "left_upper_arm",
    "right_upper_arm",
    "left_forearm",
    "right_forearm",
    "left_thigh",
    "right_thigh",
    "left_shin",
    "right_shin",
)
"""Part 1, 2, ..."""
_LIMBS = {"upper_arm": (5, 7, 0.08), "forearm": (7, 9, 0.08), "thigh": (11, 13, 0.09), "shin": (13, 15, 0.09)}
"""Keypoints of the left side that a limb lies between, and its chart's width in statures."""


def part_numbers(*names: str) -> tuple[int, ...]:
    """The numbers of parts, from 1."""
    return tuple(1 + PARTS.index(name) for name in names)


def figure_surface(
    fine: Image, coverage: Image, joints: Points, head: Points, stature: float
) -> tuple[Image, NDArray[np.float32]]:
    """Parts uint8 [h, w] and places float32 [2, h, w] of a figure's pixels, 0 where it covers less than half.

    Args:
        fine: uint8, the part of each fine pixel, a whole number of them to a pixel along each axis.
        coverage: uint8 [h, w], 255 where the figure covers the pixel.
        joints: float64 [17, 2], COCO's keypoints in sprite pixels.
        head: float64 [2], the centre of the head.
        stature: Pixels.
    """
    height, width = coverage.shape
    fineness = fine.shape[0] // height
    middle = fine[fineness // 2 :: fineness, fineness // 2 :: fineness]
    most = fine.reshape(height, fineness, width, fineness).max(axis=(1, 3))
    # A pixel of which the middle is just outside shows what there is in it.
    parts = np.where(coverage >= 128, np.where(middle > 0, middle, most), 0).astype(np.uint8)
    uv = np.zeros((2, height, width), np.float32)
    for number, name in enumerate(PARTS, start=1):
        rows, columns = np.nonzero(parts == number)
        pixels = np.stack([columns, rows], axis=1) + 0.5
        uv[:, rows, columns] = np.clip(_chart(name, pixels, joints, head, stature), 0, 1).T
    return parts, uv


def _chart(name: str, pixels: Points, joints: Points, head: Points, stature: float) -> Points:
    """float64 [n, 2], U and V of pixels [n, 2] of a part."""
    shoulders, hips = joints[5:7].mean(axis=0), joints[11:13].mean(axis=0)
    up = (shoulders - hips) / np.linalg.norm(shoulders - hips)
    left = np.array([-up[1], up[0]])
    if name == "torso":
        across = (pixels - hips) @ left / (0.3 * stature) + 0.5
        return np.stack([across, ((pixels - hips) @ up / stature + 0.05) / 0.38], axis=1)
    if name == "head":
        offset = (pixels - head) / (0.19 * stature)
        return np.stack([offset @ left + 0.5, offset @ up * 0.8 + 0.6], axis=1)
    side, limb = name.split("_", 1)
    begin, end, breadth = _LIMBS[limb]
    right = side == "right"
    start, far = joints[begin + right], joints[end + right]
    along = far - start
    length = np.linalg.norm(along)
    outward = np.array([along[1], -along[0]]) / length * (-1 if right else 1)
    offset = pixels - start
    # Hands and feet reach a little further than their joints.
    return np.stack([offset @ along / length**2 / 1.15, offset @ outward / (breadth * stature) + 0.5], axis=1)

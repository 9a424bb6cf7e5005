"""How alike masks and boxes are: intersection over union, with rules for what has no pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.masks import MaskCrops, mask_iou
from edgewise.runtime.results.kind import Likeness

Floats = NDArray[np.float64]


def mask_likeness(first: MaskCrops, first_boxes: Floats, second: MaskCrops, second_boxes: Floats) -> Likeness:
    """Intersection over union of every pair of masks.

    Two masks without a pixel are equal wherever they are; their boxes, as `box_likeness` sees them, find
    their partners.

    Args:
        first, second: n and m masks of one frame size.
        first_boxes, second_boxes: float64 [n, 4] and [m, 4], xyxy in source pixels.

    Raises:
        ResultError: Masks of frames of different size.
    """
    ious = mask_iou(first, second)
    both_empty = (first.areas() == 0)[:, None] & (second.areas() == 0)[None]
    return Likeness(
        similarity=np.where(both_empty, 1.0, ious),
        affinity=np.where(both_empty, box_likeness(first_boxes, second_boxes), ious),
    )


def box_likeness(first: Floats, second: Floats) -> Floats:
    """float64 [n, m], the IoU of boxes [n, 4] and [m, 4] in xyxy, in which a side has at least a pixel.

    A box is cut off at the frame's edge and rounded in its record; what is left of a thin one can be nothing,
    and is the same box still.
    """
    return box_iou(_a_pixel_wide(first), _a_pixel_wide(second))


def _a_pixel_wide(boxes: Floats) -> Floats:
    """The boxes grown about their centres to sides of at least a pixel."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def box_iou(first: Floats, second: Floats) -> Floats:
    """float64 [n, m], the IoU of boxes [n, 4] and [m, 4] in xyxy; 0 for two boxes without extent."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    far = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(far - corner, 0, None).prod(axis=2)
    union = box_areas(first)[:, None] + box_areas(second)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def box_areas(boxes: Floats) -> Floats:
    """float64 [n], of boxes [n, 4] in xyxy."""
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)

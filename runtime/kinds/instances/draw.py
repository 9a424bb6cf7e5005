"""Instances painted over a frame: tinted masks with outlines, boxes, and a label with the score.

Only the pixels under a crop, a box or a label are touched; the frame is copied once.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.box_marks import mark_boxes, outline_thickness, thing_colours
from edgewise.runtime.pixels.colours import Colour, Frame
from edgewise.runtime.pixels.masks import BoolArray, MaskCrops

_TINT = 0.45
"""Share of the colour in a tinted pixel."""
_BLOCK = np.ones((3, 3), np.uint8)


def draw_instances(
    frame: Frame,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int32],
    masks: MaskCrops,
    names: Sequence[str],
) -> Frame:
    """A copy of the frame with every instance on it, the best on top.

    Args:
        frame: uint8 [height, width, 3], BGR.
        boxes: [n, 4], xyxy in continuous pixels.
        scores: [n], in descending order.
        classes: [n], choose the colour family.
        masks: n masks of this frame.
        names: n class names.
    """
    canvas, thickness, colours = frame.copy(), outline_thickness(frame), thing_colours(classes)
    layers = list(zip(masks, masks.places.tolist(), colours, strict=True))
    for crop, place, colour in reversed(layers):
        _tint(canvas, crop, place, colour, thickness)
    mark_boxes(canvas, boxes, scores, names, colours)
    return canvas


def _tint(canvas: Frame, crop: BoolArray, place: list[int], colour: Colour, thickness: int) -> None:
    x, y, w, h = place
    if not (w and h):
        return
    region = canvas[y : y + h, x : x + w]
    paint = np.empty_like(region)
    cv2.rectangle(paint, (0, 0), (w, h), colour, cv2.FILLED)
    mask = np.ascontiguousarray(crop).view(np.uint8)
    cv2.copyTo(cv2.addWeighted(region, 1 - _TINT, paint, _TINT, 0), mask, region)
    core = cv2.erode(mask, _BLOCK, iterations=thickness, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    cv2.copyTo(paint, mask - core, region)

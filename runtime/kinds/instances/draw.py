"""Instances painted over a frame: tinted masks with outlines, boxes, and a label with the score.

Only the pixels under a crop, a box or a label are touched; the frame is copied once.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.colours import Colour, Frame, instance_colour
from edgewise.runtime.pixels.lettering import Lettering, frame_unit, ink_on
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
    canvas, letters = frame.copy(), Lettering.of(frame)
    thickness = max(1, round(frame_unit(frame) ** 0.75))
    colours = [
        instance_colour(int(index), nth) for index, nth in zip(classes, _ordinals(classes), strict=True)
    ]
    layers = list(zip(masks, masks.places.tolist(), colours, strict=True))
    for crop, place, colour in reversed(layers):
        _tint(canvas, crop, place, colour, thickness)
    marks = list(zip(boxes.tolist(), scores.tolist(), names, colours, strict=True))
    for box, _, _, colour in reversed(marks):
        _outline_box(canvas, box, colour, thickness)
    for box, score, name, colour in reversed(marks):
        text = f"{name} {score:.2f}"
        ink = ink_on(colour, bright=(255, 255, 255), dark=(0, 0, 0))
        letters.label(canvas, letters.plate_at(canvas, box, text), text, colour, ink)
    return canvas


def _ordinals(classes: NDArray[np.int32]) -> list[int]:
    """How many instances of the same class come before each."""
    return [int(np.count_nonzero(classes[:place] == index)) for place, index in enumerate(classes)]


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


def _outline_box(canvas: Frame, box: list[float], colour: Colour, thickness: int) -> None:
    height, width = canvas.shape[:2]
    left, top, right, bottom = (round(value) for value in box)
    far = (min(max(right - 1, left), width - 1), min(max(bottom - 1, top), height - 1))
    cv2.rectangle(canvas, (left, top), far, colour, thickness, cv2.LINE_AA)

"""Boxes marked on a frame: an outline each, and a label with class and score."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.colours import Colour, Frame, instance_colour
from edgewise.runtime.pixels.lettering import Lettering, frame_unit, ink_on


def outline_thickness(frame: Frame) -> int:
    """Pixels of an outline that suits the frame."""
    return max(1, round(frame_unit(frame) ** 0.75))


def thing_colours(classes: NDArray[np.int32]) -> list[Colour]:
    """The colour of each thing: hue by class, a little apart within it."""
    before = [int(np.count_nonzero(classes[:place] == index)) for place, index in enumerate(classes)]
    return [instance_colour(int(index), nth) for index, nth in zip(classes, before, strict=True)]


def mark_boxes(
    canvas: Frame,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    names: Sequence[str],
    colours: Sequence[Colour],
) -> None:
    """Draw outlines and labels on the canvas, the first on top.

    Args:
        canvas: uint8 [height, width, 3], BGR; changed.
        boxes: [n, 4], xyxy in continuous pixels.
        scores: [n], in descending order.
        names: n class names.
        colours: One each.
    """
    letters, thickness = Lettering.of(canvas), outline_thickness(canvas)
    marks = list(zip(boxes.tolist(), scores.tolist(), names, colours, strict=True))
    for box, _, _, colour in reversed(marks):
        _outline(canvas, box, colour, thickness)
    for box, score, name, colour in reversed(marks):
        text = f"{name} {score:.2f}"
        ink = ink_on(colour, bright=(255, 255, 255), dark=(0, 0, 0))
        letters.label(canvas, letters.plate_at(canvas, box, text), text, colour, ink)


def _outline(canvas: Frame, box: list[float], colour: Colour, thickness: int) -> None:
    height, width = canvas.shape[:2]
    left, top, right, bottom = (round(value) for value in box)
    far = (min(max(right - 1, left), width - 1), min(max(bottom - 1, top), height - 1))
    cv2.rectangle(canvas, (left, top), far, colour, thickness, cv2.LINE_AA)

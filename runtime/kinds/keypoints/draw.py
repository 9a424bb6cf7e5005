"""People painted over a frame: a thin box with a label, limbs, and a dot for every point.

The person's left is orange, the right blue, the middle green; the sides come from the names (`sides.py`).
Points that score less than the point threshold are faint, with the limbs that end there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import KeypointLayout
from edgewise.runtime.kinds.keypoints.sides import Side, side_of
from edgewise.runtime.pixels.colours import Colour, Frame
from edgewise.runtime.pixels.lettering import Lettering, frame_unit

Place = tuple[int, int]

LEFT: Colour = (30, 130, 255)
RIGHT: Colour = (255, 165, 45)
CENTRE: Colour = (80, 215, 100)
_RIM: Colour = (35, 30, 30)
_PLATE: Colour = (240, 240, 240)
_FAINT = 0.35
"""Share of the colour in a faint pixel."""
_BITS = 4
"""Binary places of the coordinates that OpenCV draws with."""
_FARTHEST = 1e5
"""Pixels; points are held this near, so that OpenCV's integers suffice."""


def draw_people(
    frame: Frame,
    points: NDArray[np.float32],
    point_scores: NDArray[np.float32],
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    names: Sequence[str],
    layout: KeypointLayout,
    point_threshold: float,
) -> Frame:
    """A copy of the frame with every person on it, the best on top.

    Args:
        frame: uint8 [height, width, 3], BGR.
        points: float32 [n, k, 2], x and y in continuous pixels.
        point_scores: float32 [n, k].
        boxes: float32 [n, 4], xyxy in continuous pixels.
        scores: float32 [n].
        names: n class names.
        layout: Names and limbs of the k points.
        point_threshold: Points that score less are faint.
    """
    canvas, size = frame.copy(), frame_unit(frame)
    letters = Lettering(scale=max(0.35, 0.4 * size**0.6), weight=max(1, round(size)))
    # Of limbs: no more than the frame takes, and less on small people, whose faces would fill with dots.
    heights = (boxes[:, 3] - boxes[:, 1]).astype(np.float64)
    thickness = np.clip(0.016 * heights, 1.2, max(1.2, 3.2 * size**0.75)).tolist()
    colours = [side_colour(name) for name in layout.names]
    order = np.argsort(scores, kind="stable").tolist()
    sure = point_scores >= point_threshold
    if not sure.all():
        faint = canvas.copy()
        for index in order:
            unsure = [limb for limb in layout.limbs if not sure[index, list(limb)].all()]
            _figure(faint, points[index], np.flatnonzero(~sure[index]), unsure, colours, thickness[index])
        canvas = np.asarray(cv2.addWeighted(canvas, 1 - _FAINT, faint, _FAINT, 0), np.uint8)
    for index in order:
        _box(canvas, boxes[index].tolist(), max(1, round(size)))
        limbs = [limb for limb in layout.limbs if sure[index, list(limb)].all()]
        _figure(canvas, points[index], np.flatnonzero(sure[index]), limbs, colours, thickness[index])
    for index in order:
        text = f"{names[index]} {float(scores[index]):.2f}"
        letters.label(canvas, letters.plate_at(canvas, boxes[index].tolist(), text), text, _PLATE, _RIM)
    return canvas


def side_colour(name: str) -> Colour:
    """BGR by the side that a keypoint's name says."""
    return {Side.LEFT: LEFT, Side.RIGHT: RIGHT, None: CENTRE}[side_of(name)]


def limb_colour(first: Colour, second: Colour) -> Colour:
    """A limb between a side and the middle belongs to the side, one from side to side to the middle."""
    sides = {first, second} - {CENTRE}
    return sides.pop() if len(sides) == 1 else CENTRE


def _figure(
    canvas: Frame,
    points: NDArray[np.float32],
    dots: Iterable[int],
    limbs: Sequence[tuple[int, int]],
    colours: Sequence[Colour],
    thickness: float,
) -> None:
    """Rims first, so that no rim crosses a limb of the same person."""
    # OpenCV counts from the centre of the first pixel.
    scaled = np.clip(points - 0.5, -_FARTHEST, _FARTHEST) * (1 << _BITS)
    places: list[Place] = [(x, y) for x, y in np.rint(scaled).astype(np.int32).tolist()]
    rim = max(1, round(thickness / 3))
    radius = 1.15 * thickness
    for layer, wider in ((_RIM, rim), (None, 0)):
        for first, second in limbs:
            colour = layer or limb_colour(colours[first], colours[second])
            width = round(thickness) + 2 * wider
            cv2.line(canvas, places[first], places[second], colour, width, cv2.LINE_AA, _BITS)
    for dot in dots:
        for colour, length in ((_RIM, radius + rim), (colours[dot], radius)):
            reach = round(length * (1 << _BITS))
            cv2.circle(canvas, places[dot], reach, colour, cv2.FILLED, cv2.LINE_AA, _BITS)


def _box(canvas: Frame, box: list[float], thickness: int) -> None:
    height, width = canvas.shape[:2]
    left, top, right, bottom = (round(value) for value in box)
    near = (max(left, 0), max(top, 0))
    far = (min(max(right - 1, left), width - 1), min(max(bottom - 1, top), height - 1))
    cv2.rectangle(canvas, near, far, _PLATE, thickness, cv2.LINE_8)

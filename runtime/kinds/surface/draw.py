"""Surfaces painted over a frame: parts tinted, with contour lines of U and V on each."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.kinds.surface.crops import Labels, SurfaceCrops
from edgewise.runtime.pixels.box_marks import mark_boxes, outline_thickness, thing_colours
from edgewise.runtime.pixels.colours import Frame

LINES = 8
"""Contour lines lie at multiples of an eighth of a chart's side."""
_TINT = 0.5
"""Share of the part's colour in a tinted pixel."""
_LINE = {0: (60, 240, 255), 1: (255, 255, 255)}
"""BGR of the lines of equal U, and of equal V."""
_EDGE = (30, 25, 25)
"""BGR between parts."""


def draw_surfaces(
    frame: Frame,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int32],
    crops: SurfaceCrops,
    names: Sequence[str],
    parts: int,
) -> Frame:
    """A copy of the frame with every person on it, the best on top.

    Args:
        frame: uint8 [height, width, 3], BGR.
        boxes: [n, 4], xyxy in continuous pixels.
        scores: [n], in descending order.
        classes: [n], choose the colour of the box.
        crops: n surfaces of this frame.
        names: n class names.
        parts: How many there are, for their colours.
    """
    canvas, thickness = frame.copy(), outline_thickness(frame)
    colours = _part_colours(parts)
    people = list(zip(crops, crops.places.tolist(), strict=True))
    for (labels, uv), (x, y, w, h) in reversed(people):
        region = canvas[y : y + h, x : x + w]
        shown = labels > 0
        region[shown] = np.rint((1 - _TINT) * region[shown] + _TINT * colours[labels[shown]]).astype(np.uint8)
        for axis, colour in _LINE.items():
            region[_thick(_contours(labels, uv[axis]), thickness - 1) & shown] = colour
        region[_thick(_between_parts(labels), thickness - 1) & shown] = _EDGE
    mark_boxes(canvas, boxes, scores, names, thing_colours(classes))
    return canvas


def _part_colours(parts: int) -> NDArray[np.float64]:
    """float64 [parts + 1, 3] BGR; neighbours in number are far apart in hue."""
    hues = [0.1 + 0.381966 * part for part in range(parts + 1)]
    return np.array([colorsys.hls_to_rgb(hue % 1.0, 0.5, 0.85)[::-1] for hue in hues]) * 255


def _contours(labels: Labels, chart: NDArray[np.float32]) -> NDArray[np.bool_]:
    """bool [h, w]: the pixel left or above lies on the same part, in another step of the chart."""
    return _changes(np.floor(np.clip(chart, 0, 1) * LINES).astype(np.int64), labels, same_part=True)


def _between_parts(labels: Labels) -> NDArray[np.bool_]:
    return _changes(labels.astype(np.int64), labels, same_part=False)


def _changes(values: NDArray[np.int64], labels: Labels, *, same_part: bool) -> NDArray[np.bool_]:
    found = np.zeros(labels.shape, np.bool_)
    for axis in (0, 1):
        across = np.diff(values, axis=axis) != 0
        if same_part:
            across &= np.diff(labels.astype(np.int64), axis=axis) == 0
        found[(slice(1, None), slice(None))[:: 1 if axis == 0 else -1]] |= across
    return found


def _thick(lines: NDArray[np.bool_], more: int) -> NDArray[np.bool_]:
    if not more:
        return lines
    return cv2.dilate(lines.view(np.uint8), np.ones((more + 1, more + 1), np.uint8)) > 0

"""Panoptic segments painted over a frame: vivid things with labels, muted stuff with its name, thin borders.

Void pixels keep the frame's colour, apart from the labels that reach over them.
"""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.colours import Colour, Frame, instance_colour
from edgewise.runtime.pixels.label_maps import LabelMap, as_mask, rename_labels
from edgewise.runtime.pixels.lettering import BRIGHT, DARK, Lettering, Rectangle, ink_on
from edgewise.runtime.pixels.masks import BoolArray

_THING_TINT, _STUFF_TINT = 0.5, 0.35
"""Share of the colour in a tinted pixel."""
_BORDER = 225
"""Grey of the line around stuff."""
_BLOCK = np.ones((3, 3), np.uint8)
_SEARCH_ROWS = 180
"""Rows of the small map in which a place for a stuff name is looked for."""
_SQUEEZE = 4
"""A name is about so many times wider than a region that holds its height."""


def draw_panoptic(
    frame: Frame,
    segments: NDArray[np.uint16],
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int32],
    things: BoolArray,
    names: tuple[str, ...],
) -> Frame:
    """A copy of the frame with every segment on it.

    Args:
        frame: uint8 [height, width, 3], BGR.
        segments: uint16 [height, width], 0 for void, i + 1 for row i of the table.
        boxes: [n, 4], xyxy in continuous pixels.
        scores: [n].
        classes: [n], choose the colour family.
        things: bool [n], things are vivid and carry their score, stuff is muted.
        names: n class names.
    """
    if not len(names):
        return frame.copy()
    ids: LabelMap = segments.astype(np.uint8) if len(names) < 256 else segments
    colours = _colours(classes, things)
    canvas = _tint(frame, ids, colours, things)
    letters = Lettering.of(frame)
    texts = {index: f"{names[index]} {scores[index]:.2f}" for index in np.flatnonzero(things).tolist()}
    plates: dict[int, Rectangle] = {}
    for index, text in texts.items():
        plates[index] = _clear_plate(letters, frame, boxes[index].tolist(), text, list(plates.values()))
    room = _Room(ids, list(plates.values()))
    for index in np.flatnonzero(~things).tolist():
        _name_region(canvas, letters, room, index + 1, names[index])
    for index in reversed(plates):
        letters.label(canvas, plates[index], texts[index], colours[index], ink_on(colours[index]))
    return canvas


def stuff_colour(kind: int) -> Colour:
    """BGR: muted, the hue by class."""
    hue = (0.33 + kind * 0.381966) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.52, 0.4)
    return round(blue * 255), round(green * 255), round(red * 255)


def _colours(classes: NDArray[np.int32], things: BoolArray) -> list[Colour]:
    colours: list[Colour] = []
    seen: dict[int, int] = {}
    for kind, thing in zip(classes.tolist(), things.tolist(), strict=True):
        nth = seen[kind] = seen.get(kind, -1) + 1
        colours.append(instance_colour(kind, nth) if thing else stuff_colour(kind))
    return colours


def _tint(frame: Frame, ids: LabelMap, colours: list[Colour], things: BoolArray) -> Frame:
    table = np.array([(0, 0, 0), *colours], np.uint8)
    paint = cv2.merge([rename_labels(ids, np.ascontiguousarray(channel)) for channel in table.T])
    thing = rename_labels(ids, np.array([False, *things.tolist()]).view(np.uint8))
    canvas = cv2.addWeighted(frame, 1 - _STUFF_TINT, paint, _STUFF_TINT, 0)
    if things.any():
        cv2.copyTo(cv2.addWeighted(frame, 1 - _THING_TINT, paint, _THING_TINT, 0), thing, canvas)
    # Where two segments meet, the pixels on both sides: bright on stuff, the full colour on things.
    border = as_mask(cv2.dilate(ids, _BLOCK) != cv2.erode(ids, _BLOCK))
    cv2.copyTo(np.full_like(canvas, _BORDER), border, canvas)
    border &= thing
    cv2.copyTo(paint, border, canvas)
    void = as_mask(ids == 0)
    if void.any():
        cv2.copyTo(frame, void, canvas)
    return np.asarray(canvas, np.uint8)


class _Room:
    """Where a name fits into a segment: its map at a lower resolution, without what labels will cover.

    Columns are taken `_SQUEEZE` times farther apart than rows, so that a circle of this map is an ellipse of
    about the shape of a word.
    """

    def __init__(self, ids: LabelMap, plates: list[Rectangle]) -> None:
        self._step = max(1, ids.shape[0] // _SEARCH_ROWS)
        self._across = self._step * _SQUEEZE
        self._map = ids[:: self._step, :: self._across].copy()
        for left, top, width, height in plates:
            rows = slice(top // self._step, -(-(top + height) // self._step))
            self._map[rows, left // self._across : -(-(left + width) // self._across)] = 0

    def widest(self, segment: int) -> tuple[int, int, float]:
        """Centre x, y of the roomiest place in the segment's largest region, and its height, in pixels."""
        count, regions, stats, _ = cv2.connectedComponentsWithStats(
            as_mask(self._map == segment), connectivity=4
        )
        if count < 2:
            return 0, 0, 0.0
        largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        # A ring of zeros, because the frame ends the region too.
        reach = cv2.distanceTransform(np.pad(as_mask(regions == largest), 1), cv2.DIST_L2, 3)
        row, column = divmod(int(reach.argmax()), reach.shape[1])
        return (column - 1) * self._across, (row - 1) * self._step, 2 * float(reach.max()) * self._step


def _name_region(canvas: Frame, letters: Lettering, room: _Room, segment: int, name: str) -> None:
    """Write the name where the segment has most room; not at all where it has too little."""
    x, y, free = room.widest(segment)
    width, height, _ = letters.extent(name)
    if free < height:
        return
    left, bottom = max(2, min(x - width // 2, canvas.shape[1] - width - 2)), y + height // 2
    for across, down in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1)):
        letters.write(canvas, name, (left + across, bottom + down), DARK)
    letters.write(canvas, name, (left, bottom), BRIGHT)


def _clear_plate(
    letters: Lettering, frame: Frame, box: list[float], text: str, others: list[Rectangle]
) -> Rectangle:
    """The place of a label: above the box, else on its upper edge, else below it, clear of the others."""
    frame_height, frame_width = frame.shape[:2]
    width, height = letters.plate_size(text)
    left = max(0, min(round((box[0] + box[2] - width) / 2), frame_width - width))
    tops = (round(box[1]) - height, round(box[1]), round(box[3]))
    places = [(left, max(0, min(top, frame_height - height)), width, height) for top in tops]
    return next((place for place in places if not _touches(place, others)), places[0])


def _touches(place: Rectangle, others: list[Rectangle]) -> bool:
    x, y, w, h = place
    return any(x < a + c and a < x + w and y < b + d and b < y + h for a, b, c, d in others)

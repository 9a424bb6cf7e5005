"""Faces as sprites: a head with hair, drawn through its 98 landmarks of WFLW's layout.

Everything that a landmark names is drawn through that very point, so that the points can be learned exactly:
the contour is the edge of the skin, brows, eyelids and lips are polygons of their points, pupils are dots.
"Right" is the face's own right, on the left of an upright picture, as in `models/data/face_labels.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.models.scenes.sprite import FINENESS, Points, Sprite, average_down
from edgewise.models.scenes.texture import hsv, shading, uniform
from edgewise.runtime.pixels.colours import Colour

_SHIFT = 4
"""Binary digits of OpenCV's fixed-point coordinates."""
_TEMPLE = -0.12
"""Height of the contour's ends; the chin lies at 1, the top of the skin at -1."""
_SKIN_HUES = (0.02, 0.05, 0.07, 0.09)


@dataclass(frozen=True)
class _Look:
    """Shape, pose and expression of one face; lengths in halves of its height."""

    width: float
    jaw: float
    eye_across: float
    eye_width: float
    eye_open: float
    gaze: float
    brow_height: float
    brow_thickness: float
    brow_arch: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lips: float
    mouth_open: float
    smile: float
    yaw: float
    pitch: float
    roll: float


_RANGES = {
    "width": (0.66, 0.82),
    "jaw": (0.7, 1.05),
    "eye_across": (0.42, 0.48),
    "eye_width": (0.2, 0.26),
    "eye_open": (0.35, 0.6),
    "gaze": (-0.35, 0.35),
    "brow_height": (0.2, 0.32),
    "brow_thickness": (0.05, 0.09),
    "brow_arch": (0.0, 0.07),
    "nose_length": (0.34, 0.46),
    "nose_width": (0.17, 0.25),
    "mouth_width": (0.36, 0.5),
    "lips": (0.07, 0.11),
    "mouth_open": (-0.1, 0.2),
    "smile": (-0.05, 0.12),
    "yaw": (-28, 28),
    "pitch": (-12, 12),
    "roll": (-30, 30),
}
"""From where to where each is drawn, evenly; widths of eyes and mouth are parts of the face's; degrees."""


def face_sprite(rng: np.random.Generator, extent: float, unit: float) -> Sprite:
    """A face with WFLW's 98 landmarks, turned by up to 30 degrees in the picture and a little to the sides.

    Args:
        rng: Source of shape, pose, expression, complexion and light.
        extent: Height of the upright face from the top of the forehead to the chin, in pixels.
        unit: Pixels that one pixel of a 256-pixel scene takes up.

    Returns:
        The sprite; `keypoints` are [98, 2].
    """
    look = _Look(**{name: uniform(rng, *limits) for name, limits in _RANGES.items()})
    posed = _Pose(look, extent / 2)
    landmarks = posed.on(landmarks_of(look))
    brow = posed.on(_forehead(look))
    hair_back = posed.on(_hair(look, uniform(rng, 1.06, 1.2), uniform(rng, -0.1, 0.9)))
    ears = [posed.on(np.array([[side * look.width, 0.02]])) for side in (-1, 1)]
    neck = posed.on(np.array([[-0.34, 0.6], [0.34, 0.6], [0.4, 1.35], [-0.4, 1.35]]))
    everything = np.concatenate([landmarks, brow, hair_back, neck, *ears])
    low = np.floor(everything.min(axis=0) - 2 - 0.06 * extent)
    width, height = (np.ceil(everything.max(axis=0) + 2 + 0.06 * extent) - low).astype(int)
    pen = _Pen(np.zeros((height * FINENESS, width * FINENESS, 4), np.uint8), low)
    skin = hsv(_SKIN_HUES[int(rng.integers(4))], uniform(rng, 0.25, 0.6), uniform(rng, 0.4, 1.0))
    hair = hsv(uniform(rng, 0.02, 0.13), uniform(rng, 0.1, 0.8), uniform(rng, 0.05, 0.85))
    lips = hsv(uniform(rng, -0.03, 0.03), uniform(rng, 0.45, 0.8), 0.85 * max(skin) / 255)
    iris = hsv(uniform(rng, 0.05, 0.65), uniform(rng, 0.3, 0.8), uniform(rng, 0.15, 0.45))
    rim = max(0.012 * extent, 0.35)
    if rng.random() < 0.85:
        pen.fill(hair_back, hair)
    pen.fill(neck, _darker(skin, 0.7))
    for ear in ears:
        pen.dot(ear[0], 0.075 * extent, _darker(skin, 0.8))
    pen.fill(np.concatenate([landmarks[:33], brow]), skin)
    if rng.random() < 0.7:
        pen.fill(posed.on(_fringe(look, uniform(rng, -0.85, -0.55), uniform(rng, -0.25, 0.25))), hair)
    pen.line(landmarks[:33], rim, _darker(skin, 0.5))
    for first, last in ((33, 42), (42, 51)):
        pen.fill(landmarks[first:last], _darker(hair, 0.55))
    _draw_nose(pen, landmarks, rim, skin)
    for first, pupil in ((60, 96), (68, 97)):
        pen.fill(landmarks[first : first + 8], (236, 240, 240))
        reach = 0.5 * look.eye_open * look.eye_width * look.width * extent / 2
        pen.dot(landmarks[pupil], reach, iris)
        pen.dot(landmarks[pupil], 0.5 * reach, (12, 12, 12))
        pen.line(landmarks[[*range(first, first + 8), first]], rim, _darker(skin, 0.3))
    pen.fill(landmarks[76:88], lips)
    pen.fill(landmarks[88:96], (45, 30, 70) if look.mouth_open < 0.08 else (225, 230, 230))
    pen.line(landmarks[[*range(88, 96), 88]], rim, _darker(lips, 0.35))
    return _lit(rng, pen.canvas, landmarks - low)


def landmarks_of(look: _Look) -> NDArray[np.float64]:
    """The 98 points of an upright face that looks straight ahead, x, y and depth, float64 [98, 3]."""
    along = np.arange(33) / 32 * math.pi
    contour = np.stack(
        [-look.width * np.cos(along), _TEMPLE + (1 - _TEMPLE) * np.sin(along) ** look.jaw], axis=1
    )
    eye = look.eye_across * look.width
    half = look.eye_width * look.width
    line = -0.1
    # The outer end first, upper edge inwards, then the lower edge back; x counts outwards from the middle.
    steps = np.array([1.0, 0.5, 0.0, -0.5, -1.0])
    above = line - look.brow_height - look.brow_arch * (1 - steps**2)
    below = above + look.brow_thickness
    over = np.stack([eye + 1.35 * half * steps, above], axis=1)
    under = np.stack([eye + 1.35 * half * steps[::-1], below[::-1]], axis=1)[:4] + np.array([0.06 * half, 0])
    brow = np.concatenate([over, under])
    turn = np.arange(8) * math.pi / 4
    lid = np.stack([eye + half * np.cos(turn), line - look.eye_open * half * np.sin(turn)], axis=1)
    tip = line + look.nose_length
    bridge = np.stack([np.zeros(4), np.linspace(line, tip, 4)], axis=1)
    base = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    nostrils = np.stack([0.5 * look.nose_width * base, tip + 0.11 - 0.05 * base**2], axis=1)
    mouth = _mouth(look, tip + 0.36)
    pupils = np.array([[-eye, line], [eye, line]]) + np.array([0.6 * look.gaze * half, 0])
    flat = np.concatenate(
        [
            contour,
            *(brow * (-1, 1), brow[[4, 3, 2, 1, 0, 8, 7, 6, 5]]),
            *(bridge, nostrils),
            *(lid * (-1, 1), lid[[4, 3, 2, 1, 0, 7, 6, 5]]),
            *(mouth, pupils),
        ]
    )
    bulge = 1 - (flat[:, 0] / look.width) ** 2 - 0.6 * flat[:, 1] ** 2
    depth = 0.55 * np.sqrt(np.maximum(bulge, 0))
    depth[:33] = 0
    depth[51:55] += (0.02, 0.08, 0.14, 0.2)
    depth[55:60] += (0.0, 0.04, 0.08, 0.04, 0.0)
    return np.concatenate([flat, depth[:, None]], axis=1)


def _mouth(look: _Look, height: float) -> Points:
    """Twenty points around the lips from the corner on the picture's left, outer edge, then inner edge."""
    half = look.mouth_width * look.width
    gap = max(look.mouth_open, 0.02) / 2

    def arc(steps: Points, bow: float) -> Points:
        return np.stack([half * steps, height + bow * (1 - steps**2) - look.smile * steps**2], axis=1)

    outer, inner = np.linspace(-1, 1, 7), 0.86 * np.linspace(-1, 1, 5)
    return np.concatenate(
        [
            arc(outer, -gap - look.lips),
            arc(outer[-2:0:-1], gap + 1.15 * look.lips),
            arc(inner, -gap),
            arc(inner[-2:0:-1], gap),
        ]
    )


def _forehead(look: _Look) -> Points:
    """From the contour's end on the picture's right over the top to its beginning."""
    along = np.arange(1, 16) / 16 * math.pi
    return np.stack([look.width * np.cos(along), _TEMPLE - (1 + _TEMPLE) * np.sin(along)], axis=1)


def _fringe(look: _Look, line: float, parting: float) -> Points:
    """Hair over the upper forehead, down to `line` at the sides and a parting higher up."""
    top = _forehead(look)
    kept = top[top[:, 1] < line] * (1.03, 1.05)
    left, right = kept[-1], kept[0]
    return np.concatenate([kept, [left], [[parting, line - 0.1]], [right]])


def _hair(look: _Look, size: float, length: float) -> Points:
    """Hair behind the head, down to `length`."""
    top = _forehead(look) * size
    return np.concatenate([top, [[top[-1, 0], length], [top[0, 0], length]]])


class _Pose:
    """From the upright face to pixels around its middle: turned, nodding, tilted, scaled."""

    def __init__(self, look: _Look, scale: float) -> None:
        yaw, pitch, roll = (math.radians(angle) for angle in (look.yaw, look.pitch, look.roll))
        tilt = np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
        facing = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, math.cos(pitch), math.sin(pitch)]])
        self.matrix = scale * tilt @ facing

    def on(self, points: NDArray[np.float64]) -> Points:
        """[n, 2] of x, y, or x, y, depth; without a depth they lie in the plane of the contour."""
        return points @ self.matrix[:, : points.shape[1]].T


class _Pen:
    """Draws in sprite pixels on a canvas that is `FINENESS` times finer."""

    def __init__(self, canvas: NDArray[np.uint8], low: Points) -> None:
        self.canvas, self.low = canvas, low

    def _fixed(self, points: Points) -> NDArray[np.int32]:
        places = (points - self.low) * FINENESS - 0.5  # OpenCV's whole numbers are middles of pixels
        return np.round(places * (1 << _SHIFT)).astype(np.int32)

    def fill(self, points: Points, colour: Colour) -> None:
        cv2.fillPoly(self.canvas, [self._fixed(points)], (*colour, 255), shift=_SHIFT)

    def line(self, points: Points, width: float, colour: Colour) -> None:
        thickness = max(1, round(width * FINENESS))
        cv2.polylines(self.canvas, [self._fixed(points)], False, (*colour, 255), thickness, shift=_SHIFT)

    def dot(self, point: Points, radius: float, colour: Colour) -> None:
        x, y = self._fixed(point).tolist()
        reach = max(1, round(radius * FINENESS * (1 << _SHIFT)))
        cv2.circle(self.canvas, (x, y), reach, (*colour, 255), -1, shift=_SHIFT)


def _draw_nose(pen: _Pen, landmarks: Points, rim: float, skin: Colour) -> None:
    """A light ridge down to the tip, and the shadow under it."""
    pen.fill(landmarks[[53, 55, 56, 57, 58, 59]], _darker(skin, 0.8))
    pen.line(landmarks[51:55], 2 * rim, _lighter(skin, 40))
    pen.line(landmarks[55:60], rim, _darker(skin, 0.4))
    for nostril in (56, 58):
        pen.dot(landmarks[nostril], 1.2 * rim, _darker(skin, 0.3))
    pen.dot(landmarks[54], 1.5 * rim, _lighter(skin, 55))


def _lit(rng: np.random.Generator, canvas: NDArray[np.uint8], landmarks: Points) -> Sprite:
    """The sprite at its true size, with a light from some side."""
    small = average_down(canvas)
    coverage = small[..., 3]
    # The fine canvas is black where nothing is drawn: undo its share in partly covered pixels.
    share = np.maximum(coverage, 1)[..., None].astype(np.float32) / np.float32(255)
    size = height, width = coverage.shape
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    light = 1 + np.float32(uniform(rng, -0.25, 0.25)) * across + np.float32(uniform(rng, -0.15, 0.05)) * down
    colour = small[..., :3].astype(np.float32) / share * shading(size) * light
    return Sprite(colour, coverage, landmarks, np.ones(len(landmarks), np.uint8))


def _darker(colour: Colour, share: float) -> Colour:
    blue, green, red = colour
    return round(share * blue), round(share * green), round(share * red)


def _lighter(colour: Colour, by: int) -> Colour:
    blue, green, red = colour
    return min(255, blue + by), min(255, green + by), min(255, red + by)

"""Things as sprites: a small picture with coverage, drawn four times finer and averaged down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.models.scenes.figure_surface import figure_surface, part_numbers
from edgewise.models.scenes.texture import Image, hsv, shading, surface, uniform

FINENESS = 4
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Sprite:
    """One thing before it is placed.

    Attributes:
        colour: float32 [h, w, 3] BGR in 0..255.
        coverage: uint8 [h, w]; 255 is wholly covered. The thing's mask is coverage >= 128.
        keypoints: float64 [17, 2] xy in sprite pixels (corner convention), for figures only.
        facing: uint8 [17], 1 where the figure itself does not hide the keypoint.
        parts: uint8 [h, w], for figures only: the part of the body (`figure_surface.PARTS`) that a pixel
            shows, 0 outside.
        uv: float32 [2, h, w], the place on the part's chart, 0..1; 0 outside.
    """

    colour: NDArray[np.float32]
    coverage: Image
    keypoints: Points | None = None
    facing: Image | None = None
    parts: Image | None = None
    uv: NDArray[np.float32] | None = None


def shape_sprite(rng: np.random.Generator, name: str, extent: float, unit: float) -> Sprite:
    """A flat shape with the name of a thing class.

    Args:
        rng: Source of orientation, proportions and paint.
        name: "disc", "box", "triangle", "star" or "ring"; only the outline tells the class.
        extent: Diameter of the circle around the shape, in pixels.
        unit: Pixels that one pixel of a 256-pixel scene takes up.
    """
    outlines = _OUTLINES[name](rng)
    turn = uniform(rng, 0, 2 * math.pi)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    outlines = [outline @ rotation.T * (extent / 2) for outline in outlines]
    low = np.floor(outlines[0].min(axis=0)) - 1
    width, height = (np.ceil(outlines[0].max(axis=0)) + 1 - low).astype(int)
    fine = np.zeros((height * FINENESS, width * FINENESS), np.uint8)
    # Outer outline filled, then the hole (if any) cut out.
    for outline, value in zip(outlines, (255, 0), strict=False):
        cv2.fillPoly(fine, [np.round((outline - low) * FINENESS).astype(np.int32)], value)
    rim = 2 * max(1, round(0.8 * FINENESS * unit)) + 1
    inside = cv2.erode(fine, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim, rim)))
    coverage, inside = average_down(fine), average_down(inside)
    paint = surface(rng, (height, width), unit) * shading((height, width))
    edge = paint * np.float32(0.42)
    share = inside[..., None].astype(np.float32) / np.float32(255)
    return Sprite(edge + (paint - edge) * share, coverage)


def average_down(fine: Image) -> Image:
    """A canvas drawn `FINENESS` times finer, at its true size."""
    size = (fine.shape[1] // FINENESS, fine.shape[0] // FINENESS)
    return np.asarray(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), np.uint8)


def _circle(radius: float, corners: int = 64) -> Points:
    angles = np.arange(corners) * (2 * math.pi / corners)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _disc(rng: np.random.Generator) -> list[Points]:
    return [_circle(1.0) * (1.0, uniform(rng, 0.8, 1.0))]


def _box(rng: np.random.Generator) -> list[Points]:
    half = math.atan(uniform(rng, 0.5, 1.0))
    x, y = math.cos(half), math.sin(half)
    return [np.array([(-x, -y), (x, -y), (x, y), (-x, y)])]


def _triangle(rng: np.random.Generator) -> list[Points]:
    angles = [2 * math.pi * (corner / 3) + uniform(rng, -0.25, 0.25) for corner in range(3)]
    return [np.array([(math.cos(angle), math.sin(angle)) for angle in angles])]


def _star(rng: np.random.Generator) -> list[Points]:
    inner = uniform(rng, 0.4, 0.52)
    radii = [1.0, inner] * 5
    return [
        np.array(
            [
                (radius * math.cos(step * math.pi / 5), radius * math.sin(step * math.pi / 5))
                for step, radius in enumerate(radii)
            ]
        )
    ]


def _ring(rng: np.random.Generator) -> list[Points]:
    return [_circle(1.0), _circle(uniform(rng, 0.45, 0.62))]


_OUTLINES = {"disc": _disc, "box": _box, "triangle": _triangle, "star": _star, "ring": _ring}

_SKIN_HUES = (0.045, 0.055, 0.065, 0.075)


class _Pen:
    """Draws outlined parts on a fine BGRA canvas; positions are in body units times `scale`.

    What `shown` is set to goes to a second canvas: the part that the outlined shape belongs to.
    """

    def __init__(self, canvas: Image, low: Points, scale: float, rim: float) -> None:
        self.canvas, self.low, self.scale, self.rim = canvas, low, scale, rim
        self.parts = np.zeros(canvas.shape[:2], np.uint8)
        self.shown: tuple[int, ...] = (0,)

    def _at(self, point: Points) -> tuple[int, int]:
        x, y = (point * self.scale - self.low) * FINENESS
        return round(x), round(y)

    def bone(self, points: list[Points], width: float, colour: tuple[int, int, int]) -> None:
        for grow, paint in ((self.rim, _dark(colour)), (0.0, (*colour, 255))):
            thickness = max(1, round((width * self.scale + 2 * grow) * FINENESS))
            for start, end in pairwise(points):
                cv2.line(self.canvas, self._at(start), self._at(end), paint, thickness)
        thickness = max(1, round((width * self.scale + 2 * self.rim) * FINENESS))
        for part, (start, end) in zip(self.shown, pairwise(points), strict=True):
            cv2.line(self.parts, self._at(start), self._at(end), part, thickness)

    def patch(self, points: list[Points], colour: tuple[int, int, int]) -> None:
        corners = np.array([self._at(point) for point in points], np.int32)
        cv2.polylines(self.canvas, [corners], True, _dark(colour), max(1, round(2 * self.rim * FINENESS)))
        cv2.fillPoly(self.canvas, [corners], (*colour, 255))
        cv2.polylines(self.parts, [corners], True, self.shown[0], max(1, round(2 * self.rim * FINENESS)))
        cv2.fillPoly(self.parts, [corners], self.shown[0])

    def dot(self, point: Points, radius: float, colour: tuple[int, int, int], *, rim: bool = False) -> None:
        if rim:
            reach = round((radius * self.scale + self.rim) * FINENESS)
            cv2.circle(self.canvas, self._at(point), reach, _dark(colour), -1)
        cv2.circle(
            self.canvas, self._at(point), max(1, round(radius * self.scale * FINENESS)), (*colour, 255), -1
        )
        reach = max(1, round((radius * self.scale + (self.rim if rim else 0)) * FINENESS))
        cv2.circle(self.parts, self._at(point), reach, self.shown[-1], -1)

    def cap(self, point: Points, radius: float, tilt: float, colour: tuple[int, int, int]) -> None:
        reach = round(radius * self.scale * FINENESS)
        cv2.ellipse(self.canvas, self._at(point), (reach, reach), tilt, 195, 345, (*colour, 255), -1)
        cv2.ellipse(self.parts, self._at(point), (reach, reach), tilt, 195, 345, self.shown[0], -1)


def _dark(colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    blue, green, red = colour
    return round(0.4 * blue), round(0.4 * green), round(0.4 * red), 255


def figure_sprite(rng: np.random.Generator, stature: float, unit: float) -> Sprite:
    """An articulated figure that faces the viewer, with COCO's seventeen keypoints.

    Its left side is on the picture's right. The head may turn so far that one ear is hidden.

    Args:
        rng: Source of pose, clothes and complexion.
        stature: Height of the figure standing upright, in pixels.
        unit: Pixels that one pixel of a 256-pixel scene takes up.
    """
    joints, head, yaw, lean = _pose(rng)
    margin = 0.075 + 1.5 * unit / stature
    everything = np.concatenate([joints, head[None]]) * stature
    low = np.floor(everything.min(axis=0) - margin * stature)
    width, height = (np.ceil(everything.max(axis=0) + margin * stature) - low).astype(int)
    canvas = np.zeros((height * FINENESS, width * FINENESS, 4), np.uint8)
    skin = hsv(
        _SKIN_HUES[int(rng.integers(len(_SKIN_HUES)))], uniform(rng, 0.3, 0.6), uniform(rng, 0.45, 1.0)
    )
    shirt = hsv(uniform(rng, 0, 1), uniform(rng, 0.3, 0.95), uniform(rng, 0.55, 1.0))
    trousers = hsv(uniform(rng, 0, 1), uniform(rng, 0.1, 0.8), uniform(rng, 0.2, 0.75))
    hair = hsv(uniform(rng, 0.03, 0.12), uniform(rng, 0.2, 0.8), uniform(rng, 0.08, 0.75))
    shoes = hsv(uniform(rng, 0, 1), uniform(rng, 0, 0.6), uniform(rng, 0.1, 0.4))
    pen = _Pen(canvas, low, stature, 0.8 * unit)
    (
        *face,
        left_shoulder,
        right_shoulder,
        left_elbow,
        right_elbow,
        left_wrist,
        right_wrist,
        left_hip,
        right_hip,
        left_knee,
        right_knee,
        left_ankle,
        right_ankle,
    ) = joints
    for side, hip, knee, ankle in (
        ("left", left_hip, left_knee, left_ankle),
        ("right", right_hip, right_knee, right_ankle),
    ):
        pen.shown = part_numbers(f"{side}_thigh", f"{side}_shin")
        pen.dot(_shifted(ankle, 0, 0.012), 0.034, shoes, rim=True)
        pen.bone([hip, knee, ankle], 0.068, trousers)
    pen.shown = part_numbers("torso")
    pen.patch(
        [_shifted(left_hip, 0.03, 0.02), _shifted(right_hip, -0.03, 0.02), (left_hip + right_hip) / 2],
        trousers,
    )
    pen.shown = part_numbers("head")
    pen.bone([(left_shoulder + right_shoulder) / 2, head], 0.05, skin)
    pen.shown = part_numbers("torso")
    pen.patch(
        [left_shoulder, right_shoulder, _shifted(right_hip, -0.025, 0), _shifted(left_hip, 0.025, 0)], shirt
    )
    nose, left_eye, right_eye, left_ear, right_ear = face
    pen.shown = part_numbers("head")
    for ear in (left_ear, right_ear):
        pen.dot(ear, 0.016, skin, rim=True)
    pen.dot(head, 0.072, skin, rim=True)
    pen.cap(head, 0.074, lean, hair)
    for eye in (left_eye, right_eye):
        pen.dot(eye, 0.0125, (25, 20, 20))
    pen.dot(nose, 0.0125, _dark(skin)[:3])
    sleeve = shirt if rng.random() < 0.5 else skin
    for side, shoulder, elbow, wrist in (
        ("left", left_shoulder, left_elbow, left_wrist),
        ("right", right_shoulder, right_elbow, right_wrist),
    ):
        pen.shown = part_numbers(f"{side}_forearm")
        pen.bone([elbow, wrist], 0.046, sleeve)
        pen.shown = part_numbers(f"{side}_upper_arm")
        pen.bone([shoulder, elbow], 0.054, shirt)
        pen.shown = part_numbers(f"{side}_forearm")
        pen.dot(wrist, 0.03, skin, rim=True)
    small = average_down(canvas)
    coverage = small[..., 3]
    # The fine canvas is black where nothing is drawn: undo its share in partly covered pixels.
    share = np.maximum(coverage, 1)[..., None].astype(np.float32) / np.float32(255)
    colour = small[..., :3].astype(np.float32) / share * shading((height, width))
    facing = np.ones(len(joints), np.uint8)
    if abs(yaw) > 0.6:
        facing[4 if yaw < 0 else 3] = 0
    parts, uv = figure_surface(pen.parts, coverage, joints * stature - low, head * stature - low, stature)
    return Sprite(colour, coverage, joints * stature - low, facing, parts, uv)


def _pose(rng: np.random.Generator) -> tuple[Points, Points, float, float]:
    """Joints [17, 2] and the head's centre for a stature of 1, the head's yaw (-1..1) and lean (degrees)."""
    lean = math.radians(uniform(rng, -14, 14))
    up = np.array([math.sin(lean), -math.cos(lean)])
    right = np.array([math.cos(lean), math.sin(lean)])
    shoulders = 0.3 * up
    head = shoulders + 0.125 * up
    yaw = uniform(rng, -1, 1)
    across, above = 0.022 * yaw * right, up
    face = [
        head + 1.3 * across - 0.016 * above,
        head + across + 0.027 * right + 0.012 * above,
        head + across - 0.027 * right + 0.012 * above,
        head - 0.4 * across + 0.072 * right,
        head - 0.4 * across - 0.072 * right,
    ]
    sides: list[list[Points]] = []
    for side in (1, -1):
        shoulder = shoulders + side * 0.105 * right
        hip = side * 0.062 * right
        arm = math.radians(uniform(rng, -12, 140))
        elbow = shoulder + 0.155 * _heading(lean + side * arm)
        forearm = arm + math.radians(uniform(rng, -25, 95))
        wrist = elbow + 0.145 * _heading(lean + side * forearm)
        leg = math.radians(uniform(rng, -4, 38))
        knee = hip + 0.235 * _heading(side * leg)
        shin = leg + math.radians(uniform(rng, -38, 12))
        ankle = knee + 0.23 * _heading(side * shin)
        sides.append([shoulder, elbow, wrist, hip, knee, ankle])
    limbs = [joint for pair in zip(*sides, strict=True) for joint in pair]
    return np.array([*face, *limbs]), head, yaw, math.degrees(lean)


def _heading(angle: float) -> Points:
    """Unit vector that hangs straight down at 0 and swings to the picture's right for positive angles."""
    return np.array([math.sin(angle), math.cos(angle)])


def _shifted(point: Points, x: float, y: float) -> Points:
    return point + np.array([x, y])

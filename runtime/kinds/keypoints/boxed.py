"""Maps of logits over detected boxes become keypoints, as torchvision and detectron2 decode Keypoint R-CNN.

In the network's pixels, for every box of width w and height h (at least 1 each):

1. the maps, 28x28 in the published models, are doubled bilinearly (half-pixel, edges repeated);
2. they are resized bicubically (coefficient -0.75, half-pixel, edges repeated) to ceil(h) x ceil(w);
3. of the first maximum, in row x and column y, the point is x1 + (x + 0.5) w / ceil(w), and so for y.

Only the part of a resized map is computed in which the maximum can lie. Four neighbours along each axis make
a resized value, with weights that sum to 1 and of which negative ones sum to 3/16 at most along one axis, so
2 (19/16)(3/16) = 57/128 at most of both. So no value between four cells can exceed the greatest of the 4x4
around them, max, by more than 57/128 (max - min), and where even that is less than some value that is there,
nobody needs to look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import BoxedKeypoints, PointScore
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.results.outputs import Outputs, only_look, read_output, require
from edgewise.runtime.results.slots import read_boxed_things
from edgewise.runtime.system.errors import ResultError

Maps = NDArray[np.float32]
Floats = NDArray[np.float64]

_CUBIC = -0.75
"""The coefficient of torch's and OpenCV's bicubic interpolation."""
_OVERSHOOT = 57 / 128
_SLACK = 1e-5
"""Of the range of a map: more than float32 rounds."""


def decode_boxed(
    spec: BoxedKeypoints, manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]
) -> Keypoints:
    """The people of the one look at a whole frame; see `read_boxed_things` for boxes and scores.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite, or there are several looks.
    """
    if manifest.keypoints is None:
        raise ResultError("the manifest names no keypoints", where=manifest.name, hint="export it again")
    geometry, only = only_look(looks, outputs)
    found = read_boxed_things(spec, len(manifest.classes), only, geometry)
    slots, count = only[spec.scores].shape[-1], len(manifest.keypoints.names)
    maps = read_output(only, spec.heatmaps, (1, slots, count, None, None), np.float32)[0][found.slots]
    require(np.isfinite(maps).all(), spec.heatmaps, "holds a value that is not finite")
    boxes = only[spec.boxes][0][found.slots]
    points, greatest = points_in_boxes(maps, boxes)
    places = geometry.to_source(points) + (0.5 if spec.pixel_numbers else 0.0)
    return Keypoints(
        points=places.astype(np.float32),
        point_scores=point_scores(maps, greatest, spec.point_score),
        boxes=found.boxes,
        scores=np.minimum(found.scores, np.float32(1)),
        classes=found.classes,
        labels=manifest.classes,
        layout=manifest.keypoints,
        frame_size=geometry.source_size,
        display_threshold=spec.display_threshold,
        point_threshold=spec.point_threshold,
        settled=found.settled,
    )


def points_in_boxes(maps: Maps, boxes: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Where the resized maps are greatest, and how great.

    Args:
        maps: Finite logits float32 [n, k, h, w], before they are doubled.
        boxes: float32 [n, 4], xyxy in network pixels.

    Returns:
        float64 [n, k, 2], x and y in network pixels, and float64 [n, k].
    """
    points = np.zeros((*maps.shape[:2], 2))
    greatest = np.zeros(maps.shape[:2])
    for person, box in enumerate(boxes.astype(np.float64)):
        sides = np.maximum(box[2:] - box[:2], 1.0)
        width, height = (math.ceil(side) for side in sides.tolist())
        doubled = doubled_maps(maps[person])
        down, across = cubic_axis(doubled.shape[0], height), cubic_axis(doubled.shape[1], width)
        possible = _possible(doubled, down, across)
        vertical, horizontal = (_spans(np.asarray(possible.any(axis=axis))) for axis in (1, 0))
        for point, (rows, columns) in enumerate(zip(vertical, horizontal, strict=True)):
            top, first = down.of(*rows)
            left, second = across.of(*columns)
            resized = first.weights @ doubled[first.cells, second.cells, point] @ second.weights.T
            row, column = divmod(int(resized.argmax()), resized.shape[1])
            greatest[person, point] = resized[row, column]
            shares = (left + column + 0.5) / width, (top + row + 0.5) / height
            points[person, point] = box[:2] + shares * sides
    return points, greatest


def point_scores(maps: Maps, greatest: Floats, rule: PointScore) -> NDArray[np.float32]:
    """How sure points are, float32 [n, k] in 0..1.

    Args:
        maps: float32 [n, k, h, w], before they are doubled.
        greatest: float64 [n, k], of the resized maps.
        rule: What is made of them.
    """
    if rule is PointScore.LOGIT:
        return (0.5 * (1.0 + np.tanh(0.5 * greatest))).astype(np.float32)
    total = np.zeros(greatest.shape)
    for person, one in enumerate(maps):
        total[person] = np.exp(doubled_maps(one) - greatest[person]).sum(axis=(0, 1))
    return np.minimum(1.0 / total, 1.0).astype(np.float32)


def doubled_maps(maps: Maps) -> Maps:
    """Maps [k, h, w], bilinear, half-pixel, edges repeated: [2 h, 2 w, k]."""
    count, height, width = maps.shape
    by_cell = np.ascontiguousarray(maps.transpose(1, 2, 0))
    doubled = cv2.resize(by_cell, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(doubled, np.float32).reshape(2 * height, 2 * width, count)


class Part(NamedTuple):
    """Some neighbouring cells of a resized axis."""

    weights: Floats
    """float64 [wanted, cells]: what each takes of the original's cells,"""
    cells: slice
    """which are these."""


class CubicAxis(NamedTuple):
    """How an axis is resized: bicubic, half-pixel, edges repeated."""

    weights: Floats
    """float64 [wanted, length]: row i is what cell i of the resized axis takes of the original's cells."""
    before: NDArray[np.intp]
    """int64 [wanted], rising: the cell of the original whose centre is at or before that of cell i; -1..."""

    def of(self, low: int, high: int) -> tuple[int, Part]:
        """The cells with `before` in low..high: the number of the first, and how they are made."""
        start, stop = np.searchsorted(self.before, (low, high + 1)).tolist()
        cells = slice(max(low - 1, 0), high + 3)
        return start, Part(self.weights[start:stop, cells], cells)

    def nearest(self, cells: NDArray[np.intp]) -> NDArray[np.intp]:
        """The cells of the resized axis whose centres are nearest to those of cells of the original."""
        wanted, length = self.weights.shape
        return np.minimum(((cells + 0.5) * (wanted / length)).astype(np.intp), wanted - 1)


def cubic_axis(length: int, wanted: int) -> CubicAxis:
    """From `length` cells to `wanted`."""
    centres = (np.arange(wanted) + 0.5) * (length / wanted) - 0.5
    before = np.floor(centres).astype(np.intp)
    part = centres - before
    weights = np.zeros((wanted, length))
    for tap, distance in enumerate((part + 1, part, 1 - part, 2 - part), start=-1):
        if tap in (0, 1):
            share = (_CUBIC + 2) * distance**3 - (_CUBIC + 3) * distance**2 + 1
        else:
            share = _CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        weights[np.arange(wanted), np.minimum(np.maximum(before + tap, 0), length - 1)] += share
    return CubicAxis(weights, before)


def _possible(maps: Maps, down: CubicAxis, across: CubicAxis) -> NDArray[np.bool_]:
    """bool [h + 1, w + 1, k]: between which cells, the first of them -1, a map's resized maximum can lie."""
    height, width, count = maps.shape
    peaks = maps.reshape(height * width, count).argmax(axis=0)
    rows, columns = np.divmod(peaks, width)
    first, second = down.weights[down.nearest(rows)], across.weights[across.nearest(columns)]
    there = np.einsum("kh,hwk,kw->k", first, maps, second)
    # A window of 4 cells begins one before its place; what is outside the map takes no part.
    padded = np.pad(maps, ((1, 0), (1, 0), (0, 0)), mode="edge")
    around, place = np.ones((4, 4), np.uint8), (1, 1)
    most, least = cv2.dilate(padded, around, anchor=place), cv2.erode(padded, around, anchor=place)
    slack = _SLACK * (maps.max(axis=(0, 1)) - maps.min(axis=(0, 1)))
    return np.asarray(most + _OVERSHOOT * (most - least) >= there - slack, np.bool_)


def _spans(possible: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The first and last possible place of each map, [places, k], counted from -1."""
    last = len(possible) - 1 - possible[::-1].argmax(axis=0)
    return list(zip((possible.argmax(axis=0) - 1).tolist(), (last - 1).tolist(), strict=True))

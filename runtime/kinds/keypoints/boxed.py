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
_SLACK = 1e-9
"""Of the range of a map: more than float64 rounds, far less than float32 does."""


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
        down, across = cubic_axis(doubled.shape[1], height), cubic_axis(doubled.shape[2], width)
        for point, (rows, columns) in enumerate(_windows(doubled, down, across)):
            resized = down.weights[rows] @ doubled[point] @ across.weights[columns].T
            row, column = divmod(int(resized.argmax()), resized.shape[1])
            greatest[person, point] = resized[row, column]
            shares = (columns.start + column + 0.5) / width, (rows.start + row + 0.5) / height
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
    doubled = [doubled_maps(one) for one in maps]
    sums = [
        np.exp(one - most[:, None, None]).sum(axis=(1, 2))
        for one, most in zip(doubled, greatest, strict=True)
    ]
    total = np.array(sums).reshape(greatest.shape)
    return np.minimum(1.0 / total, 1.0).astype(np.float32)


def doubled_maps(maps: Maps) -> Floats:
    """Maps [k, h, w] at twice their resolution: bilinear, half-pixel, edges repeated."""
    found = maps.astype(np.float64)
    for _ in range(2):  # down, then across, by way of the transposed
        count, height, width = found.shape
        padded = np.pad(found, ((0, 0), (1, 1), (0, 0)), mode="edge")
        pairs = np.stack((padded[:, :-2], padded[:, 2:]), axis=2) * 0.25 + 0.75 * found[:, :, None]
        found = pairs.reshape(count, 2 * height, width).swapaxes(1, 2)
    return np.ascontiguousarray(found)


class CubicAxis(NamedTuple):
    """How an axis is resized."""

    weights: Floats
    """float64 [wanted, length]: row i is what cell i of the resized axis takes of the original's cells."""
    first: NDArray[np.intp]
    """int64 [wanted], rising: the cell of the original whose centre is at or before that of cell i; -1..."""


def cubic_axis(length: int, wanted: int) -> CubicAxis:
    """Bicubic, half-pixel, edges repeated."""
    centres = (np.arange(wanted) + 0.5) * (length / wanted) - 0.5
    first = np.floor(centres).astype(np.intp)
    part = centres - first
    distances = np.stack([part + 1, part, 1 - part, 2 - part], axis=1)
    near = (_CUBIC + 2) * distances**3 - (_CUBIC + 3) * distances**2 + 1
    far = _CUBIC * (distances**3 - 5 * distances**2 + 8 * distances - 4)
    cells = np.clip(first[:, None] + np.arange(-1, 3), 0, length - 1)
    weights = np.zeros((wanted, length))
    np.add.at(weights, (np.arange(wanted)[:, None], cells), np.where(distances <= 1, near, far))
    return CubicAxis(weights, first)


def _windows(maps: Floats, down: CubicAxis, across: CubicAxis) -> list[tuple[slice, slice]]:
    """The rows and columns of each resized map in which its maximum must lie."""
    padded = np.pad(maps, ((0, 0), (2, 2), (2, 2)), mode="edge")
    most, least = _of_four(padded, np.maximum), _of_four(padded, np.minimum)
    bounds = most + _OVERSHOOT * (most - least)
    windows: list[tuple[slice, slice]] = []
    for map_, bound in zip(maps, bounds, strict=True):
        row, column = divmod(int(map_.argmax()), map_.shape[1])
        there = down.weights[_nearest(row, down)] @ map_ @ across.weights[_nearest(column, across)]
        possible = bound >= there - _SLACK * (map_.max() - map_.min())
        windows.append((_span(possible.any(axis=1), down), _span(possible.any(axis=0), across)))
    return windows


def _of_four(values: Floats, of: np.ufunc) -> Floats:
    """`of` every 4x4 cells of maps, [k, h, w] -> [k, h - 3, w - 3]."""
    rows = of.reduce([values[:, start : values.shape[1] - 3 + start] for start in range(4)])
    return of.reduce([rows[:, :, start : rows.shape[2] - 3 + start] for start in range(4)])


def _nearest(cell: int, axis: CubicAxis) -> int:
    """The cell of the resized axis whose centre is nearest to that of a cell of the original."""
    wanted, length = axis.weights.shape
    return min(int((cell + 0.5) * wanted / length), wanted - 1)


def _span(possible: NDArray[np.bool_], axis: CubicAxis) -> slice:
    """The cells of the resized axis between the first and last possible cell (counted from -1)."""
    where = np.flatnonzero(possible) - 1
    start, stop = np.searchsorted(axis.first, where[0]), np.searchsorted(axis.first, where[-1], "right")
    return slice(int(start), int(stop))

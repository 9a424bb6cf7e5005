"""How alike two surfaces are: the agreement of every pixel, after DensePose's geodesic point similarity.

DensePose measures geodesic distances on the SMPL body, whose data may not be shipped. Here the distance of
two points is that of their places, held inside the chart, a unit square, where they show the same part, and
infinite where they do not. The rest is as published: a point counts exp(-d^2 / (2 k^2)) with k = 0.255.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.kinds.surface.crops import SurfaceCrops
from edgewise.runtime.results.kind import Likeness
from edgewise.runtime.results.overlap import Floats, box_likeness
from edgewise.runtime.system.errors import ResultError

SCALE = 0.255
"""k, of the chart's side."""


def point_similarity(
    first_labels: NDArray[np.uint8],
    first_uv: NDArray[np.float32],
    second_labels: NDArray[np.uint8],
    second_uv: NDArray[np.float32],
) -> Floats:
    """float64 [...], 0..1, of points with labels [...] and uv [2, ...]; 0 where a side shows no part."""
    # A network's places may lie outside the chart, records hold the nearest inside it.
    places = [uv.astype(np.float64).clip(0, 1) for uv in (first_uv, second_uv)]
    distance = ((places[0] - places[1]) ** 2).sum(axis=0)
    same = (first_labels == second_labels) & (first_labels > 0)
    return np.where(same, np.exp(-distance / (2 * SCALE**2)), 0.0)


def surface_likeness(
    first: SurfaceCrops, boxes: Floats, second: SurfaceCrops, other_boxes: Floats
) -> Likeness:
    """The sum of the point similarities over the pixels that both surfaces show, by the number of those that
    any of them shows; two surfaces without a pixel are equal, and their boxes find their partners.

    Raises:
        ResultError: Surfaces of frames of different size.
    """
    if first.frame_size != second.frame_size:
        raise ResultError(f"surfaces of {first.frame_size} and {second.frame_size} frames cannot be compared")
    shared, both = np.zeros((2, len(first), len(second)))
    corner = np.maximum(first.places[:, None, :2], second.places[None, :, :2])
    far = np.minimum(
        (first.places[:, :2] + first.places[:, 2:])[:, None],
        (second.places[:, :2] + second.places[:, 2:])[None],
    )
    mine, theirs = list(first), list(second)
    for a, b in np.argwhere((far > corner).all(axis=2)).tolist():
        parts: list[Any] = []
        for (labels, uv), place in ((mine[a], first.places[a]), (theirs[b], second.places[b])):
            (left, top), (right, bottom) = corner[a, b] - place[:2], far[a, b] - place[:2]
            parts += [labels[top:bottom, left:right], uv[:, top:bottom, left:right]]
        shared[a, b] = point_similarity(*parts).sum()
        both[a, b] = np.count_nonzero((parts[0] > 0) & (parts[2] > 0))
    areas = [
        np.array([np.count_nonzero(labels) for labels, _ in crops], np.int64) for crops in (mine, theirs)
    ]
    union = areas[0][:, None] + areas[1][None] - both
    both_empty = (areas[0] == 0)[:, None] & (areas[1] == 0)[None]
    similarity = shared / np.maximum(union, 1)
    return Likeness(
        similarity=np.where(both_empty, 1.0, similarity),
        affinity=np.where(both_empty, box_likeness(boxes, other_boxes), similarity),
    )

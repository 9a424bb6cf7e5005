"""What errors of points are measured by: sizes of faces (NME) and of heads (PCKh).

NME is the mean over faces of the mean over a face's labelled points of error / size, as the authors of WFLW
and 300-W report it. Faces without a result have no error and take no part: PCK counts their points as missed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.models.tasks.keypoints.annotations import CocoPerson
from edgewise.runtime.contract.manifest import KeypointLayout

OUTER_CORNERS = "right_eye_1", "left_eye_1"
"""Of the eyes: numbers 60 and 72 of WFLW's points, 36 and 45 of 300-W's."""
INTER_OCULAR, BOX, DIAGONAL = "NME inter-ocular", "NME box", "NME diagonal"
PCKH = "PCKh@0.5"
PCKH_SHARE = 0.5
NOT_JUDGED = "pelvis", "thorax"
"""MPII's points that count in no PCKh."""

Lengths = NDArray[np.float64]


def yardsticks(people: Sequence[CocoPerson], layout: KeypointLayout) -> dict[str, Lengths]:
    """Pixels by which each person's errors are divided, float64 [people]; NaN where one cannot tell.

    Faces, told by the outer corners of their eyes, are measured by the distance between these, by the root of
    the annotated box's area and by the box's diagonal; people by the size of their head, where it is stated.
    """
    found: dict[str, Lengths] = {}
    sides = np.array([one.bbox[2:] for one in people], np.float64).reshape(-1, 2)
    if all(name in layout.names for name in OUTER_CORNERS):
        corners = [layout.names.index(name) for name in OUTER_CORNERS]
        eyes = np.array([one.points[corners] for one in people], np.float64).reshape(-1, 2, 3)
        apart = np.hypot(*(eyes[:, 0, :2] - eyes[:, 1, :2]).T)
        seen = (eyes[..., 2] > 0).all(axis=1) & (apart > 0)
        found[INTER_OCULAR] = np.where(seen, apart, np.nan)
        found[BOX] = np.sqrt(sides.prod(axis=1))
        found[DIAGONAL] = np.hypot(*sides.T)
    heads = np.array([np.nan if one.head_size is None else one.head_size for one in people], np.float64)
    if not np.isnan(heads).all():
        found[PCKH] = heads
    return found


def mean_error(errors: Lengths) -> float:
    """NME of errors float64 [faces, points] as parts of a size; NaN where no face counts.

    NaN stands for what is not labelled or not known, infinity for faces that were not found.
    """
    judged = errors[np.isfinite(errors).any(axis=1)]
    return float(np.nanmean(judged, axis=1).mean()) if len(judged) else float("nan")

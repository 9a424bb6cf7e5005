"""Soft-NMS (Bodla et al., 2017) with a Gaussian, as CornerNet's code does it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.postprocessing import SoftSuppression


def suppress_softly(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    classes: NDArray[np.int32],
    rule: SoftSuppression,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which boxes are left, best first, and their new scores.

    The published code keeps rows that it has dropped behind the others, with whatever they held last; here
    they are gone.

    Args:
        boxes: float64 [n, 4], corner form, frame pixels; a side counts its pixels, that is one more.
        scores: float64 [n].
        classes: int32 [n]; only boxes of one class lower each other.
    """
    kept: list[NDArray[np.intp]] = []
    lowered: list[NDArray[np.float64]] = []
    for one in np.unique(classes):
        of_class = np.flatnonzero(classes == one)
        order, left = _of_one_class(boxes[of_class], scores[of_class], rule)
        kept.append(of_class[order])
        lowered.append(left)
    if not kept:
        return np.zeros(0, np.intp), np.zeros(0)
    index, value = np.concatenate(kept), np.concatenate(lowered)
    best = np.argsort(-value, kind="stable")[: rule.most]
    return index[best], value[best]


def _of_one_class(
    boxes: NDArray[np.float64], scores: NDArray[np.float64], rule: SoftSuppression
) -> tuple[list[int], NDArray[np.float64]]:
    scores = scores.copy()
    waiting = np.arange(len(scores))
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    taken: list[int] = []
    while len(waiting):
        place = int(np.argmax(scores[waiting]))
        best = int(waiting[place])
        taken.append(best)
        waiting = np.delete(waiting, place)
        others = boxes[waiting]
        low, high = np.maximum(others[:, :2], boxes[best, :2]), np.minimum(others[:, 2:], boxes[best, 2:])
        shared = np.prod(np.maximum(high - low + 1, 0), axis=1)
        overlap = shared / (areas[waiting] + areas[best] - shared)
        scores[waiting] *= np.exp(-(overlap**2) / rule.sigma)
        waiting = waiting[scores[waiting] >= rule.least_score]
    return taken, scores[taken]

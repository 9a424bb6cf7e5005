"""Points over time: the One Euro filter (Casiez, Roussel and Vogel, 2012), and who is who in two frames.

Of every coordinate x in frame pixels, with e seconds since it was last seen:

    speed  = low_pass((x - x') / e, derivative_cutoff)      x' the last filtered value
    result = low_pass(x, cutoff + beta * |speed|)
    low_pass(value, c) = a * value + (1 - a) * its last,    a = 1 / (1 + 1 / (2 pi c e))

The first value is its own result, and its speed is 0. What is slow is smoothed, what is fast follows.

There is no tracker: a person is the one of the frames before whose box overlaps most (pairs that overlap more
first, at least `SAME` in IoU, one partner each, of the same class), and is forgotten `KEPT` seconds after the
last such frame. Where two people change places between two frames, so do their filters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.results.kind import Smoothing
from edgewise.runtime.results.overlap import box_likeness

Points = NDArray[np.float64]

SAME = 0.3
"""Least IoU of the boxes of one person in two frames."""
KEPT = 0.5
"""Seconds."""
SHORTEST = 1e-3
"""Seconds between two frames, at least."""


@dataclass(frozen=True, eq=False)
class _Person:
    """One person's filter: points float64 [k, 2] filtered last, their speeds a second, and when and where."""

    points: Points
    speeds: Points
    time: float
    box: Points
    class_index: int


class PointSmoother:
    """Called with the results of consecutive frames in order, it gives them back with filtered points."""

    def __init__(self, settings: Smoothing) -> None:
        self.settings = settings
        self._people: list[_Person] = []

    def __call__(self, found: Keypoints, time: float) -> Keypoints:
        """The same people with smoothed points; scores and boxes stay.

        Args:
            found: Of one frame.
            time: Of the frame, in seconds.
        """
        before = [person for person in self._people if time - person.time <= KEPT]
        partners = _partners(before, found)
        people = [
            _begun(found, index, time)
            if index not in partners
            else _followed(before[partners[index]], found, index, time, self.settings)
            for index in range(len(found))
        ]
        lost = [person for index, person in enumerate(before) if index not in partners.values()]
        self._people = [*people, *lost]
        if not people:
            return found
        return replace(found, points=np.stack([person.points for person in people]).astype(np.float32))


def low_pass_weight(cutoff: Points | float, seconds: float) -> Points:
    """What a new value weighs in an exponential low pass of a cutoff frequency in Hz."""
    return np.asarray(1 / (1 + 1 / (2 * math.pi * np.asarray(cutoff, np.float64) * seconds)))


def _begun(found: Keypoints, index: int, time: float) -> _Person:
    points = found.points[index].astype(np.float64)
    box = found.boxes[index].astype(np.float64)
    return _Person(points, np.zeros_like(points), time, box, int(found.classes[index]))


def _followed(last: _Person, found: Keypoints, index: int, time: float, settings: Smoothing) -> _Person:
    now = _begun(found, index, time)
    seconds = max(time - last.time, SHORTEST)
    speeds = (now.points - last.points) / seconds
    speeds = last.speeds + low_pass_weight(settings.derivative_cutoff, seconds) * (speeds - last.speeds)
    weight = low_pass_weight(settings.cutoff + settings.beta * np.abs(speeds), seconds)
    return replace(now, points=last.points + weight * (now.points - last.points), speeds=speeds)


def _partners(before: list[_Person], found: Keypoints) -> dict[int, int]:
    """The index of a person now -> of the same one before."""
    if not before or not len(found):
        return {}
    likeness = box_likeness(np.stack([person.box for person in before]), found.boxes.astype(np.float64))
    classes = np.array([person.class_index for person in before])
    likeness[classes[:, None] != found.classes[None]] = 0
    partners: dict[int, int] = {}
    for flat in np.argsort(-likeness, axis=None, kind="stable").tolist():
        earlier, now = divmod(flat, len(found))
        if likeness[earlier, now] < SAME:
            break
        if now not in partners and earlier not in partners.values():
            partners[now] = earlier
    return partners

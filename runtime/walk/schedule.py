"""Which graph runs on which frame, and the tensors that one run leaves for the next.

A choice is made once per frame and in frame order. State tensors pass between runs without a copy.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.schedules import EveryFrame, KeyEveryN, KeyOnSceneChange, Schedule

THUMBNAIL = (64, 64)


class GraphChoice(Protocol):
    def __call__(self, frame: NDArray[np.uint8]) -> str:
        """Name of the graph that runs on the next frame, uint8 [H, W, 3] BGR."""
        ...


def graph_choice(schedule: Schedule) -> GraphChoice:
    """A fresh choice, whose first frame is a key frame."""
    if isinstance(schedule, EveryFrame):
        return _Always(schedule.graph)
    if isinstance(schedule, KeyEveryN):
        return _Counted(schedule)
    return _SceneChange(schedule)


class _Always:
    def __init__(self, graph: str) -> None:
        self._graph = graph

    def __call__(self, frame: NDArray[np.uint8]) -> str:
        return self._graph


class _Counted:
    def __init__(self, schedule: KeyEveryN) -> None:
        self._schedule = schedule
        self._index = 0

    def __call__(self, frame: NDArray[np.uint8]) -> str:
        is_key = self._index % self._schedule.n == 0
        self._index += 1
        return self._schedule.key if is_key else self._schedule.nonkey


class _SceneChange:
    """Compares with the last key frame, from which the state was propagated, not with the last frame."""

    def __init__(self, schedule: KeyOnSceneChange) -> None:
        self._schedule = schedule
        self._key_thumbnail: NDArray[np.int16] | None = None
        self._since_key = 0

    def __call__(self, frame: NDArray[np.uint8]) -> str:
        thumbnail = _thumbnail(frame)
        self._since_key += 1
        if (
            self._key_thumbnail is not None
            and self._since_key < self._schedule.at_least_every
            and float(np.abs(thumbnail - self._key_thumbnail).mean()) <= self._schedule.threshold
        ):
            return self._schedule.nonkey
        self._key_thumbnail = thumbnail
        self._since_key = 0
        return self._schedule.key


def _thumbnail(frame: NDArray[np.uint8]) -> NDArray[np.int16]:
    small = cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.int16)

"""Videos through OpenCV: opened with their first frame decoded already, so that what cannot be read shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.system.errors import SourceError

NOMINAL_FPS = 25.0
"""The rate of what does not say its own."""
MOST_FPS = 1000
"""Above that a rate is no rate: streams announce the ticks of their clock (90,000 a second)."""


@dataclass(frozen=True)
class Address:
    """What is opened, how, and what to say where that fails.

    Attributes:
        text: What the user wrote.
        opened: What OpenCV opens: a path, an address, a camera's index, a pipeline.
        backend: One of OpenCV's CAP_ constants.
        parameters: OpenCV's properties and their values, one after the other.
        unopened: What to say where it cannot be opened.
        silent: What to say where it opens and gives no frame.
        hint: What to do next.
    """

    text: str
    opened: str | int
    unopened: str
    silent: str
    hint: str
    backend: int = cv2.CAP_ANY
    parameters: Sequence[int] = ()


class Capture:
    """An opened video or camera. Read it in one thread.

    Attributes:
        announced: How many frames the container announces, which is often an estimate; None for what has no
            end or does not say.
        fps: Nominal frames per second, where it says so.
        index: Of the frame that was read or passed last; -1 before the first.
        seconds: When that frame is shown, from the start of the video.

    Raises:
        SourceError: It cannot be opened, or not one frame can be decoded.
    """

    def __init__(self, address: Address) -> None:
        capture: Any = cv2.VideoCapture(address.opened, address.backend, list(address.parameters))
        if not capture.isOpened():
            raise SourceError(address.unopened, where=address.text, hint=address.hint)
        announced, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        self.announced = int(announced) if announced > 0 else None
        self.fps = float(fps) if 0 < fps < MOST_FPS else None
        self.index = -1
        self.seconds = 0.0
        self._capture = capture
        good, self._first = capture.read()
        if not good:
            capture.release()
            raise SourceError(address.silent, where=address.text, hint=address.hint)

    def read(self) -> NDArray[np.uint8] | None:
        """The next frame, uint8 [H, W, 3] BGR, or None where there is no further one."""
        if not self.skip():
            return None
        good, image = (True, self._first) if self.index == 0 else self._capture.retrieve()
        self._first = None
        return np.asarray(image, np.uint8) if good else None

    def skip(self) -> bool:
        """Go to the next frame without its pixels; False where there is no further one."""
        started = self.index >= 0
        if started and not self._capture.grab():
            return False
        seconds = max(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, 0.0)
        if started and seconds <= self.seconds:
            # A container without times: as far apart as the nominal rate says.
            seconds = self.seconds + 1 / (self.fps or NOMINAL_FPS)
        self.index, self.seconds = self.index + 1, seconds
        return True

    def close(self) -> None:
        self._capture.release()

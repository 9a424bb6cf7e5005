"""Videos through OpenCV: opened with their first frame decoded already, so that what cannot be read shows."""

from __future__ import annotations

import time
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

MOST_BROKEN = 250
"""How many frames in a row may be broken before the rest is given up."""
STALLED_SECONDS = 2.0
"""A frame that did not come for so long is not broken: the source is lost."""


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
        index: Of the frame that it stands at.
        seconds: When that frame is shown, from the start of the video.
        broken: Indices of the frames just before it that could not be decoded.

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
        self._at_first = False
        self._first: NDArray[np.uint8] | None = None
        self.seconds = 0.0
        self.broken = range(0)
        self._capture = capture
        self._first = self.image() if self.advance() else None
        self._at_first = True
        if self._first is None:
            capture.release()
            raise SourceError(address.silent, where=address.text, hint=address.hint)

    def advance(self) -> bool:
        """Go to the next frame that can be decoded, without its pixels; False where there is none.

        OpenCV says the same of a broken frame and of the end. So it is asked again, until that was in vain
        too often or it waited for something that did not come.
        """
        if self._at_first:
            self._at_first = False
            return True
        failed, asked = 0, time.monotonic()
        while not self._capture.grab():
            failed += 1
            if failed > MOST_BROKEN or time.monotonic() - asked > STALLED_SECONDS:
                return False
            asked = time.monotonic()
        seconds = max(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, 0.0)
        if self.index >= 0 and seconds <= self.seconds:
            # A container without times: as far apart as the nominal rate says.
            seconds = self.seconds + (1 + failed) / (self.fps or NOMINAL_FPS)
        self.broken = range(self.index + 1, self.index + 1 + failed)
        self.index, self.seconds = self.index + 1 + failed, seconds
        return True

    def image(self) -> NDArray[np.uint8] | None:
        """The frame, uint8 [H, W, 3] BGR, or None where its pixels cannot be had. Ask once a frame."""
        first, self._first = self._first, None
        if first is not None:
            return first
        good, image = self._capture.retrieve()
        return np.asarray(image, np.uint8) if good else None

    def close(self) -> None:
        self._capture.release()

"""Cameras and streams: the newest frame, and another try where one is lost.

A thread of its own reads as fast as frames come. Without it they would wait wherever the source keeps them
(in the camera, the network, the server), and a model slower than the source would fall behind without bound.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.frames.captures import Address, Capture
from edgewise.runtime.frames.newest import Newest
from edgewise.runtime.frames.reading import Losses, Reading
from edgewise.runtime.system.errors import SourceError

FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds before the first try to reach a lost source again, and at most; each wait is twice the last one."""
JOIN_SECONDS = 5.0
"""How long closing waits for a reader that is inside a blocking call, such as a camera that gives nothing."""


@dataclass(frozen=True)
class Shot:
    """A frame as it came: how many came before, uint8 [H, W, 3] BGR, seconds since the source was opened."""

    index: int
    image: NDArray[np.uint8]
    seconds: float


class LiveStream:
    """The frames of an opened camera or stream, for one iteration.

    Each step gives the newest frame that has come, and waits only where none has; what came and was not asked
    for is dropped and counted. With `reading.every_frame` they come one after the other, none dropped.

    Args:
        address: Where it is opened again when it was lost.
        capture: It, opened.
        reading: Which frames are given.
        patience: For how many seconds a lost source is tried again; 0: its end is the end.
        losses: What was dropped, and how often it was lost, is counted there.
    """

    def __init__(
        self, address: Address, capture: Capture, reading: Reading, patience: float, losses: Losses
    ) -> None:
        self._address = address
        self._capture = capture
        self._every = reading.every
        self._patience = patience
        self._losses = losses
        self._closed = threading.Event()
        self._newest: Newest[Shot] = Newest()
        self._reader: threading.Thread | None = None
        if not reading.every_frame:
            self._reader = threading.Thread(target=self._read, name="edgewise-live", daemon=True)
            self._reader.start()

    def __iter__(self) -> Iterator[Shot]:
        """Iterate once.

        Raises:
            SourceError: The source was lost and could not be reached again.
        """
        if self._reader is None:
            return self._shots()
        return self._newest_shots()

    def close(self) -> None:
        """End the iteration, also one that waits in another thread. What is closed stays so."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._newest.end()
        if self._reader is not None:
            self._reader.join(JOIN_SECONDS)

    def _newest_shots(self) -> Generator[Shot]:
        try:
            while (shot := self._newest.take()) is not None:
                yield shot
        finally:
            self.close()

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for shot in self._shots():
                if not self._newest.put(shot):
                    break
                self._losses.dropped = self._newest.dropped
        except BaseException as raised:
            error = raised
        self._newest.end(error)

    def _shots(self) -> Generator[Shot]:
        """The frames that are asked for, over every connection."""
        capture, start, index = self._capture, time.monotonic(), 0
        try:
            while not self._closed.is_set():
                if not capture.advance():
                    capture.close()
                    again = self._reached_again(index)
                    if again is None:
                        return
                    capture = again
                    continue
                image = capture.image() if index % self._every == 0 else None
                if image is not None:
                    yield Shot(index, image, time.monotonic() - start)
                index += 1
        finally:
            capture.close()

    def _reached_again(self, frames: int) -> Capture | None:
        """Open the source anew, with longer and longer waits; None where its end is the end.

        Raises:
            SourceError: Its time is over.
        """
        if self._patience <= 0:
            return None
        self._losses.lost = True
        lost, wait = time.monotonic(), FIRST_WAIT
        while not self._closed.wait(wait):
            try:
                capture = Capture(self._address)
            except SourceError:
                if time.monotonic() - lost + wait > self._patience:
                    raise SourceError(
                        f"the camera or stream was lost after {frames} frames and could not be reached again "
                        f"for {self._patience:g} s",
                        where=self._address.text,
                        hint=f"{self._address.hint}; --reconnect SECONDS tries for longer",
                    ) from None
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                self._losses.lost = False
                self._losses.reconnected += 1
                return capture
        return None

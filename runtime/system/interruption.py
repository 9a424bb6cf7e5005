"""Ctrl-C at a safe moment: a frame is written wholly or not at all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupt() -> Generator[None]:
    """Hold back a KeyboardInterrupt that comes inside the block until the block ends.

    Python delivers signals to the main thread; in any other thread there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pending
        pending = True

    previous = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pending:
        raise KeyboardInterrupt

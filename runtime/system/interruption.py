"""Ctrl-C, and what a service manager sends in its place, at a safe moment: a frame is written wholly or not.

`docker stop` and systemd send SIGTERM, a closed terminal sends SIGHUP; both mean what Ctrl-C means.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from types import FrameType

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt_on_termination() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does; what is ignored (`nohup`) stays so."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


@contextmanager
def on_interrupt(act: Callable[[], None]) -> Generator[None]:
    """Call `act` in place of raising KeyboardInterrupt inside the block.

    Python delivers signals to the main thread; in any other thread nothing changes. Signals that are ignored,
    or that nobody has turned into an interrupt, are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        act()

    left_alone = (signal.SIG_IGN, signal.SIG_DFL, None)
    with ExitStack() as restored:  # all of them, even where one that comes now raises
        for number in INTERRUPTS:
            if (before := signal.getsignal(number)) not in left_alone:
                restored.callback(signal.signal, number, before)
                signal.signal(number, handle)
        yield


@contextmanager
def deferred_interrupt() -> Generator[None]:
    """Hold back a KeyboardInterrupt that comes inside the block until the block ends."""
    pending: list[bool] = []
    with on_interrupt(lambda: pending.append(True)):
        yield
    if pending:
        raise KeyboardInterrupt

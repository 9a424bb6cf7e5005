"""The newest of a stream: who is slower than the source gets what came last, and the rest is dropped."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Newest(Generic[Item]):
    """A place for one item, between one thread that puts and one that takes.

    Attributes:
        dropped: How many items were put and replaced by a newer one before they were taken.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._changed = threading.Condition()
        self._waiting: list[Item] = []
        self._ended = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> bool:
        """Put an item, in place of one that still waits. False where nobody takes any more."""
        with self._changed:
            if self._ended:
                return False
            self.dropped += len(self._waiting)
            self._waiting = [item]
            self._changed.notify_all()
            return True

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes; what waits can still be taken, and then `error` is raised."""
        with self._changed:
            self._ended, self._error = True, self._error or error
            self._changed.notify_all()

    def take(self) -> Item | None:
        """Wait for the newest item and take it; None at the end.

        Raises:
            BaseException: What `end` was given.
        """
        with self._changed:
            while not self._waiting and not self._ended:
                self._changed.wait()
            if self._waiting:
                return self._waiting.pop()
            if self._error is not None:
                raise self._error
            return None

"""Run consecutive items through stages at the same time, one thread a stage, in order, losing none."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

JOIN_SECONDS = 5.0
"""How long closing waits for a stage that is inside a blocking call, such as reading a dead camera."""


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _Closed(Exception):
    """The other side has stopped."""


class _Channel:
    """A bounded first-in first-out queue that both sides can close."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[Any] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._cancelled = False

    def wait_for_room(self) -> None:
        """Wait until an item can be put. One thread puts, so there is room then until it does."""
        with self._changed:
            while len(self._items) >= self._capacity and not self._cancelled:
                self._changed.wait()

    def put(self, item: Any) -> None:
        with self._changed:
            while len(self._items) >= self._capacity and not self._cancelled:
                self._changed.wait()
            if self._cancelled:
                raise _Closed
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> Any:
        with self._changed:
            while not self._items and not self._ended and not self._cancelled:
                self._changed.wait()
            if self._cancelled or not self._items:
                raise _Closed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """No more items will be put; those inside are still given out."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Wake both sides and give nothing more."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()


def overlapped(
    items: Iterable[Any], stages: Sequence[Callable[[Any], Any]], *, depth: int = 2
) -> Generator[Any]:
    """Yield `stages[-1](... stages[0](item))` for every item, in order.

    Reading `items` and each stage have a thread of their own; at most `depth` finished items wait before each
    stage, so a slow consumer holds everything back and nothing is dropped. An item is taken, from `items` or
    by a stage, only when there is room for what becomes of it: a source that gives its newest is asked late.
    The first error, from `items` or a stage, is raised here after the items before it. Closing the generator
    stops the threads.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}, must be at least 1")
    channels = [_Channel(depth) for _ in range(len(stages) + 1)]
    threads = [threading.Thread(target=_feed, args=(items, channels[0]), name="edgewise-source", daemon=True)]
    for index, stage in enumerate(stages):
        arguments = (stage, channels[index], channels[index + 1])
        name = f"edgewise-{getattr(stage, '__name__', index)}"
        threads.append(threading.Thread(target=_work, args=arguments, name=name, daemon=True))
    del items
    for thread in threads:
        thread.start()
    try:
        while True:
            try:
                item = channels[-1].get()
            except _Closed:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        for channel in channels:
            channel.cancel()
        for thread in threads:
            thread.join(JOIN_SECONDS)


def _feed(items: Iterable[Any], sink: _Channel) -> None:
    try:
        sink.wait_for_room()
        for item in items:
            sink.put(item)
            sink.wait_for_room()
    except _Closed:
        pass
    except BaseException as error:
        _fail(sink, error)
    sink.end()


def _work(stage: Callable[[Any], Any], source: _Channel, sink: _Channel) -> None:
    try:
        while True:
            sink.wait_for_room()
            item = source.get()
            sink.put(item if isinstance(item, _Failure) else stage(item))
    except _Closed:
        pass
    except BaseException as error:
        _fail(sink, error)
        source.cancel()
    sink.end()


def _fail(sink: _Channel, error: BaseException) -> None:
    try:
        sink.put(_Failure(error))
    except _Closed:
        return

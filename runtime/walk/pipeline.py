"""Run consecutive items through stages at the same time, one thread a stage, in order, losing none."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

JOIN_SECONDS = 5.0
"""How long closing waits for a stage that is inside a blocking call, such as reading a dead camera."""

Item = TypeVar("Item")


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


@dataclass(frozen=True)
class Spread:
    """A stage that makes several items of one; the next stage gets them one by one.

    Attributes:
        stage: Gives the items in order.
    """

    stage: Callable[[Any], Sequence[Any]]


def gathered(
    items: Iterable[Item], most: int, *, size: Callable[[Item], int] = lambda item: 1
) -> Generator[list[Item]]:
    """Consecutive items in groups whose sizes add up to at most `most`; a larger item is a group of its own.

    An error of `items` is raised after the group before it.
    """
    group: list[Item] = []
    held = 0
    try:
        for item in items:
            own = size(item)
            if group and held + own > most:
                yield group
                group, held = [], 0
            group.append(item)
            held += own
            if held >= most:
                yield group
                group, held = [], 0
    except Exception:
        if group:
            yield group
        raise
    if group:
        yield group


def overlapped(
    items: Iterable[Any], stages: Sequence[Callable[[Any], Any] | Spread], *, depth: int = 2
) -> Generator[Any]:
    """Yield `stages[-1](... stages[0](item))` for every item, in order; of a `Spread`, for each of its items.

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
        function = stage.stage if isinstance(stage, Spread) else stage
        name = f"edgewise-{getattr(function, '__name__', index)}"
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


def _work(stage: Callable[[Any], Any] | Spread, source: _Channel, sink: _Channel) -> None:
    try:
        while True:
            sink.wait_for_room()
            item = source.get()
            if isinstance(item, _Failure):
                sink.put(item)
            elif isinstance(stage, Spread):
                for part in stage.stage(item):
                    sink.put(part)
            else:
                sink.put(stage(item))
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

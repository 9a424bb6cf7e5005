"""The files of a run: one set at its end, or a part of it every so many seconds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.results.kind import Sink
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.output_set import OutputSet
from edgewise.runtime.system.publishing import writing

_PART = re.compile(r"part-(\d{6,})")

OpenSinks = Callable[[OutputSet], list[Sink]]


class RunFiles:
    """Where a run's results go. Left without `finish`, what is not published yet is discarded.

    Args:
        folder: The output folder; with `segment` it holds a folder `part-000000` and so on for each part,
            which is complete when it appears. Parts of an earlier run stay, and the numbers go on.
        names: Of the files and folders of a set.
        replace: Allow that an earlier set is there.
        segment: Least seconds of a part; None for one set at the end.
        open_sinks: Opens what writes a set.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        replace: bool,
        segment: float | None,
        open_sinks: OpenSinks,
    ) -> None:
        self._folder = folder
        self._names = names
        self._replace = replace
        self._segment = segment
        self._open_sinks = open_sinks
        self._published: list[Path] = []
        self._sinks: list[Sink] = []
        self._set: OutputSet | None = None
        self._begun: float | None = None
        """When the first frame of the set was written, by the monotonic clock."""
        with ExitStack() as held:
            if segment is not None:
                held.enter_context(writing(folder))
            self._begin()
            self._held = held.pop_all()

    def write(self, frame: Frame, result: Result) -> None:
        """Write one frame wholly; a part whose time is over is published before."""
        now = time.monotonic()
        if self._segment is not None and self._begun is not None and now - self._begun >= self._segment:
            self._end(partial=False)
        if self._set is None:
            self._begin()
        self._begun = self._begun or now
        for sink in self._sinks:
            sink.write(frame, result)

    def finish(self, *, partial: bool) -> list[Path]:
        """Publish what is left, and give the paths of everything that was published."""
        if self._set is not None:
            self._end(partial=partial)
        return self._published

    def __enter__(self) -> RunFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._set is not None:
            self._set.discard()
        self._held.close()

    def _begin(self) -> None:
        folder = self._folder
        if self._segment is not None:
            folder = folder / f"part-{_next_part(folder):06d}"
        self._set = OutputSet(folder, self._names, replace=self._replace)
        try:
            self._sinks = self._open_sinks(self._set)
        except BaseException:
            self._set.discard()
            raise
        self._begun = None

    def _end(self, *, partial: bool) -> None:
        ended, self._set = self._set, None
        if ended is None:
            return
        try:
            for sink in self._sinks:
                sink.close()
            paths = ended.publish(partial=partial)
        finally:
            ended.discard()
        self._published += [ended.folder] if self._segment is not None else paths


def _next_part(folder: Path) -> int:
    taken = folder.iterdir() if folder.is_dir() else ()
    numbers = [int(match[1]) for path in taken if (match := _PART.fullmatch(path.name))]
    return max(numbers, default=-1) + 1

"""How long each stage of a frame takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.walk.walk import Prepared, Walk

Given = TypeVar("Given")


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds of every timed run of one stage."""

    stage: str
    milliseconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """The percentile of the runs, linearly interpolated."""
        return float(np.percentile(self.milliseconds, percent))

    @property
    def rate(self) -> float:
        """Runs per second, one after the other, from the mean."""
        return 1000.0 / float(np.mean(self.milliseconds))


def time_stages(
    walk: Walk,
    image: NDArray[np.uint8],
    boxes: FrameBoxes | None = None,
    *,
    runs: int,
    warm_up: int,
) -> tuple[StageTimes, ...]:
    """Time preprocess, inference, postprocess and their sum on one image, after `warm_up` untimed runs.

    A stage takes all looks at the image: one a box for a model of crops, two with the flip test. Where
    several such frames share a launch, inference of so many is timed too; the time is that of one of them.
    """
    frame = Frame(0, "bench", image, 0.0)
    prepare = partial(walk.prepare, boxes=boxes)
    names = ("preprocess", "inference", "postprocess")
    times: dict[str, list[float]] = {name: [] for name in names}
    for run in range(warm_up + runs):
        prepared, first = _timed(prepare, frame)
        inferred, second = _timed(walk.infer, prepared)
        _, third = _timed(walk.finish, inferred)
        if run >= warm_up:
            for name, value in zip(names, (first, second, third), strict=True):
                times[name].append(value)
    stages = [StageTimes(name, tuple(values)) for name, values in times.items()]
    total = StageTimes("total", tuple(sum(parts) for parts in zip(*times.values(), strict=True)))
    return (*stages, total, *_shared_launch(walk, prepare(frame), runs=runs, warm_up=warm_up))


def _shared_launch(walk: Walk, prepared: Prepared, *, runs: int, warm_up: int) -> tuple[StageTimes, ...]:
    """Inference of as many frames as share a launch, a frame; nothing where that is one."""
    count = walk.batch // max(len(prepared.looks.looks), 1)
    if count < 2:
        return ()
    frames = [prepared] * count
    times = [_timed(walk.infer_together, frames)[1] for _ in range(warm_up + runs)][warm_up:]
    return (StageTimes(f"inference, {count} frames a launch", tuple(time / count for time in times)),)


Made = TypeVar("Made")


def _timed(stage: Callable[[Given], Made], argument: Given) -> tuple[Made, float]:
    start = time.perf_counter()
    made = stage(argument)
    return made, (time.perf_counter() - start) * 1000

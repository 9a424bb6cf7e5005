"""People of one frame in shared launches beside one launch each, in one run.

    edgewise export hourglass-tiny.safetensors -o one.bundle
    edgewise export hourglass-tiny.safetensors -o twenty.bundle --batch 20
    python -m benchmarks.people_in_a_launch twenty.bundle one.bundle [--people 20] [--precision fp32]

or, of a model of the registry with seeded weights, exported here in both forms for FP32:

    python -m benchmarks.people_in_a_launch --model hrnet-w32-256x192

Both look at the same drawn frame with as many boxes. Rounds of the two take turns, and a ratio is that of the
medians: of inference alone and of the whole frame, by the clock and by the processor time of all threads. The
points of a launch must equal, to the bit, what each person gives alone through the same file; from those of
the file of one look they may differ by rounding.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.zoo import seeded_checkpoint
from edgewise.exporter.way.export import ExportOptions, export_checkpoint
from edgewise.runtime.contract.manifest import Target
from edgewise.runtime.engines.options import OnnxRuntimeOptions
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.results.result import Result
from edgewise.runtime.walk.session import Session

Made = TypeVar("Made")

TARGET = 1.3
SIZE = (720, 1280)


def drawn(people: int) -> tuple[Frame, FrameBoxes]:
    """A frame of coloured noise and boxes of a person's shape all over it."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    height = generator.uniform(150, 400, people)
    left = generator.uniform(0, SIZE[1] - height * 0.5)
    top = generator.uniform(0, SIZE[0] - height)
    boxes = np.stack([left, top, left + height * 0.5, top + height], axis=1)
    return Frame(0, "drawn", image, 0.0), FrameBoxes(boxes, np.ones(people, np.float32))


@dataclass
class Way:
    """One bundle's milliseconds, by the clock and of the processor, for inference and for a whole frame."""

    name: str
    session: Session
    times: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def median(self, what: str, by: int) -> float:
        """Of the clock (0) or the processor (1)."""
        return statistics.median(taken[by] for taken in self.times[what])

    def round(self, frame: Frame, boxes: FrameBoxes) -> Result:
        """One frame, timed."""
        walk = self.session.walk
        prepared = walk.prepare(frame, boxes)
        inferred = self._timed("inference", lambda: walk.infer(prepared))
        self._timed("whole frame", lambda: walk.finish(walk.infer(walk.prepare(frame, boxes))))
        return walk.finish(inferred)

    def _timed(self, what: str, work: Callable[[], Made]) -> Made:
        clock, processor = time.perf_counter(), time.process_time()
        made = work()
        taken = (time.perf_counter() - clock) * 1e3, (time.process_time() - processor) * 1e3
        self.times.setdefault(what, []).append(taken)
        return made


def exported(model: str, people: int, folder: Path) -> tuple[Path, Path]:
    """Bundles of a registry model with seeded weights: of launches of so many people, and of one."""
    checkpoint = seeded_checkpoint(model, folder / "seeded.safetensors")
    batched, single = (folder / f"{looks}.bundle" for looks in (people, 1))
    for path, looks in ((batched, people), (single, 1)):
        export_checkpoint(checkpoint, path, ExportOptions(targets=(Target.ONNXRUNTIME,), batch=looks))
    return batched, single


def points_of(result: Result) -> np.ndarray:
    """float32 [people, points, 2]."""
    assert isinstance(result, Keypoints)
    return result.points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="*", metavar="batched single")
    parser.add_argument("--model")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    if len(options.bundles) != (0 if options.model else 2):
        parser.error("give two bundles, or --model")
    with tempfile.TemporaryDirectory() as folder:
        batched, single = options.bundles or exported(options.model, options.people, Path(folder))
        compare(batched, single, options)


def compare(batched_path: Path, single_path: Path, options: argparse.Namespace) -> None:
    """Time the two, and print what came of it."""
    frame, boxes = drawn(options.people)
    backend = OnnxRuntimeOptions(threads=options.threads)
    with (
        Session.open(batched_path, backend=backend, precision=options.precision) as batched,
        Session.open(single_path, backend=backend, precision=options.precision) as single,
    ):
        together, alone = Way("shared launches", batched), Way("one launch each", single)
        for _ in range(options.rounds):
            for way in (together, alone):
                way.round(frame, boxes)
        points, expected = (points_of(way.round(frame, boxes)) for way in (together, alone))

        def boxes_of(place: int) -> FrameBoxes:
            return FrameBoxes(boxes.boxes[place : place + 1], boxes.scores[:1])

        each = [points_of(batched(frame.image, boxes_of(place)))[0] for place in range(options.people)]
        print(f"{options.people} people, {options.precision}, {batched.walk.batch} looks a launch")
        print(f"{batched.engines['main'].name}, medians of {options.rounds} rounds")
    ratios: dict[str, float] = {}
    for what in ("inference", "whole frame"):
        for by, called in enumerate(("clock", "processor")):
            slow, quick = (way.median(what, by) for way in (alone, together))
            ratios[f"{what}, {called}"] = slow / quick
            print(f"  {what:12} {called:10} ratio {slow / quick:.2f}")
            for way, taken in ((alone, slow), (together, quick)):
                print(
                    f"    {way.name:16} {taken:7.1f} ms, {1e3 * options.people / taken:5.0f} people a second"
                )
    shift = float(np.abs(points - expected).max())
    print(f"  largest shift of a point between the two files: {shift:.1e} pixels")
    same = np.array_equal(points, np.stack(each))
    print(f"  people of a launch are what each is alone, to the bit: {same}")
    met = same and ratios["inference, clock"] >= TARGET
    print(f"  target: {TARGET} times the rate, equal points: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()

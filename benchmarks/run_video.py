"""`edgewise run` on a 1080p video beside inference alone, in one run.

    python benchmarks/run_video.py BUNDLE [--precision int8] [--frames N] [--rounds N] [--threads N]

Makes its own synthetic 1080p video. Both figures come from the same session: inference alone repeats the
engine on one prepared frame; the run decodes, preprocesses, infers, decodes instances and writes COCO results
with RLE masks, overlay off, as `edgewise run BUNDLE VIDEO --no-overlay --output FOLDER` does. The two take
turns, and the ratio is that of the medians. Beside each rate stands the processor time of a frame over all
threads, those that spin included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgewise.runtime.command.sinks import CocoResults
from edgewise.runtime.engines.options import OnnxRuntimeOptions
from edgewise.runtime.frames.sources import open_source
from edgewise.runtime.walk.session import Session

TARGET = 0.9
WIDTH, HEIGHT = 1920, 1080


@dataclass(frozen=True)
class Rate:
    """Frames per second, and milliseconds of processor time a frame over all threads."""

    per_second: float
    processor_ms: float


def write_video(path: Path, frames: int, seed: int = 0) -> None:
    """Shapes that move over a textured background, so that the decoder has real work."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3)).astype(np.uint8)
    background = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    shapes = [
        (generator.integers(0, (WIDTH, HEIGHT)), generator.integers(-20, 21, 2), int(size), colour.tolist())
        for size, colour in zip(
            generator.integers(40, 260, 12), generator.integers(0, 256, (12, 3)), strict=True
        )
    ]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (WIDTH, HEIGHT))
    for index in range(frames):
        frame = np.roll(background, 3 * index, axis=1)
        for start, speed, size, colour in shapes:
            x, y = (start + speed * index) % (WIDTH, HEIGHT)
            cv2.circle(frame, (int(x), int(y)), size // 2, colour, cv2.FILLED)
        writer.write(frame)
    writer.release()


def inference_rate(session: Session, video: Path, frames: int) -> Rate:
    """The engine alone, on the video's first frame."""
    walk = session.walk
    prepared = walk.prepare(next(iter(open_source(str(video)))))
    walk.infer(prepared)
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(frames):
        walk.infer(prepared)
    return _rate(frames, start, processor)


def run_rate(session: Session, video: Path, folder: Path) -> Rate:
    """Everything that a run does, from the first result to the last."""
    sink = CocoResults(folder / "results.json", folder / "images.json")
    start = processor = 0.0
    done = -1
    for frame, result in session.stream(open_source(str(video))):
        sink.write(frame, result)
        done += 1
        if done == 0:
            start, processor = time.perf_counter(), time.process_time()
    rate = _rate(done, start, processor)
    sink.close()
    return rate


def _rate(frames: int, start: float, processor: float) -> Rate:
    wall, used = time.perf_counter() - start, time.process_time() - processor
    return Rate(frames / wall, used / frames * 1000)


def median(rates: list[Rate]) -> Rate:
    """Median of both figures, each on its own."""
    return Rate(
        statistics.median(rate.per_second for rate in rates),
        statistics.median(rate.processor_ms for rate in rates),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    alone: list[Rate] = []
    whole: list[Rate] = []
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "synthetic.mp4"
        write_video(video, options.frames)
        with Session.open(
            options.bundle, precision=options.precision, backend=OnnxRuntimeOptions(threads=options.threads)
        ) as session:
            name = next(iter(session.engines.values())).name
            for _ in range(options.rounds):
                alone.append(inference_rate(session, video, options.frames))
                whole.append(run_rate(session, video, Path(folder)))
    print(f"{options.bundle}, {options.precision}, {name}, {WIDTH}x{HEIGHT}")
    for label, rate in (("inference alone", median(alone)), ("edgewise run", median(whole))):
        print(f"{label:16} {rate.per_second:8.2f} frames/s {rate.processor_ms:8.1f} ms of processor a frame")
    ratio = median(whole).per_second / median(alone).per_second
    print(f"ratio {ratio:.3f}, target {TARGET}: {'reached' if ratio >= TARGET else 'MISSED'}")
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())

"""Preprocessing 1920x1080 to 550x550: the runtime's way beside resize, pad and float normalisation.

    python benchmarks/preprocess.py

Both ways run in this one process, in turns. The last line compares what the network's first convolution would
see: the runtime's bytes, and the float path before mean and scale, in uint8 steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np

from edgewise.runtime.contract.preprocessing import Stretch
from edgewise.runtime.frames.preprocessing import preprocess

SIZE = 550
MEAN = np.array([103.94, 116.78, 123.68], np.float32)
STD = np.array([57.38, 57.12, 58.40], np.float32)


def street(seed: int) -> np.ndarray:
    """A 1080p frame with smooth regions and fine texture."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8), (1920, 1080))
    return cv2.add(coarse, rng.integers(0, 64, (1080, 1920, 3), dtype=np.uint8))


def float_resize(frame: np.ndarray) -> np.ndarray:
    """The usual float path up to the point where mean and scale follow."""
    return cv2.resize(frame.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)


def float_normalised(frame: np.ndarray) -> np.ndarray:
    """Resize, pad (nothing here), normalise, RGB, NCHW: float32 [1, 3, 550, 550]."""
    resized = cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    padded = cv2.copyMakeBorder(resized, 0, 0, 0, 0, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    normalised = (padded.astype(np.float32) - MEAN) / STD
    return np.ascontiguousarray(normalised[..., ::-1].transpose(2, 0, 1)[None])


def milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    frame, spec = street(0), Stretch(size=(SIZE, SIZE))
    buffer = np.empty((1, SIZE, SIZE, 3), np.uint8)
    ways: dict[str, Callable[[], object]] = {
        "resize + pad + float normalise": lambda: float_normalised(frame),
        "edgewise (normalisation in the graph)": lambda: preprocess(spec, frame, out=buffer),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 5):
        for name, way in ways.items():
            taken = milliseconds(way)
            if turn >= 5:
                times[name].append(taken)
    threads = cv2.getNumThreads()
    print(f"1920x1080 -> {SIZE}x{SIZE}, {repeats} turns, OpenCV {cv2.__version__}, {threads} threads")
    for name, taken in times.items():
        print(f"  {name:40} median {statistics.median(taken):7.3f} ms   least {min(taken):7.3f} ms")
    slow, fast = times.values()
    print(
        f"  ratio edgewise / float: median 1/{statistics.median(slow) / statistics.median(fast):.1f}, "
        f"least 1/{min(slow) / min(fast):.1f}   (target 1/8)"
    )
    tensor, _ = preprocess(spec, frame)
    step = np.abs(tensor[0] - float_resize(frame)).max()
    print(f"  largest difference of the network input: {step:.3f} uint8 steps   (target 1)")


if __name__ == "__main__":
    main()

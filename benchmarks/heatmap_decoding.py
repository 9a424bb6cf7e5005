"""20 people's heatmaps to points of the frame: the runtime beside a loop over people and joints.

    python benchmarks/heatmap_decoding.py

The loop is the way of the published repositories (hourglass, simple baselines), written here from their
description: for each person the inverse of the crop's affine map, for each joint the maximum of its map, a
quarter of a cell towards the greater neighbour on each axis, and one product of the affine map with the
point. Both keep continuous coordinates and cell centres. Both run in this process, one after the other, on
the same maps. Beside the time of the clock stands the processor time of the calling thread, which other
programs on the machine disturb less. The third row is the whole of `decode_keypoints`, which also gathers
the outputs of 20 runs and checks the result. DARK does more than the loop's quarter rule and has no target.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from edgewise.runtime.contract.manifest import (
    ClassLabel,
    DType,
    Graph,
    KeypointLayout,
    Manifest,
    Provenance,
    TensorSpec,
)
from edgewise.runtime.contract.postprocessing import CellPlace, HeatmapDecoding, HeatmapKeypoints
from edgewise.runtime.contract.preprocessing import AffineCrop
from edgewise.runtime.frames.looks import FrameBoxes, Looks, take_looks
from edgewise.runtime.kinds.keypoints.cells import cells_to_source
from edgewise.runtime.kinds.keypoints.decode import decode_heatmaps, decode_keypoints
from edgewise.runtime.pixels.geometry import Geometry

PEOPLE, JOINTS, MAP = 20, 17, (64, 48)
NETWORK = (256, 192)
FRAME = (1080, 1920)
SIGMA = 2.0
TARGET = 1 / 10
LOOP, QUARTER, DARK = "loop over people and joints", "edgewise, quarter rule", "edgewise, DARK"
WHOLE = "the same, outputs to result"


def gaussians(rng: np.random.Generator) -> np.ndarray:
    """float32 [people, joints, h, w]: a Gaussian about a random point, with noise and some empty maps."""
    centres = rng.uniform(0, MAP[::-1], (PEOPLE, JOINTS, 2))
    height = rng.uniform(0.2, 1.0, (PEOPLE, JOINTS, 1, 1))
    x, y = np.arange(MAP[1]) + 0.5, np.arange(MAP[0])[:, None] + 0.5
    squared = (x - centres[..., 0, None, None]) ** 2 + (y - centres[..., 1, None, None]) ** 2
    maps = height * np.exp(-squared / (2 * SIGMA**2)) + rng.normal(0, 0.005, (PEOPLE, JOINTS, *MAP))
    return maps.astype(np.float32)


def crops(rng: np.random.Generator) -> Looks:
    """The looks around random boxes of the frame, as the runtime makes them."""
    corners = rng.uniform(0, [FRAME[1] - 300, FRAME[0] - 500], (PEOPLE, 2))
    sides = rng.uniform([60, 120], [300, 500], (PEOPLE, 2))
    spec, frame = AffineCrop(size=NETWORK), np.zeros((*FRAME, 3), np.uint8)
    boxes = FrameBoxes(np.concatenate([corners, corners + sides], axis=1), np.ones(PEOPLE, np.float32))
    return take_looks(spec, frame, boxes)


def described() -> Manifest:
    """The model that the heatmaps could come from."""
    graph = Graph(
        inputs=(TensorSpec(name="image", dtype=DType.UINT8, shape=(1, *NETWORK, 3)),),
        outputs=(TensorSpec(name="heatmaps", dtype=DType.FLOAT32, shape=(1, JOINTS, *MAP)),),
    )
    return Manifest(
        writer="benchmark",
        name="people",
        classes=(ClassLabel(id=1, name="person"),),
        keypoints=KeypointLayout(names=tuple(f"point {index}" for index in range(JOINTS))),
        provenance=Provenance(definition="benchmark"),
        graphs={"main": graph},
        preprocess=AffineCrop(size=NETWORK),
        postprocess=HeatmapKeypoints(),
    )


def loop_over_joints(heatmaps: np.ndarray, geometries: list[Geometry]) -> tuple[np.ndarray, np.ndarray]:
    """Points [people, joints, 2] and scores, one joint at a time."""
    people, joints, height, width = heatmaps.shape
    points, scores = np.zeros((people, joints, 2)), np.zeros((people, joints), np.float32)
    for person in range(people):
        geometry = geometries[person]
        back = cv2.invertAffineTransform(geometry.matrix)
        stride_x, stride_y = geometry.network_size[1] / width, geometry.network_size[0] / height
        for joint in range(joints):
            heatmap = heatmaps[person, joint]
            flat = int(np.argmax(heatmap))
            px, py = int(np.floor(flat % width)), int(np.floor(flat / width))
            scores[person, joint] = max(float(heatmap[py, px]), 0.0)
            place = np.array([px, py], np.float64)
            if 0 < px < width - 1 and 0 < py < height - 1:
                difference = np.array(
                    [
                        heatmap[py, px + 1] - heatmap[py, px - 1],
                        heatmap[py + 1, px] - heatmap[py - 1, px],
                    ]
                )
                place += np.sign(difference) * 0.25
            place = (place + 0.5) * [stride_x, stride_y]
            points[person, joint] = np.dot(back, np.array([place[0], place[1], 1.0]))
    return points, np.minimum(scores, 1)


def all_at_once(
    heatmaps: np.ndarray, geometries: list[Geometry], decoding: HeatmapDecoding
) -> tuple[np.ndarray, np.ndarray]:
    cells, scores = decode_heatmaps(heatmaps, decoding)
    return cells_to_source(CellPlace.CENTRE, cells, MAP, geometries), scores


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call after warm-up: of the clock, and of the processor for this thread."""

    median: float
    processor: float


def repeated(function: Callable[[], object], repeats: int) -> Times:
    for _ in range(5):
        function()
    clock, processor = [], []
    for _ in range(repeats):
        start, worked = time.perf_counter(), time.thread_time()
        function()
        processor.append((time.thread_time() - worked) * 1e3)
        clock.append((time.perf_counter() - start) * 1e3)
    return Times(statistics.median(clock), statistics.median(processor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    heatmaps, looks = gaussians(rng), crops(rng)
    geometries = [look.geometry for look in looks.looks]
    outputs = [{"heatmaps": maps[None]} for maps in heatmaps]
    manifest = described()

    def whole() -> tuple[np.ndarray, np.ndarray]:
        people = decode_keypoints(HeatmapKeypoints(), manifest, looks, outputs)
        return people.points, people.point_scores

    ways: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
        LOOP: lambda: loop_over_joints(heatmaps, geometries),
        QUARTER: lambda: all_at_once(heatmaps, geometries, HeatmapDecoding.QUARTER_PIXEL),
        WHOLE: whole,
        DARK: lambda: all_at_once(heatmaps, geometries, HeatmapDecoding.DARK),
    }
    times = {name: repeated(way, options.repeats) for name, way in ways.items()}
    print(f"{PEOPLE} people, {JOINTS} maps of {MAP[0]}x{MAP[1]} each, medians of {options.repeats} calls")
    for name, taken in times.items():
        clock, processor = times[LOOP].median / taken.median, times[LOOP].processor / taken.processor
        print(
            f"  {name:28} clock {taken.median:6.3f} ms, ratio 1/{clock:4.1f}   "
            f"processor {taken.processor:6.3f} ms, ratio 1/{processor:4.1f}"
        )
    (points, scores), (expected, wanted) = ways[QUARTER](), ways[LOOP]()
    print(f"  largest coordinate difference, quarter rule: {np.abs(points - expected).max():.1e} pixels")
    print(f"  scores equal: {np.array_equal(scores, wanted)}")
    met = all(
        quick <= TARGET * slow
        for quick, slow in (
            (times[QUARTER].median, times[LOOP].median),
            (times[QUARTER].processor, times[LOOP].processor),
        )
    )
    verdict = "met" if met else "MISSED"
    print(f"  target: quarter rule in at most 1/{1 / TARGET:.0f} of the loop's time, by both: {verdict}")


if __name__ == "__main__":
    main()

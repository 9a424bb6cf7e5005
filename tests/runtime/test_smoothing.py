"""The One Euro filter against the algorithm as printed, identities, and `edgewise run --smooth`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewise.runtime.contract.manifest import ClassLabel, KeypointLayout
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.kinds.keypoints.smoothing import KEPT, PointSmoother
from edgewise.runtime.results.kind import Smoothing

from .pose_bundle import BOXES, PEOPLE, build_pose_bundle, person_frame
from .test_cli import Verb, edgewise

__all__ = ["edgewise"]

LABELS = (ClassLabel(id=1, name="person"), ClassLabel(id=2, name="dog"))
LAYOUT = KeypointLayout(names=("head", "foot"))


class LowPass:
    def __init__(self) -> None:
        self.last: float | None = None

    def filter(self, value: float, alpha: float) -> float:
        self.last = value if self.last is None else alpha * value + (1 - alpha) * self.last
        return self.last


class OneEuro:
    """Algorithm 1 of the paper for one coordinate, with the rate of each sample."""

    def __init__(self, mincutoff: float, beta: float, dcutoff: float) -> None:
        self.mincutoff, self.beta, self.dcutoff = mincutoff, beta, dcutoff
        self.x, self.dx = LowPass(), LowPass()

    def filter(self, value: float, rate: float) -> float:
        dx = 0.0 if self.x.last is None else (value - self.x.last) * rate
        edx = self.dx.filter(dx, self.alpha(rate, self.dcutoff))
        return self.x.filter(value, self.alpha(rate, self.mincutoff + self.beta * abs(edx)))

    @staticmethod
    def alpha(rate: float, cutoff: float) -> float:
        tau, te = 1 / (2 * math.pi * cutoff), 1 / rate
        return 1 / (1 + tau / te)


def people(points: np.ndarray, boxes: np.ndarray, classes: list[int] | None = None) -> Keypoints:
    count = len(boxes)
    return Keypoints(
        points=points.reshape(count, 2, 2).astype(np.float32),
        point_scores=np.full((count, 2), 0.9, np.float32),
        boxes=boxes.reshape(count, 4).astype(np.float32),
        scores=np.full(count, 0.8, np.float32),
        classes=np.array(classes or [0] * count, np.int32),
        labels=LABELS,
        layout=LAYOUT,
        frame_size=(200, 400),
    )


BOX = np.array([[10.0, 10, 60, 150]])
FAR = np.array([[210.0, 10, 260, 150]])


def test_every_coordinate_goes_through_the_published_filter() -> None:
    """At uneven times, slow and fast, for two people at once."""
    rng = np.random.default_rng(4)
    smooth = PointSmoother(Smoothing(cutoff=0.8, beta=0.02, derivative_cutoff=1.3))
    wanted = [OneEuro(0.8, 0.02, 1.3) for _ in range(8)]
    boxes, time = np.concatenate([BOX, FAR]), 3.0
    points = rng.uniform(20, 140, 8)
    for step in range(30):
        seconds = float(rng.uniform(0.01, 0.2))
        time += seconds
        points += rng.normal(0, 0.3 if step < 15 else 25, 8)
        expected = [
            one.filter(x, 1 / seconds) for one, x in zip(wanted, points.astype(np.float32), strict=True)
        ]
        order = [0, 1] if step % 2 else [1, 0]
        found = people(points.reshape(2, 4)[order], boxes[order])
        result = smooth(found, time)
        np.testing.assert_allclose(result.points[order].ravel(), expected, rtol=1e-5)
        np.testing.assert_array_equal(result.boxes, found.boxes)


def test_what_rests_is_smoothed_and_what_moves_follows() -> None:
    rng = np.random.default_rng(1)
    smooth = PointSmoother(Smoothing())
    resting = [smooth(people(50 + rng.normal(0, 2, 4), BOX), i / 30).points for i in range(90)]
    assert np.std(resting[30:], axis=0).max() < 1
    smooth = PointSmoother(Smoothing(beta=0.1))
    moving = [smooth(people(np.full(4, 20 + 3.0 * i), BOX), i / 30).points for i in range(90)]
    assert np.abs(moving[-1] - (20 + 3.0 * 89)).max() < 6


def still(smooth: PointSmoother, found: Keypoints, time: float) -> np.ndarray:
    """Whether each person's points came back as they were: a filter that begins."""
    return (smooth(found, time).points == found.points).all(axis=(1, 2))


def test_who_is_who() -> None:
    """Somebody new begins anew: elsewhere, of another class, or after a while."""
    first = np.full(4, 50.0)
    smooth = PointSmoother(Smoothing())
    assert still(smooth, people(first, BOX), 0.0).all()
    assert not still(smooth, people(first + 9, BOX + 5), 0.1).any()
    assert still(smooth, people(first + 9, FAR), 0.2).all()
    # The first one was not seen in one frame, and is known still; a dog in the same place is nobody's.
    both = people(np.stack([first, first]), np.concatenate([BOX + 5, BOX + 5]), [1, 0])
    assert still(smooth, both, 0.3).tolist() == [True, False]
    assert still(smooth, people(first, BOX), 0.3 + 1.1 * KEPT).all()
    assert len(smooth(people(np.zeros(0), np.zeros((0, 4))), 9.0)) == 0


def test_two_frames_of_one_time_are_no_division_by_nothing() -> None:
    smooth = PointSmoother(Smoothing())
    for _ in range(3):
        result = smooth(people(np.full(4, 50.0), BOX), 1.0)
    assert np.isfinite(result.points).all()


# ---------------------------------------------------------------- the command


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two people who shake."""
    rng = np.random.default_rng(2)
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20, (240, 160))
    for _ in range(12):
        writer.write(person_frame(PEOPLE + rng.normal(0, 3, (2, 1, 2))))
    writer.release()
    return path


def boxes_file(folder: Path) -> Path:
    sides = np.concatenate([BOXES[:, :2], BOXES[:, 2:] - BOXES[:, :2]], axis=1).tolist()
    rows = [
        {"image_id": image, "category_id": 1, "bbox": box, "score": 1.0}
        for image in range(12)
        for box in sides
    ]
    (folder / "boxes.json").write_text(json.dumps(rows))
    return folder / "boxes.json"


def test_run_smooths_where_it_is_asked_to(edgewise: Verb, clip: Path, tmp_path: Path) -> None:
    bundle, boxes = build_pose_bundle(tmp_path / "pose"), boxes_file(tmp_path)
    spread = {}
    for name, options in (("plain", ()), ("smooth", ("--smooth",)), ("smoother", ("--smooth-cutoff", "0.2"))):
        status, _, error = edgewise("run", bundle, clip, "--boxes", boxes, "-o", tmp_path / name, *options)
        assert status == 0, error
        records = json.loads((tmp_path / name / "results.json").read_text())
        assert len(records) == 24
        spread[name] = np.std([record["keypoints"][:2] for record in records[::2]], axis=0).max()
    assert spread["smoother"] < 0.7 * spread["smooth"] < 0.7 * spread["plain"]


def test_what_cannot_be_smoothed(edgewise: Verb, bundle_folder: Path, clip: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "picture.png"), person_frame(PEOPLE))
    pose = build_pose_bundle(tmp_path / "pose")
    for bundle, source, says in (
        (pose, tmp_path / "picture.png", "do not follow one another"),
        (bundle_folder, clip, "have no points to smooth"),
    ):
        status, _, error = edgewise("run", bundle, source, "--smooth")
        assert status == 1
        assert says in error

"""Boxes with points that the graph gives become faces of the frame, and the boxes of a model of landmarks."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgewise.runtime.contract.manifest import ClassLabel, KeypointLayout, Manifest
from edgewise.runtime.contract.postprocessing import BoxedPoints
from edgewise.runtime.decoding.decode import decode_result, looks_of
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.system.errors import ResultError
from edgewise.runtime.walk.box_sources import DetectorBoxes

from .conftest import detector_manifest

LAYOUT = KeypointLayout(names=("right_eye", "left_eye", "nose"))
FRAME = np.zeros((64, 96, 3), np.uint8)
"""The network's 32 x 48, doubled."""


def manifest() -> Manifest:
    return msgspec.structs.replace(
        detector_manifest({}),
        postprocess=BoxedPoints(settled="settled"),
        classes=(ClassLabel(id=1, name="face"),),
        keypoints=LAYOUT,
    )


def outputs(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """The worse face in the first slot, an empty slot, the better one, which reaches out of the frame."""
    points = np.zeros((1, 3, 3, 2), np.float32)
    points[0, 0] = [[10, 8], [20, 8], [15, 12]]
    points[0, 2] = [[36, 10], [50, 10], [42, 14]]
    return {
        "boxes": np.array([[[8, 4, 24, 20], [0, 0, 0, 0], [30, 4, 54, 24]]], np.float32),
        "scores": np.array([[0.3, 0, 0.9]], np.float32),
        "classes": np.zeros((1, 3), np.int32),
        "points": points,
        "settled": np.ones(1, np.int32),
        **changes,
    }


def decoded(given: dict[str, np.ndarray]) -> Keypoints:
    found = decode_result(manifest(), looks_of(manifest(), FRAME), [given])
    assert isinstance(found, Keypoints)
    return found


def test_faces_come_best_first_with_their_own_points() -> None:
    found = decoded(outputs())
    assert found.boxes.tolist() == [[60, 8, 96, 48], [16, 8, 48, 40]]
    assert found.points[0].tolist() == [[72, 20], [100, 20], [84, 28]], "points are not held inside the frame"
    assert found.points[1].tolist() == [[20, 16], [40, 16], [30, 24]]
    np.testing.assert_allclose(found.scores, [0.9, 0.3])
    assert (found.point_scores == 1).all()
    assert found.settled
    assert len(found.above(found.display_threshold)) == 1
    assert not decoded(outputs(settled=np.zeros(1, np.int32))).settled


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.full((1, 3, 3, 2), np.nan, np.float32), "'points' holds a coordinate that is not finite"),
        (np.zeros((1, 3, 5, 2), np.float32), r"'points' has the shape \[1, 3, 5, 2\]"),
        (np.zeros((1, 3, 3, 2), np.float16), "'points' is float16"),
    ],
)
def test_wrong_points_are_refused(points: np.ndarray, message: str) -> None:
    with pytest.raises(ResultError, match=message):
        decoded(outputs(points=points))


def test_nothing_in_empty_slots_is_looked_at() -> None:
    points = outputs()["points"]
    points[0, 1] = np.nan
    assert len(decoded(outputs(points=points))) == 2


def test_faces_are_the_boxes_of_a_model_of_landmarks() -> None:
    class Detector:
        def __init__(self) -> None:
            self.manifest = manifest()

        def reset(self) -> None: ...

        def __call__(self, image: np.ndarray) -> Keypoints:
            return decoded(outputs())

    source = DetectorBoxes(Detector(), "face", least_score=0.2)  # type: ignore[arg-type]
    looked_at = source.boxes(Frame(0, "frame", FRAME, 0.0))
    assert looked_at.boxes.tolist() == [[60, 8, 96, 48], [16, 8, 48, 40]]

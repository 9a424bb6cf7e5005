"""Faces with five points: from WFLW's 98, from WIDER FACE's `label.txt`, and how found ones are measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewise.models.data.face_labels import FIVE_NAMES
from edgewise.models.scenes import render_face_scene, write_face_dataset
from edgewise.models.tasks.keypoints.faces_dataset import CocoFaces
from edgewise.models.tasks.keypoints.faces_metric import FacePrecision
from edgewise.runtime.system.errors import DatasetError

LANDMARKS = "12 14 0.0 20 14 0.0 16 18 0.0 13 22 0.0 19.5 22 0.0"
LABELS = f"""# 0--Parade/first.png
10 10 12 15 {LANDMARKS} 0.82
30 5 6 7 {" ".join(["-1.0"] * 15)} 0.3
# second.png
# third.png
4 4 0 9 {" ".join(["-1.0"] * 15)}
5 6 7 8
"""


@pytest.fixture
def wider(tmp_path: Path) -> Path:
    (tmp_path / "images" / "0--Parade").mkdir(parents=True)
    for name in ("0--Parade/first.png", "second.png", "third.png"):
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((40, 60, 3), np.uint8))
    (tmp_path / "label.txt").write_text(LABELS)
    return tmp_path / "label.txt"


def test_wider_face_with_landmarks(wider: Path) -> None:
    faces = CocoFaces.open(wider)
    assert faces.layout.names == FIVE_NAMES
    assert [image.file_name for image in faces.images] == ["0--Parade/first.png", "second.png", "third.png"]
    first = faces.example(0)
    np.testing.assert_allclose(first.boxes, [[10, 10, 22, 25], [30, 5, 36, 12]])
    assert first.points is not None
    np.testing.assert_allclose(first.points[0, 4], [20, 22.5, 2])
    assert not first.points[1, :, 2].any()
    assert len(faces.example(2).boxes) == 1, "a face without extent is no face"
    assert faces.sample_count == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("5 6 7 8\n", "5 6 7\n", "3 numbers"),
        ("5 6 7 8\n", "5 6 -7 8\n", "impossible"),
        ("5 6 7 8\n", "5 6 seven 8\n", "no number"),
        ("5 6 7 8\n", "5 6 nan 8\n", "impossible"),
        ("# second.png\n", "# third.png\n", "twice"),
        ("second.png", "other.png", "cannot be used"),
    ],
)
def test_broken_lists_are_refused(wider: Path, old: str, new: str, message: str) -> None:
    wider.write_text(LABELS.replace(old, new))
    with pytest.raises(DatasetError, match=message):
        CocoFaces.open(wider)


def test_five_of_98_points(tmp_path: Path) -> None:
    folder = write_face_dataset(tmp_path / "faces", 3, 5, 128)
    faces = CocoFaces.open(folder)
    assert faces.layout.names == FIVE_NAMES
    assert not faces.one_sided
    for index in range(3):
        scene = render_face_scene(5, index, (128, 128))
        wanted = scene.landmarks[:, [96, 97, 54, 76, 82]]
        points = faces.example(index).points
        assert points is not None
        seen = wanted[..., 2] > 0
        np.testing.assert_allclose(points[seen][:, :2], wanted[seen][:, :2], atol=2e-3)


def test_found_faces_are_measured(tmp_path: Path) -> None:
    faces = CocoFaces.open(write_face_dataset(tmp_path / "faces", 8, 5, 128))
    whole, missing, moved = (FacePrecision().begin(faces) for _ in range(3))
    for index in range(8):
        truth = faces.truth(index)
        whole.add(index, truth)
        missing.add(index, truth[:1] if len(truth) > 1 else truth)
        moved.add(index, replace(truth, points=truth.points + np.float32(0.5)))
    assert whole.value().value == pytest.approx(1.0)
    assert whole.value().parts["NME box"] == pytest.approx(0.0, abs=1e-4)
    assert missing.value().value < 0.95
    assert moved.value().value == pytest.approx(1.0)
    assert 0.005 < moved.value().parts["NME box"] < 0.05

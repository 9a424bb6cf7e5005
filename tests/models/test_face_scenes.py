"""Scenes of faces: landmarks lie where they are drawn, in the layout that the dataset readers expect."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from edgewise.models.data.face_labels import WFLW_FACE
from edgewise.models.scenes import render_face_scene, write_face_dataset
from edgewise.models.scenes.face_dataset import LARGEST_SHARE, SMALLEST
from edgewise.models.tasks.keypoints.dataset import CocoKeypoints

SERIES = [render_face_scene(11, index) for index in range(40)]


def test_a_seed_means_the_same_pixels_and_landmarks_everywhere() -> None:
    scene = render_face_scene(2024, 8)
    content = scene.image.tobytes() + scene.landmarks.round(3).tobytes()
    assert (
        hashlib.sha256(content).hexdigest()
        == "6a0afb526c264348dfd8f32b614983d5debeca0aafaf752ccaf2a7a6964f1f82"
    )
    assert (render_face_scene(2025, 8).image != scene.image).any()


def test_faces_vary_in_number_and_size_and_lie_in_the_picture() -> None:
    numbers = {len(scene.boxes) for scene in SERIES}
    assert {0, 1, 2, 3} <= numbers
    boxes = np.concatenate([scene.boxes for scene in SERIES])
    heights = boxes[:, 3] - boxes[:, 1]
    assert heights.min() < 1.6 * SMALLEST
    assert heights.max() > 0.7 * LARGEST_SHARE * 256
    assert (boxes >= 0).all()
    assert (boxes <= 256).all()


def test_landmarks_lie_on_what_is_drawn() -> None:
    """Of large faces: pupils are darker than the white beside them, the right side is on the left."""
    seen = 0
    for scene in SERIES:
        grey = scene.image.astype(int).sum(axis=2)
        for points in scene.landmarks:
            x, y = points[:, 0], points[:, 1]
            if (
                np.hypot(x[60] - x[72], y[60] - y[72]) < 40
                or not (points[[*range(60, 76), 96], 2] == 2).all()
            ):
                continue
            seen += 1
            up = np.array([y[60] - y[72], x[72] - x[60]])
            assert (points[16, :2] - points[51, :2]) @ up > 0, "the chin lies below"
            assert np.hypot(x[60] - x[0], y[60] - y[0]) < np.hypot(x[60] - x[32], y[60] - y[32])
            pupil = grey[int(y[96]), int(x[96])]
            corner = 0.5 * (points[96, :2] + points[60, :2])
            inner = 0.5 * (points[96, :2] + points[64, :2])
            assert pupil < max(grey[int(row), int(column)] for column, row in (corner, inner)) - 100
    assert seen > 8


def test_the_file_reads_as_a_keypoint_dataset_in_fractions_of_a_pixel(tmp_path: Path) -> None:
    folder = write_face_dataset(tmp_path / "faces", 6, 5, 128)
    dataset = CocoKeypoints.open(folder)
    assert dataset.layout == WFLW_FACE.keypoints
    assert not dataset.one_sided
    for index in range(6):
        scene = render_face_scene(5, index, (128, 128))
        np.testing.assert_array_equal(dataset.frame(index), scene.image)
        truth = dataset.truth(index)
        labelled = scene.landmarks[..., 2] > 0
        np.testing.assert_allclose(truth.points[labelled], scene.landmarks[labelled][:, :2], atol=2e-3)
        np.testing.assert_array_equal(truth.point_scores > 0, labelled)
        np.testing.assert_allclose(truth.boxes, scene.boxes, atol=5e-3)
    again = write_face_dataset(tmp_path / "again", 6, 5, 128)
    for name in ("keypoints.json", "images/000003.png"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_the_command_writes_faces(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from edgewise.exporter.cli import app

    found = CliRunner().invoke(app, ["scenes", str(tmp_path / "set"), "--of", "faces", "--count", "2"])
    assert found.exit_code == 0, found.output
    assert CocoKeypoints.open(tmp_path / "set").layout == WFLW_FACE.keypoints

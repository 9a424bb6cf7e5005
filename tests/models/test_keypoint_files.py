"""The other forms of file that annotate people and faces: what is read of them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgewise.models.data.augment import NO_AUGMENTATION
from edgewise.models.data.face_labels import IBUG_FACE, WFLW_FACE
from edgewise.models.data.labels import MPII_PEOPLE
from edgewise.models.tasks.keypoints.dataset import CocoKeypoints
from edgewise.models.tasks.keypoints.metric import KeypointAccuracy
from edgewise.runtime.contract.preprocessing import SquareCrop
from edgewise.runtime.system.errors import DatasetError

SIZE = (90, 120)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "0--Parade").mkdir(parents=True)
    for name in ("a.png", "b.png", "0--Parade/c.png"):
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((*SIZE, 3), np.uint8))
    return tmp_path


def places(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform((20, 15), (80, 70), (count, 2)).round(3)


def words(values: np.ndarray) -> str:
    return " ".join(str(value) for value in values.ravel().tolist())


def wflw(folder: Path, lines: list[str]) -> Path:
    (folder / "list_98pt_rect_attr_test.txt").write_text("\n".join(lines) + "\n")
    return folder / "list_98pt_rect_attr_test.txt"


def wflw_lines() -> list[str]:
    rect = "20 15 80 70 1 0 0 1 0 0"
    return [
        f"{words(places(98, 1))} {rect} 0--Parade/c.png",
        f"{words(places(98, 2))} a.png",
        f"{words(places(98, 3))} {rect} 0--Parade/c.png",
    ]


def test_wflws_list(folder: Path) -> None:
    """Two faces of one picture, with boxes, and one without."""
    data = CocoKeypoints.open(wflw(folder, wflw_lines()))
    assert data.vocabulary == WFLW_FACE
    assert [(image.file_name, image.height, image.width) for image in data.images] == [
        ("0--Parade/c.png", *SIZE),
        ("a.png", *SIZE),
    ]
    np.testing.assert_allclose(data.truth(0).points[1], places(98, 3) + 0.5, atol=1e-4)
    np.testing.assert_allclose(data.truth(0).boxes[0], [20, 15, 80, 70])
    low, high = places(98, 2).min(axis=0), places(98, 2).max(axis=0)
    np.testing.assert_allclose(data.truth(1).boxes[0], [*low, *high], atol=1e-4)
    measuring = KeypointAccuracy().begin(data)
    for index in range(2):
        measuring.add(index, data.truth(index))
    assert measuring.value().value == 1
    crop, targets = data.training_pair(
        np.random.default_rng(0), 0, SquareCrop(size=(32, 32), padding=2.0), NO_AUGMENTATION
    )
    assert crop.shape == (32, 32, 3)
    assert (targets.points[:, 2] > 0).all()


def pts(points: np.ndarray) -> str:
    return "\n".join(["version: 1", "n_points: 68", "{", *(words(point) for point in points), "}", ""])


def test_pictures_with_pts_files(folder: Path) -> None:
    """300-W counts from 1."""
    for seed, name in enumerate(("a", "b")):
        (folder / "images" / f"{name}.pts").write_text(pts(places(68, seed)))
    (folder / "list.txt").write_text("a.png\nb.png\n")
    data = CocoKeypoints.open(folder / "list.txt")
    assert data.vocabulary == IBUG_FACE
    np.testing.assert_allclose(data.truth(1).points[0], places(68, 1) - 0.5, atol=1e-4)
    assert "NME inter-ocular" in measured(data)


def measured(data: CocoKeypoints) -> dict[str, float]:
    measuring = KeypointAccuracy().begin(data)
    measuring.add(0, data.truth(0))
    return measuring.value().parts


def mpii() -> list[dict[str, Any]]:
    joints = places(16, 4)
    return [
        {"image": "b.png", "center": [60.0, 40.0], "scale": 0.3, "joints": joints.tolist(),
         "joints_vis": [1] * 10 + [0] * 6},
        {"image": "b.png", "center": [20.0, 50.0], "scale": 0.2, "joints": places(16, 5).tolist(),
         "joints_vis": [1.0] * 16, "head_size": 12.5},
    ]  # fmt: skip


def test_mpiis_list(folder: Path) -> None:
    """From 1, the box of 200 x scale, 15 x scale further down."""
    (folder / "valid.json").write_text(json.dumps(mpii()))
    data = CocoKeypoints.open(folder / "valid.json")
    assert data.vocabulary == MPII_PEOPLE
    truth = data.truth(0)
    np.testing.assert_allclose(truth.points[0], places(16, 4) - 0.5, atol=1e-4)
    np.testing.assert_array_equal(truth.point_scores[0], [1] * 10 + [0] * 6)
    np.testing.assert_allclose(truth.boxes[0], [29.5, 14, 89.5, 74], atol=1e-4)
    assert measured(data)["PCKh@0.5"] == 1
    heads = mpii()
    del heads[1]["head_size"]
    (folder / "valid.json").write_text(json.dumps(heads))
    assert "PCKh@0.5" not in measured(CocoKeypoints.open(folder / "valid.json"))


def whole_body() -> dict[str, Any]:
    names = [f"{side}_{part}" for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
             for side in ("left", "right")]  # fmt: skip

    def of(count: int, seed: int, third: float) -> list[float]:
        return np.insert(places(count, seed), 2, third, axis=1).ravel().tolist()

    person = {"id": 4, "image_id": 7, "category_id": 1, "bbox": [10, 10, 80, 70], "iscrowd": 0, "area": 900.0,
              "keypoints": of(17, 1, 2), "foot_kpts": of(6, 2, 1), "face_kpts": of(68, 3, 0.7),
              "lefthand_kpts": of(21, 4, 0), "righthand_kpts": of(21, 5, 1), "face_valid": True,
              "face_box": [20.0, 15.0, 60.0, 55.0]}  # fmt: skip
    other = {
        **person,
        "id": 5,
        "face_valid": False,
        "face_box": [0.0, 0.0, 0.0, 0.0],
        "face_kpts": [0.0] * 204,
    }
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [person, other],
        "categories": [{"id": 1, "name": "person", "keypoints": ["nose", *names]}],
    }


def test_coco_whole_body(folder: Path) -> None:
    path = folder / "coco_wholebody_val.json"
    path.write_text(json.dumps(whole_body()))
    assert len(CocoKeypoints.open(path).layout.names) == 17
    everything = CocoKeypoints.open(folder / "coco_wholebody_val.json#wholebody")
    assert everything.json == path
    assert len(everything.layout.names) == 133
    assert len(everything.layout.flip_pairs) == (16 + 6 + 42) // 2 + len(IBUG_FACE.keypoints.flip_pairs)  # pyright: ignore
    truth = everything.truth(0)
    np.testing.assert_allclose(truth.points[0, 23:91], places(68, 3) + 0.5, atol=1e-4)
    assert truth.point_scores[0].tolist() == [1] * (17 + 6 + 68) + [0] * 21 + [1] * 21
    faces = CocoKeypoints.open(folder / "coco_wholebody_val.json#face")
    assert faces.vocabulary == IBUG_FACE
    assert len(faces.people(0)) == 1
    np.testing.assert_allclose(faces.truth(0).boxes, [[20, 15, 80, 70]])


def broken_line(change: Callable[[str], str]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        lines = wflw_lines()
        return wflw(folder, [lines[0], "", change(lines[1])])

    return write


def with_pts(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "images" / "a.pts").write_text(text)
        (folder / "list.txt").write_text("a.png\n")
        return folder / "list.txt"

    return write


def broken_mpii(**changes: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        people = mpii()
        people[1] |= changes
        (folder / "valid.json").write_text(json.dumps(people))
        return folder / "valid.json"

    return write


def broken_body(part: str, **changes: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        content = whole_body()
        content["annotations"][0] |= changes
        (folder / "body.json").write_text(json.dumps(content))
        return folder / f"body.json#{part}"

    return write


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (broken_line(lambda line: line.replace("a.png", "missing.png")), r"missing\.png"),
        (broken_line(lambda line: "1 " + line), r"198 words; WFLW's have 197 or 207\n.*_test\.txt:3"),
        (broken_line(lambda line: "nan" + line[line.index(" ") :]), r"in or near any image\n.*_test\.txt:3"),
        (broken_line(lambda line: "x" + line), r"not a number.*\n.*_test\.txt:3"),
        (broken_line(lambda line: line.replace("a.png", "20 15 20 70 0 0 0 0 0 0 a.png")), r"is empty\n.*:3"),
        (
            broken_line(lambda line: line.replace("a.png", "20 15 80 70 0 0 2 0 0 0 a.png")),
            r"neither 0 nor 1\n.*:3",
        ),
        (broken_line(lambda line: "5 5 " * 98 + "a.png"), r"on a line\n.*:3"),
        (lambda folder: wflw(folder, [""]), "the list is empty"),
        (lambda folder: folder / "none.txt", "no such list of faces"),
        (with_pts(pts(places(68)).replace("}", "")), r"do not end with a }\n.*a\.pts"),
        (with_pts(pts(places(67))), r"has 67 points, not 68\n.*a\.pts"),
        (with_pts("{\n1 2 3\n}\n"), r"3 numbers, not 2\n.*a\.pts:2"),
        (with_pts("{\n1 inf\n}\n"), r"in or near any image\n.*a\.pts:2"),
        (broken_mpii(joints=[[1, 2]] * 15), r"MPII's list of people.*\[1\]\.joints"),
        (broken_mpii(scale=0), r"MPII's list of people.*\[1\]\.scale"),
        (broken_mpii(image="no.png"), r"no\.png"),
        (broken_mpii(head_size=-1), r"\[1\]\.head_size"),
        (lambda folder: folder / "annotations.mat", "MATLAB files are not read"),
        (broken_body("hands"), "no part 'hands'"),
        (
            broken_body("wholebody", foot_kpts=[1.0, 2.0, 2.0]),
            "annotation 4 has 384 numbers for 133 keypoints",
        ),
        (broken_body("face", face_box=[1, 2, -3, 4]), "annotation 4 has the impossible box"),
        (broken_body("face", face_kpts=None), "not a COCO WholeBody dataset"),
    ],
)
def test_a_broken_file_says_where(write: Callable[[Path], Path], says: str, folder: Path) -> None:
    with pytest.raises(DatasetError, match=says) as caught:
        CocoKeypoints.open(write(folder))
    assert caught.value.hint

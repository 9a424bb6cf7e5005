"""COCO keypoint datasets: people come back, and their points stay on what they name under every variation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgewise.models.data.augment import NO_AUGMENTATION, Augmentation, swapped
from edgewise.models.scenes import KEYPOINTS, LABELS, render_scene, write_dataset
from edgewise.models.tasks.keypoints.dataset import CocoKeypoints
from edgewise.runtime.contract.preprocessing import AffineCrop, Stretch
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.system.errors import DatasetError

CROP = AffineCrop(size=(64, 48))
VARIED = replace(NO_AUGMENTATION, rotation=40, rescale=0.3, shift=0.1, mirror=0.5)
POINTS = ((40, 30), (72, 34), (38, 80))
"""Left hand, right hand, head of the minimal person: x, y of pixels."""


def _minimal() -> dict[str, Any]:
    numbers = [number for x, y in POINTS for number in (x, y, 2)]
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": 100, "width": 120}],
        "categories": [
            {
                "id": 3,
                "name": "robot",
                "keypoints": ["left_hand", "right_hand", "head"],
                "skeleton": [[1, 3], [2, 3]],
            }
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 3,
                "bbox": [30, 20, 50, 70],
                "area": 3500,
                "keypoints": numbers,
                "num_keypoints": 3,
                "iscrowd": 0,
            }
        ],
    }


def _write(folder: Path, content: Any) -> Path:
    """The picture is a smooth blob of its own colour at each point, so that pixels prove where points are."""
    (folder / "images").mkdir(exist_ok=True)
    rows, columns = np.mgrid[:100, :120].astype(np.float64)
    channels = [255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 50) for x, y in POINTS]
    frame = np.rint(np.stack(channels, axis=2)).astype(np.uint8)
    cv2.imwrite(str(folder / "images" / "a.png"), frame)
    path = folder / "keypoints.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _centroid(channel: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Middle of a blob in continuous pixels."""
    weights = channel.astype(np.float64)
    rows, columns = np.indices(weights.shape) + 0.5
    return float((weights * columns).sum() / weights.sum()), float((weights * rows).sum() / weights.sum())


def test_a_sample_without_variation_is_the_devices_crop(tmp_path: Path) -> None:
    dataset = CocoKeypoints.open(_write(tmp_path, _minimal()))
    crop, targets = dataset.training_pair(np.random.default_rng(0), 0, CROP, NO_AUGMENTATION)
    x1, y1, x2, y2 = dataset.boxes(0).boxes[0].tolist()
    expected, geometry = preprocess(CROP, dataset.frame(0), box=(x1, y1, x2, y2))
    np.testing.assert_array_equal(crop, expected[0])
    points = targets.points.numpy()
    np.testing.assert_allclose(points[:, :2], geometry.to_network(np.array(POINTS) + 0.5), atol=1e-4)
    assert points[:, 2].tolist() == [2, 2, 2]


def test_points_stay_on_their_pixels_under_every_variation(tmp_path: Path) -> None:
    dataset = CocoKeypoints.open(_write(tmp_path, _minimal()))
    mirrored = compared = 0
    for seed in range(60):
        crop, targets = dataset.training_pair(np.random.default_rng(seed), 0, CROP, VARIED)
        points = targets.points.numpy()
        # Blue marks the left hand: mirrored, that is the right hand's blob.
        flipped = _flipped(crop)
        order = (1, 0, 2) if flipped else (0, 1, 2)
        mirrored += flipped
        for index, channel in enumerate(order):
            x, y, visibility = points[index].tolist()
            if visibility and 9 < x < 39 and 9 < y < 55:
                np.testing.assert_allclose(_centroid(crop[..., channel]), (x, y), atol=0.35)
                compared += 1
    assert 15 < mirrored < 45
    assert compared > 60


def _flipped(crop: np.ndarray[Any, Any]) -> bool:
    """Whether the triangle left hand, right hand, head runs the other way round than in the picture."""
    left, right, head = (np.array(_centroid(crop[..., channel])) for channel in range(3))
    first, second = right - left, head - left
    return bool(first[0] * second[1] - first[1] * second[0] < 0)


def test_points_outside_the_crop_and_unlabelled_ones_are_not_learnt(tmp_path: Path) -> None:
    content = _minimal()
    content["annotations"][0]["keypoints"] = [40, 30, 2, 0, 0, 0, 118, 98, 1]
    content["annotations"][0]["bbox"] = [30, 20, 20, 20]
    dataset = CocoKeypoints.open(_write(tmp_path, content))
    _, targets = dataset.training_pair(np.random.default_rng(0), 0, CROP, NO_AUGMENTATION)
    assert targets.points[:, 2].tolist() == [2, 0, 0]
    assert targets.points[1:].abs().sum() == 0
    truth = dataset.truth(0)
    assert truth.point_scores.tolist() == [[1, 0, 1]]
    assert truth.points[0, 0].tolist() == [40.5, 30.5]
    assert truth.records(7)[0]["keypoints"][:2] == [40, 30]


def test_the_layout_is_read_from_the_category(tmp_path: Path) -> None:
    layout = CocoKeypoints.open(_write(tmp_path, _minimal())).layout
    assert layout.flip_pairs == ((0, 1),)
    assert CocoKeypoints.open(_write(tmp_path, _minimal())).remarks == ()
    assert layout.limbs == ((0, 2), (1, 2))
    assert layout.sigmas == ()
    points = np.arange(6.0).reshape(3, 2)
    assert swapped(points, layout.flip_pairs).tolist() == [[2, 3], [0, 1], [4, 5]]
    assert points[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("p1", "p2", "p3"), "no two keypoint names are a left and a right"),
        (("l_eye", "r_eye", "left_ear"), "the other side of left_ear has no keypoint"),
    ],
)
def test_crops_are_not_mirrored_where_left_and_right_are_not_known(
    tmp_path: Path, names: tuple[str, ...], says: str
) -> None:
    dataset = CocoKeypoints.open(_write(tmp_path, _category(keypoints=list(names))))
    assert dataset.remarks == (f"crops are not mirrored: {says}",)
    always = replace(NO_AUGMENTATION, mirror=1.0)
    for seed in range(5):
        crop, _ = dataset.training_pair(np.random.default_rng(seed), 0, CROP, always)
        plain, _ = dataset.training_pair(np.random.default_rng(seed), 0, CROP, NO_AUGMENTATION)
        np.testing.assert_array_equal(crop, plain)


def test_scenes_come_back_as_they_were_rendered(tmp_path: Path) -> None:
    dataset = CocoKeypoints.open(write_dataset(tmp_path / "set", 8, 4, 128))
    assert isinstance(dataset, CocoKeypoints)
    assert dataset.vocabulary.classes == LABELS[:1]
    assert dataset.layout == KEYPOINTS
    people = 0
    for index in range(8):
        scene = render_scene(4, index, (128, 128))
        figures = [thing.keypoints for thing in scene.things if thing.keypoints is not None]
        annotated = dataset.people(index)
        assert len(annotated) == len(figures) == len(dataset.boxes(index)) == len(dataset.truth(index))
        for person, figure in zip(annotated, figures, strict=True):
            np.testing.assert_array_equal(person.points, figure)
        people += len(figures)
    assert people == dataset.sample_count == dataset.object_count > 3


def test_crowds_and_people_without_points_or_box_are_no_samples(tmp_path: Path) -> None:
    content = _minimal()
    person = content["annotations"][0]
    others = [{"iscrowd": 1}, {"keypoints": [0] * 9}, {"bbox": [30, 20, 0, 70]}]
    content["annotations"] += [{**person, "id": 2 + index, **change} for index, change in enumerate(others)]
    dataset = CocoKeypoints.open(_write(tmp_path, content))
    assert dataset.sample_count == len(dataset.people(0)) == 1


def _annotated(**changes: Any) -> dict[str, Any]:
    content = _minimal()
    content["annotations"][0].update(changes)
    return content


def _category(**changes: Any) -> dict[str, Any]:
    content = _minimal()
    content["categories"][0].update(changes)
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "not a COCO keypoint"),
        ({**_minimal(), "images": [], "annotations": []}, "no images"),
        (_category(keypoints=[]), "one category by its keypoints"),
        (_category(keypoints=["a", "a", "b"]), "same name"),
        (_category(skeleton=[[0, 1]]), "skeleton"),
        (_annotated(category_id=5), "category 5"),
        (_annotated(image_id=8), "image 8"),
        (_annotated(bbox=[1, 2, -3, 4]), "impossible box"),
        (_annotated(keypoints=[1, 2, 2]), "3 numbers for 3 keypoints"),
        (_annotated(keypoints=[1, 2, 3] * 3), "visibility other"),
        (_annotated(area=-1), "impossible area"),
        ({**_minimal(), "images": [{"id": 7, "file_name": "b.png", "height": 1, "width": 1}]}, "missing"),
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, content: Any, words: str) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(DatasetError, match=words) as caught:
        CocoKeypoints.open(path)
    assert str(tmp_path) in caught.value.where
    assert caught.value.hint


def test_people_as_converters_write_them(tmp_path: Path) -> None:
    content = _minimal()
    content["categories"].insert(0, {"id": 0, "name": "project", "supercategory": "none"})
    content["categories"][1]["supercategory"] = "project"
    content["annotations"][0] |= {"id": 0, "iscrowd": False, "category_id": 3.0}
    content["annotations"][0].pop("area")
    dataset = CocoKeypoints.open(_write(tmp_path, content))
    assert [label.name for label in dataset.vocabulary.classes] == ["robot"]
    assert [one.extent for one in dataset.people(0)] == [50 * 70]


def test_every_broken_person_is_named_on_opening(tmp_path: Path) -> None:
    content = _minimal()
    person = content["annotations"][0]
    broken = ({"keypoints": [1, 2, 2]}, {"bbox": [1, 2, -3, 4]}, {"id": 1}, {"keypoints": [1e300, 2, 2] * 3})
    content["annotations"] += [{**person, "id": 2 + index, **each} for index, each in enumerate(broken)]
    with pytest.raises(DatasetError) as caught:
        CocoKeypoints.open(_write(tmp_path, content))
    assert all(f"annotation {number} " in caught.value.what for number in (1, 2, 3, 5))


def test_a_model_of_whole_frames_cannot_be_trained_on_people(tmp_path: Path) -> None:
    dataset = CocoKeypoints.open(_write(tmp_path, _minimal()))
    with pytest.raises(DatasetError, match="look at crops"):
        dataset.training_pair(np.random.default_rng(0), 0, Stretch(size=(64, 64)), Augmentation())

"""COCO panoptic datasets: segments, crowds and voids come back, and stay with the picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgewise.models.data.augment import NO_AUGMENTATION, Augmentation
from edgewise.models.scenes import LABELS, STUFF_LABELS, render_scene, write_dataset
from edgewise.models.tasks.panoptic.dataset import CocoPanoptic
from edgewise.runtime.contract.preprocessing import Letterbox, Stretch
from edgewise.runtime.system.errors import DatasetError

BLUE_ID = (1 << 16) + 5
"""Its highest byte stands in the blue channel."""


def _minimal() -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": 6, "width": 8}],
        "categories": [
            {"id": 9, "name": "sky", "isthing": 0},
            {"id": 30, "name": "cat", "isthing": 1},
            {"id": 4, "name": "dog", "isthing": 1},
        ],
        "annotations": [
            {
                "image_id": 7,
                "file_name": "a.png",
                "segments_info": [
                    {"id": 300, "category_id": 9, "iscrowd": 0},
                    {"id": BLUE_ID, "category_id": 30, "iscrowd": 0},
                    {"id": 2, "category_id": 4, "iscrowd": 1},
                ],
            }
        ],
    }


def _ids() -> np.ndarray[Any, Any]:
    ids = np.full((6, 8), 300)
    ids[1:3, 2:5] = BLUE_ID
    ids[4:, 6:] = 2
    ids[5, 0] = 0
    return ids


def _write(folder: Path, content: Any, ids: np.ndarray[Any, Any] | None = None) -> Path:
    ids = _ids() if ids is None else ids
    for name in ("images", "panoptic"):
        (folder / name).mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "images" / "a.png"), np.full((6, 8, 3), 90, np.uint8))
    coded = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=2).astype(np.uint8)
    cv2.imwrite(str(folder / "panoptic" / "a.png"), coded)
    path = folder / "panoptic.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_segments_crowds_and_voids_are_told_apart(tmp_path: Path) -> None:
    dataset = CocoPanoptic.open(_write(tmp_path, _minimal()))
    assert [label.name for label in dataset.vocabulary.classes] == ["dog", "cat", "sky"]
    assert dataset.object_count == 2
    example = dataset.example(0)
    assert example.classes.tolist() == [1]
    assert example.boxes.tolist() == [[2, 1, 5, 3]]
    assert example.crowd_boxes.tolist() == [[6, 4, 8, 6]]
    assert example.semantic is not None
    expected = np.select([_ids() == 300, _ids() == BLUE_ID], [2, 1], -1)
    np.testing.assert_array_equal(example.semantic, expected)
    truth = dataset.truth(0)
    assert truth.names == ("cat", "sky")
    np.testing.assert_array_equal(truth.segments, np.select([expected == 1, expected == 2], [1, 2], 0))


def _segments(**changes: Any) -> dict[str, Any]:
    content = _minimal()
    content["annotations"][0]["segments_info"][0].update(changes)
    return content


def _without_annotation() -> dict[str, Any]:
    return {**_minimal(), "annotations": []}


def _twice() -> dict[str, Any]:
    content = _minimal()
    content["annotations"] *= 2
    return content


def _of_another_image() -> dict[str, Any]:
    content = _minimal()
    content["annotations"][0]["image_id"] = 8
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a COCO panoptic"),
        ({**_minimal(), "images": [], "annotations": []}, "no images"),
        (_segments(category_id=77), "category 77"),
        (_segments(id=2), "a segment id twice"),
        (_segments(id=0), "outside 1"),
        (_without_annotation(), "no annotation"),
        (_twice(), "given twice"),
        (_of_another_image(), "does not list"),
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, content: Any, words: str) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(DatasetError, match=words) as caught:
        CocoPanoptic.open(path)
    assert str(tmp_path) in caught.value.where
    assert caught.value.hint


def test_segments_as_converters_write_them(tmp_path: Path) -> None:
    content = _minimal()
    content["categories"].insert(0, {"id": 0, "name": "all", "supercategory": "none", "isthing": True})
    for category in content["categories"][1:]:
        category |= {"isthing": bool(category["isthing"]), "supercategory": "all"}
    for segment in content["annotations"][0]["segments_info"]:
        segment |= {"iscrowd": bool(segment["iscrowd"]), "id": float(segment["id"])}
    dataset = CocoPanoptic.open(_write(tmp_path, content))
    assert [label.name for label in dataset.vocabulary.classes] == ["dog", "cat", "sky"]
    assert dataset.truth(0).names == ("cat", "sky")


@pytest.mark.parametrize("name", ["images", "categories"])
def test_two_of_one_id_are_refused(tmp_path: Path, name: str) -> None:
    content = _minimal()
    content[name].append(content[name][0])
    with pytest.raises(DatasetError, match=f"several {name} have the same id"):
        CocoPanoptic.open(_write(tmp_path, content))


def test_missing_pictures_of_either_kind_are_named(tmp_path: Path) -> None:
    path = _write(tmp_path, _minimal())
    (tmp_path / "panoptic" / "a.png").unlink()
    with pytest.raises(DatasetError, match="missing") as caught:
        CocoPanoptic.open(path)
    assert "panoptic" in caught.value.where
    with pytest.raises(DatasetError, match="no such annotation file"):
        CocoPanoptic.open(tmp_path / "absent")


@pytest.mark.parametrize(("value", "words"), [(77, "the id 77"), (300, "segment 2 has no pixel")])
def test_a_map_that_disagrees_with_its_table_is_refused(tmp_path: Path, value: int, words: str) -> None:
    ids = _ids()
    ids[4:, 6:] = value
    dataset = CocoPanoptic.open(_write(tmp_path, _minimal(), ids))
    with pytest.raises(DatasetError, match=words):
        dataset.segments(0)


def test_scenes_come_back_as_they_were_rendered(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", 6, 4, 128)
    dataset = CocoPanoptic.open(folder, keep=True)
    assert isinstance(dataset, CocoPanoptic)
    assert dataset.vocabulary.classes == (*LABELS, *STUFF_LABELS)
    for index in (0, 1, 2, 3, 4, 5, 3):
        scene, example = render_scene(4, index, (128, 128)), dataset.example(index)
        assert example.classes.tolist() == [thing.class_index for thing in scene.things]
        for number, mask in enumerate(example.masks):
            np.testing.assert_array_equal(mask, scene.owners == number)
        things = np.array([thing.class_index for thing in scene.things] + [-1])
        expected = np.where(scene.owners >= 0, things[scene.owners], scene.stuff + len(LABELS))
        np.testing.assert_array_equal(example.semantic, expected)


def test_an_identity_preprocessing_changes_nothing(tmp_path: Path) -> None:
    dataset = CocoPanoptic.open(write_dataset(tmp_path / "set", 3, 9, 96))
    rng = np.random.default_rng(0)
    for index in range(3):
        example = dataset.example(index)
        frame, targets = dataset.training_pair(rng, index, Stretch(size=(96, 96)), NO_AUGMENTATION)
        np.testing.assert_array_equal(frame, example.frame)
        np.testing.assert_array_equal(targets.semantic.numpy(), example.semantic)
        np.testing.assert_array_equal(targets.instances.masks.numpy(), example.masks)


@pytest.mark.parametrize("spec", [Stretch(size=(64, 48)), Letterbox(size=(80, 80))])
def test_the_class_map_stays_with_the_masks(tmp_path: Path, spec: Any) -> None:
    """A thing's mask lies on pixels of its class (but for resampled borders), whatever is done to them."""
    dataset = CocoPanoptic.open(write_dataset(tmp_path / "set", 10, 6, (100, 140)))
    strong = replace(Augmentation(), zoom_out=2.0, zoom_in=0.4)
    agreed = covered = 0
    outside = 0
    for seed in range(4):
        for index in range(len(dataset)):
            rng = np.random.default_rng((seed, index))
            frame, targets = dataset.training_pair(rng, index, spec, strong)
            assert frame.shape == (*spec.size, 3)
            semantic = targets.semantic.numpy()
            assert semantic.shape == spec.size
            assert semantic.dtype == np.int64
            assert semantic.min() >= -1
            assert semantic.max() < len(dataset.vocabulary.classes)
            outside += int((semantic == -1).sum())
            for label, mask in zip(targets.instances.classes, targets.instances.masks.numpy(), strict=True):
                agreed += int((semantic[mask] == int(label)).sum())
                covered += int(mask.sum())
    assert covered > 10_000
    assert agreed / covered > 0.97
    assert outside > 0


def test_what_lies_outside_the_picture_is_of_no_class(tmp_path: Path) -> None:
    dataset = CocoPanoptic.open(write_dataset(tmp_path / "set", 1, 6, (64, 128)))
    rng = np.random.default_rng(0)
    _, targets = dataset.training_pair(rng, 0, Letterbox(size=(64, 64)), NO_AUGMENTATION)
    known = targets.semantic.numpy() >= 0
    assert known[16:48].all()
    assert not known[:16].any()
    assert not known[48:].any()

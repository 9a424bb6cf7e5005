"""COCO datasets: every segmentation form, and one clear error for each way a dataset can be broken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from edgewise.models.data.network_input import to_network
from edgewise.models.data.segmentation import CocoRle, decode_segmentation
from edgewise.models.scenes import LABELS, render_scene, write_dataset
from edgewise.models.tasks.instances.dataset import CocoInstances
from edgewise.runtime.contract.preprocessing import Letterbox, Stretch
from edgewise.runtime.system.errors import DatasetError

SQUARE = [[2.0, 1.0, 8.0, 1.0, 8.0, 5.0, 2.0, 5.0]]


def _minimal() -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": 12, "width": 16}],
        "categories": [{"id": 30, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 30,
                "bbox": [2, 1, 6, 4],
                "segmentation": SQUARE,
                "iscrowd": 0,
                "area": 24,
            }
        ],
    }


def _write(folder: Path, content: Any) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "images" / "a.png"), np.full((12, 16, 3), 90, np.uint8))
    path = folder / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _compressed(mask: np.ndarray[Any, Any]) -> CocoRle:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return CocoRle(tuple(rle["size"]), rle["counts"].decode())


def _uncompressed(mask: np.ndarray[Any, Any]) -> CocoRle:
    flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [-1]])
    counts = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat))])).tolist()
    return CocoRle(mask.shape, counts)  # type: ignore[arg-type]


@st.composite
def _masks(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    seed, density = draw(st.integers(0, 2**32)), draw(st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
    return np.random.default_rng(seed).random((height, width)) < density


@given(_masks())
def test_both_run_length_forms_decode_to_the_mask(mask: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(decode_segmentation(_compressed(mask), mask.shape), mask)
    np.testing.assert_array_equal(decode_segmentation(_uncompressed(mask), mask.shape), mask)


def test_polygons_are_filled_as_the_reference_fills_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        polygons = [(rng.random(2 * int(rng.integers(3, 9))) * 40).tolist() for _ in range(2)]
        reference = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 36, 44)))
        np.testing.assert_array_equal(decode_segmentation(polygons, (36, 44)), reference.astype(bool))


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[1.0, 2.0, 3.0, 4.0]],
        [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]],
        CocoRle((4, 4), [3, 4]),
        CocoRle((4, 4), [20, -4]),
        CocoRle((5, 4), [20]),
        CocoRle((4, 4), ""),
        CocoRle((4, 4), "~~~"),
        CocoRle((4, 4), "nonsense"),
        CocoRle((4, 4), "PPPPPPPPPPPPPPPPPPPPPPPPPPP"),
    ],
)
def test_a_broken_segmentation_is_told(segmentation: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_segmentation(segmentation, (4, 4))


def test_a_folder_and_its_file_open_the_same_dataset(tmp_path: Path) -> None:
    path = _write(tmp_path, _minimal())
    for data in (path, tmp_path):
        dataset = CocoInstances.open(data)
        assert [label.name for label in dataset.vocabulary.classes] == ["dog", "cat"]
        example = dataset.example(0)
        assert example.frame.shape == (12, 16, 3)
        assert example.boxes.tolist() == [[2, 1, 8, 5]]
        assert example.classes.tolist() == [1]
        assert example.masks.sum() == 24


def test_crowds_become_regions_without_a_class(tmp_path: Path) -> None:
    content = _minimal()
    content["annotations"].append(
        {
            **content["annotations"][0],
            "id": 2,
            "iscrowd": 1,
            "segmentation": {"size": [12, 16], "counts": [192]},
        }
    )
    example = CocoInstances.open(_write(tmp_path, content)).example(0)
    assert len(example.boxes) == len(example.masks) == 1
    assert example.crowd_boxes.tolist() == [[2, 1, 8, 5]]


def _without(key: str) -> dict[str, Any]:
    return {name: value for name, value in _minimal().items() if name != key}


def _annotated(**changes: Any) -> dict[str, Any]:
    content = _minimal()
    content["annotations"][0].update(changes)
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{not json", "not a COCO"),
        ("[]", "not a COCO"),
        (_without("images"), "images"),
        (_without("annotations"), "annotations"),
        (_without("categories"), "categories"),
        ({**_minimal(), "images": [], "annotations": []}, "no images"),
        ({**_minimal(), "categories": [], "annotations": []}, "no categories"),
        (_annotated(category_id=5), "category 5"),
        (_annotated(image_id=8), "image 8"),
        (_annotated(bbox=[1, 2, 3]), "bbox"),
        (_annotated(bbox=[1, 2, -3, 4]), "impossible box"),
        (_annotated(segmentation="??"), "segmentation"),
        ({**_minimal(), "images": [{"id": 7, "file_name": "b.png", "height": 12, "width": 16}]}, "missing"),
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, content: Any, words: str) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(DatasetError, match=words) as caught:
        CocoInstances.open(path)
    assert str(tmp_path) in caught.value.where
    assert caught.value.hint


def _many(*changes: dict[str, Any]) -> dict[str, Any]:
    """The minimal dataset with further annotations, number 2 and on."""
    content = _minimal()
    first = content["annotations"][0]
    content["annotations"] += [{**first, "id": number, **each} for number, each in enumerate(changes, 2)]
    return content


def test_every_broken_annotation_is_named_on_opening(tmp_path: Path) -> None:
    content = _many(
        {"segmentation": []},
        {},
        {"segmentation": [[1, 2, 3, 4]]},
        {"segmentation": None},
        {"segmentation": {"size": [12, 16], "counts": [5]}},
        {"segmentation": [[1, 2, 3, 4, 1e30, 6]]},
        {"category_id": 99},
        {"id": 3},
        {"segmentation": {"size": [12, 16], "counts": [1 << 62, 1 << 62, 1 << 62, (1 << 62) + 192]}},
        {"bbox": [0, 0, 1e300, 1]},
        {"area": -1},
    )
    with pytest.raises(DatasetError) as caught:
        CocoInstances.open(_write(tmp_path, content))
    named = {int(word) for word in re.findall(r"annotation (\d+)", caught.value.what)}
    assert named == {2, 3, 4, 5, 6, 7, 8, 10, 11, 12}


def test_many_faults_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="50 faults") as caught:
        CocoInstances.open(_write(tmp_path, _many(*[{"segmentation": []}] * 50)))
    assert "and 30 more" in caught.value.what


@pytest.mark.parametrize("name", ["images", "categories"])
def test_two_of_one_id_are_refused(tmp_path: Path, name: str) -> None:
    content = _minimal()
    content[name].append(content[name][0])
    with pytest.raises(DatasetError, match=f"several {name} have the same id"):
        CocoInstances.open(_write(tmp_path, content))


def test_flags_and_numbers_as_converters_write_them(tmp_path: Path) -> None:
    content = _minimal()
    content["images"][0] |= {"id": 7.0, "height": 12.0, "width": 16.0}
    content["annotations"][0] |= {"id": 1.0, "image_id": 7.0, "category_id": 30.0, "iscrowd": False}
    content["annotations"][0].pop("area")
    content["annotations"].append({**content["annotations"][0], "id": 2, "iscrowd": True})
    dataset = CocoInstances.open(_write(tmp_path, content))
    example = dataset.example(0)
    assert (len(example.boxes), len(example.crowd_boxes)) == (1, 1)
    assert [(one["iscrowd"], one["area"]) for one in dataset.records(0)] == [(0, 24), (1, 24)]


def test_a_heading_that_no_annotation_names_is_no_class(tmp_path: Path) -> None:
    content = _minimal()
    for category in content["categories"]:
        category["supercategory"] = "animals"
    content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    names = [label.name for label in CocoInstances.open(_write(tmp_path, content)).vocabulary.classes]
    assert names == ["dog", "cat"]
    content["annotations"][0]["category_id"] = 0
    names = [label.name for label in CocoInstances.open(_write(tmp_path, content)).vocabulary.classes]
    assert names == ["animals", "dog", "cat"]
    # COCO's own person stands under itself.
    content = _minimal()
    content["categories"].append({"id": 1, "name": "person", "supercategory": "person"})
    assert len(CocoInstances.open(_write(tmp_path, content)).vocabulary.classes) == 3


def test_an_annotated_size_is_that_of_the_picture_as_it_is_shown(tmp_path: Path) -> None:
    content = _minimal()
    path = _write(tmp_path, content)
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    stored = cv2.imencode(".jpg", np.full((16, 12, 3), 90, np.uint8))[1].tobytes()
    turned = stored[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + stored[2:]
    (tmp_path / "images" / "a.png").write_bytes(turned)
    assert CocoInstances.open(path).frame(0).shape == (12, 16, 3)
    content["images"][0] |= {"height": 16, "width": 12}
    with pytest.raises(DatasetError, match="16x12 pixels, annotated as 12x16") as caught:
        CocoInstances.open(_turned(tmp_path, content, turned)).frame(0)
    assert "orientation" in caught.value.hint


def _turned(folder: Path, content: dict[str, Any], picture: bytes) -> Path:
    path = _write(folder, content)
    (folder / "images" / "a.png").write_bytes(picture)
    return path


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such annotation file"):
        CocoInstances.open(tmp_path / "absent.json")
    with pytest.raises(DatasetError, match="no such annotation file"):
        CocoInstances.open(tmp_path)


def test_broken_pixels_are_found_when_they_are_asked_for(tmp_path: Path) -> None:
    path = _write(tmp_path, _minimal())
    (tmp_path / "images" / "a.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match="cannot be used: the image is corrupt"):
        CocoInstances.open(path).frame(0)
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(DatasetError, match="5x5"):
        CocoInstances.open(path).frame(0)


def test_kept_examples_are_the_same_as_fresh_ones(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", 5, 2, 96)
    kept, fresh = CocoInstances.open(folder, keep=True), CocoInstances.open(folder)
    for _ in range(2):
        for index in range(5):
            left, right = kept.example(index), fresh.example(index)
            for name in ("frame", "boxes", "classes", "masks", "crowd_boxes"):
                np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def test_scenes_come_back_as_they_were_rendered(tmp_path: Path) -> None:
    dataset = CocoInstances.open(write_dataset(tmp_path / "set", 6, 4, 128))
    assert dataset.vocabulary.classes == LABELS
    for index in range(6):
        scene, example = render_scene(4, index, (128, 128)), dataset.example(index)
        assert example.classes.tolist() == [thing.class_index for thing in scene.things]
        for number, mask in enumerate(example.masks):
            np.testing.assert_array_equal(mask, scene.owners == number)


@pytest.mark.parametrize("spec", [Stretch(size=(64, 48)), Letterbox(size=(80, 80))])
def test_boxes_and_masks_stay_together_in_the_network_input(tmp_path: Path, spec: Any) -> None:
    dataset = CocoInstances.open(write_dataset(tmp_path / "set", 10, 6, (100, 140)))
    seen = 0
    for index in range(len(dataset)):
        frame, targets = to_network(dataset.example(index), spec)
        assert frame.shape == (*spec.size, 3)
        assert targets.masks.shape == (len(targets), *spec.size)
        for box, mask in zip(targets.boxes.numpy(), targets.masks.numpy(), strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert np.abs(tight - box).max() <= 1.5
            seen += 1
    assert seen > 10


def test_an_identity_preprocessing_changes_nothing(tmp_path: Path) -> None:
    dataset = CocoInstances.open(write_dataset(tmp_path / "set", 4, 9, 96))
    for index in range(4):
        example = dataset.example(index)
        frame, targets = to_network(example, Stretch(size=(96, 96)))
        np.testing.assert_array_equal(frame, example.frame)
        np.testing.assert_array_equal(targets.masks.numpy(), example.masks)
        np.testing.assert_array_equal(targets.boxes.numpy(), example.boxes.astype(np.float32))

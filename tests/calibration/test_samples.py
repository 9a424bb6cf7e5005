from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewise.calibration.samples import (
    LEAST_CORRELATION,
    CalibrationSet,
    neighbour_correlation,
    preprocess_sha256,
)
from edgewise.runtime.contract.preprocessing import AffineCrop, Letterbox, Stretch
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.system.errors import CalibrationError

Picture = Callable[[int], np.ndarray]


def test_choice_depends_on_the_seed_alone(images: Path) -> None:
    chosen = CalibrationSet.from_folder(images, count=5, seed=3)
    assert chosen == CalibrationSet.from_folder(images, count=5, seed=3)
    assert [s.name for s in chosen.samples] != [
        s.name for s in CalibrationSet.from_folder(images, count=5, seed=4).samples
    ]
    longer = CalibrationSet.from_folder(images, count=9, seed=3)
    assert longer.samples[:5] == chosen.samples


def test_subfolders_count_and_names_are_relative(images: Path) -> None:
    names = {sample.name for sample in CalibrationSet.from_folder(images, count=12).samples}
    assert len(names) == 12
    assert {"00.png", "more/11.png"} <= names


def test_list_hash_is_that_of_sha256sum(images: Path) -> None:
    chosen = CalibrationSet.from_folder(images, count=3)
    text = "".join(
        f"{hashlib.sha256((images / s.name).read_bytes()).hexdigest()}  {s.name}\n" for s in chosen.samples
    )
    assert chosen.samples_sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_tensors_are_what_the_runtime_preprocesses(images: Path) -> None:
    spec = Letterbox(size=(40, 56))
    chosen = CalibrationSet.from_folder(images, count=4)
    for (name, tensor), sample in zip(chosen.tensors(spec), chosen.samples, strict=True):
        expected, _ = preprocess(spec, cv2.imread(str(sample.path)))
        assert name == sample.name
        np.testing.assert_array_equal(tensor, expected)


def test_coco_lists_the_images(images: Path, tmp_path: Path) -> None:
    annotations = tmp_path / "instances.json"
    listed = ["01.png", "more/09.png", "03.png"]
    annotations.write_text(
        json.dumps({"images": [{"id": i, "file_name": n, "width": 64} for i, n in enumerate(listed)]})
    )
    chosen = CalibrationSet.from_coco(annotations, images, count=3)
    assert {sample.name for sample in chosen.samples} == set(listed)


@pytest.mark.parametrize("name", ["absent.png", "../01.png", "/01.png"])
def test_coco_file_names_stay_in_the_folder(images: Path, tmp_path: Path, name: str) -> None:
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps({"images": [{"id": 1, "file_name": name}]}))
    with pytest.raises(CalibrationError, match=r"image folder"):
        CalibrationSet.from_coco(annotations, images, count=1)


@pytest.mark.parametrize("text", ["", "[]", '{"images": 3}', "{}"])
def test_no_coco_file(images: Path, tmp_path: Path, text: str) -> None:
    annotations = tmp_path / "instances.json"
    with pytest.raises(CalibrationError, match="cannot be read"):
        CalibrationSet.from_coco(annotations, images, count=1)
    annotations.write_text(text)
    with pytest.raises(CalibrationError, match="not a COCO annotation file"):
        CalibrationSet.from_coco(annotations, images, count=1)


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no image to calibrate on"):
        CalibrationSet.from_folder(tmp_path, count=1)
    with pytest.raises(CalibrationError, match="no such folder"):
        CalibrationSet.from_folder(tmp_path / "absent", count=1)


def test_fewer_images_than_asked(images: Path) -> None:
    with pytest.raises(CalibrationError, match="13 calibration images were asked for, 12"):
        CalibrationSet.from_folder(images, count=13)
    with pytest.raises(CalibrationError, match="set of 0 images"):
        CalibrationSet.from_folder(images, count=0)


def test_equal_files_count_once(tmp_path: Path, picture: Picture) -> None:
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), picture(1))
    assert len(CalibrationSet.from_folder(tmp_path, count=1).samples) == 1
    with pytest.raises(CalibrationError, match="1 different ones"):
        CalibrationSet.from_folder(tmp_path, count=2)


def test_overlap_is_found_by_contents(images: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "evaluation.png"
    renamed.write_bytes((images / "more" / "10.png").read_bytes())
    other = tmp_path / "other.png"
    other.write_bytes((images / "more" / "10.png").read_bytes()[:-1] + b"x")
    CalibrationSet.from_folder(images, count=12, exclude=[other])
    with pytest.raises(CalibrationError, match=r"'more/10\.png' is in the evaluation set"):
        CalibrationSet.from_folder(images, count=12, exclude=[other, renamed])
    with pytest.raises(CalibrationError, match="evaluation set cannot be read"):
        CalibrationSet.from_folder(images, count=12, exclude=[tmp_path / "absent.png"])


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("grey", [False, True])
def test_noise_is_refused(tmp_path: Path, suffix: str, grey: bool) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (128, 160, 1 if grey else 3), dtype=np.uint8)
    path = tmp_path / f"noise{suffix}"
    cv2.imwrite(str(path), np.broadcast_to(noise, (128, 160, 3)))
    with pytest.raises(CalibrationError, match="holds noise") as caught:
        CalibrationSet.from_folder(tmp_path, count=1)
    assert caught.value.where == str(path)


def test_grainy_pictures_are_not_noise(picture: Picture) -> None:
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 12, (64, 64, 3))
    grainy = np.clip(picture(3) + grain, 0, 255).astype(np.uint8)
    grey = cv2.cvtColor(grainy, cv2.COLOR_BGR2GRAY).astype(np.float32)
    assert neighbour_correlation(grey) > 2 * LEAST_CORRELATION


def test_constant_images_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(CalibrationError, match="constant"):
        CalibrationSet.from_folder(tmp_path, count=1)


@pytest.mark.parametrize("data", [b"", b"no image", "half"])
def test_unreadable_images_are_named(tmp_path: Path, picture: Picture, data: bytes | str) -> None:
    path = tmp_path / "broken.png"
    cv2.imwrite(str(path), picture(5))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if isinstance(data, str) else data)
    with pytest.raises(CalibrationError) as caught:
        CalibrationSet.from_folder(tmp_path, count=1)
    assert caught.value.where == str(path)


def test_a_file_that_changes_meanwhile(tmp_path: Path, picture: Picture) -> None:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), picture(5))
    chosen = CalibrationSet.from_folder(tmp_path, count=1)
    cv2.imwrite(str(path), picture(6))
    with pytest.raises(CalibrationError, match="changed"):
        list(chosen.tensors(Stretch(size=(32, 32))))


def test_preprocess_hash_tells_preprocessings_apart() -> None:
    assert preprocess_sha256(Stretch(size=(32, 32))) == preprocess_sha256(Stretch(size=(32, 32)))
    assert preprocess_sha256(Stretch(size=(32, 32))) != preprocess_sha256(Letterbox(size=(32, 32)))


# ---------------------------------------------------------------- boxes


def people_file(path: Path, boxes: dict[str, list[list[float]]], crowd: tuple[str, ...] = ()) -> Path:
    names = list(boxes)
    annotations = [
        {"image_id": number, "bbox": box, "iscrowd": int(name in crowd)}
        for number, name in enumerate(names)
        for box in boxes[name]
    ]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_one_annotated_box_of_each_image_is_chosen(images: Path, tmp_path: Path) -> None:
    boxes = {
        "01.png": [[2.0, 3.0, 20.0, 10.0], [30.0, 4.0, 8.5, 9.0]],
        "02.png": [],
        "03.png": [[1.0, 1.0, 5.0, 0.0]],
        "04.png": [[0.0, 0.0, 9.0, 9.0]],
        "05.png": [[5.0, 6.0, 7.0, 8.0]],
    }
    file = people_file(tmp_path / "keypoints.json", boxes, crowd=("04.png",))
    chosen = CalibrationSet.from_coco(file, images, count=2, seed=1, boxes=True)
    found = {sample.name: sample.box for sample in chosen.samples}
    assert set(found) == {"01.png", "05.png"}, "images without a box to look at are left out"
    assert found["01.png"] in [(2.0, 3.0, 22.0, 13.0), (30.0, 4.0, 38.5, 13.0)]
    assert found["05.png"] == (5.0, 6.0, 12.0, 14.0)
    assert chosen == CalibrationSet.from_coco(file, images, count=2, seed=1, boxes=True)
    picked = {
        sample.box
        for seed in range(8)
        for sample in CalibrationSet.from_coco(file, images, count=2, seed=seed, boxes=True).samples
        if sample.name == "01.png"
    }
    assert len(picked) == 2, "another seed chooses another box"
    with pytest.raises(CalibrationError, match="3 calibration images were asked for, 2"):
        CalibrationSet.from_coco(file, images, count=3, boxes=True)


def test_the_list_hash_knows_the_boxes(images: Path, tmp_path: Path) -> None:
    file = people_file(tmp_path / "keypoints.json", {"01.png": [[2.0, 3.0, 20.5, 10.0]]})
    with_box = CalibrationSet.from_coco(file, images, count=1, boxes=True)
    without = CalibrationSet.from_coco(file, images, count=1)
    digest = hashlib.sha256((images / "01.png").read_bytes()).hexdigest()
    expected = f"{digest}  01.png  2.0 3.0 22.5 13.0\n"
    assert with_box.samples_sha256 == hashlib.sha256(expected.encode()).hexdigest()
    assert without.samples_sha256 == hashlib.sha256(f"{digest}  01.png\n".encode()).hexdigest()


def test_crops_are_taken_around_the_box_or_the_whole_image(images: Path, tmp_path: Path) -> None:
    spec = AffineCrop(size=(32, 24))
    file = people_file(tmp_path / "keypoints.json", {"01.png": [[2.0, 3.0, 20.0, 10.0]]})
    frame = cv2.imread(str(images / "01.png"))
    for boxes, box in (
        (True, (2.0, 3.0, 22.0, 13.0)),
        (False, (0.0, 0.0, float(frame.shape[1]), float(frame.shape[0]))),
    ):
        ((_, tensor),) = CalibrationSet.from_coco(file, images, count=1, boxes=boxes).tensors(spec)
        np.testing.assert_array_equal(tensor, preprocess(spec, frame, box=box)[0])

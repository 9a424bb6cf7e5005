"""Scenes: the same pixels for the same seed, and ground truth that agrees with what is drawn."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from edgewise.models.scenes import KEYPOINTS, LABELS, STUFF_LABELS, render_scene, write_dataset
from edgewise.models.scenes.scene import LEAST_VISIBLE, MOST_THINGS, Scene, blend, overlap
from edgewise.models.scenes.sprite import shape_sprite
from edgewise.models.scenes.vocabulary import THING_NAMES
from edgewise.runtime.system.errors import DatasetError, EdgewiseError

SERIES = [render_scene(11, index) for index in range(60)]
SMALL = (96, 128)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("scenes") / "set", 12, 5, SMALL)


def _digest(scene: Scene) -> str:
    return hashlib.sha256(scene.image.tobytes() + scene.stuff.tobytes() + scene.owners.tobytes()).hexdigest()


def test_a_scene_follows_from_its_seed_and_index_alone() -> None:
    again = render_scene(11, 17)
    assert _digest(again) == _digest(SERIES[17])
    assert len({_digest(scene) for scene in SERIES}) == len(SERIES)
    assert _digest(render_scene(12, 17)) != _digest(again)


def test_a_seed_means_the_same_pixels_on_every_machine() -> None:
    scene = render_scene(2024, 7)
    assert _digest(scene) == "8297aea042e877d3255fbba476bc8f2a971ee1cbd6186104db9614bd5341877c"


def test_things_vary_in_number_class_and_extent() -> None:
    numbers = [len(scene.things) for scene in SERIES]
    assert min(numbers) == 0
    assert max(numbers) == MOST_THINGS
    seen = {thing.class_index for scene in SERIES for thing in scene.things}
    assert seen == set(range(len(LABELS)))
    areas = [int((scene.owners == index).sum()) for scene in SERIES for index in range(len(scene.things))]
    assert min(areas) < 400 < 8000 < max(areas)


@pytest.mark.slow
def test_about_one_scene_in_twenty_is_empty() -> None:
    empty = sum(not render_scene(3, index, (64, 64)).things for index in range(400))
    assert 0.02 < empty / 400 < 0.09


def test_every_thing_shows_enough_of_itself() -> None:
    for scene in SERIES:
        for index in range(len(scene.things)):
            assert (scene.owners == index).sum() > LEAST_VISIBLE * LEAST_VISIBLE * 100


def test_owners_and_stuff_name_what_exists() -> None:
    for scene in SERIES:
        assert scene.image.dtype == np.uint8
        assert scene.image.shape == (256, 256, 3)
        assert set(np.unique(scene.owners)) <= set(range(-1, len(scene.things)))
        assert scene.stuff.max() < len(STUFF_LABELS)
    assert {int(value) for scene in SERIES for value in np.unique(scene.stuff)} == set(
        range(len(STUFF_LABELS))
    )


def test_visible_keypoints_lie_on_their_figure_and_hidden_ones_are_marked() -> None:
    flags: list[int] = []
    for scene in SERIES:
        for index, thing in enumerate(scene.things):
            assert (thing.keypoints is not None) == (LABELS[thing.class_index].name == "person")
            if thing.keypoints is None:
                continue
            for x, y, flag in thing.keypoints.tolist():
                flags.append(flag)
                if flag == 2:
                    assert scene.owners[y, x] == index
                elif flag == 0:
                    assert (x, y) == (0, 0)
    assert set(flags) == {0, 1, 2}
    assert flags.count(2) > 0.7 * len(flags)


def test_keypoint_layout_is_cocos() -> None:
    assert len(KEYPOINTS.names) == len(KEYPOINTS.sigmas) == 17
    assert len(KEYPOINTS.flip_pairs) == 8
    for left, right in KEYPOINTS.flip_pairs:
        assert KEYPOINTS.names[left].removeprefix("left_") == KEYPOINTS.names[right].removeprefix("right_")


@pytest.mark.parametrize("size", [(64, 64), (120, 333), (480, 270)])
def test_any_size_can_be_rendered(size: tuple[int, int]) -> None:
    for index in range(6):
        scene = render_scene(8, index, size)
        assert scene.image.shape == (*size, 3)
        assert scene.owners.shape == scene.stuff.shape == size


def test_instances_are_read_by_the_reference_tools(dataset: Path) -> None:
    coco = COCO(str(dataset / "instances.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == [x.name for x in LABELS]
    annotations = 0
    for index, image_id in enumerate(coco.getImgIds()):
        scene = render_scene(5, index, SMALL)
        for number, annotation in enumerate(coco.loadAnns(coco.getAnnIds(image_id))):
            mask = coco.annToMask(annotation)
            np.testing.assert_array_equal(mask, scene.owners == number)
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
            assert annotation["iscrowd"] == 0
            annotations += 1
    assert annotations == len(coco.anns) > 12


def test_images_are_lossless(dataset: Path) -> None:
    for index in range(12):
        image = cv2.imread(str(dataset / "images" / f"{index:06d}.png"), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(image, render_scene(5, index, SMALL).image)


def test_panoptic_segments_partition_every_image(dataset: Path) -> None:
    panoptic = json.loads((dataset / "panoptic.json").read_text())
    known = {category["id"]: category["isthing"] for category in panoptic["categories"]}
    assert len(known) == len(LABELS) + len(STUFF_LABELS)
    instances = json.loads((dataset / "instances.json").read_text())
    for record in panoptic["annotations"]:
        image = cv2.imread(str(dataset / "panoptic" / record["file_name"]), cv2.IMREAD_COLOR).astype(np.int64)
        ids = image[..., 2] + 256 * image[..., 1] + 65536 * image[..., 0]
        segments = record["segments_info"]
        assert {segment["id"] for segment in segments} == set(np.unique(ids).tolist())
        assert sum(segment["area"] for segment in segments) == ids.size
        for segment in segments:
            assert segment["area"] == (ids == segment["id"]).sum()
        things = sum(known[segment["category_id"]] for segment in segments)
        assert things == sum(a["image_id"] == record["image_id"] for a in instances["annotations"])


def test_keypoints_share_ids_with_the_instances(dataset: Path) -> None:
    keypoints = json.loads((dataset / "keypoints.json").read_text())
    instances = json.loads((dataset / "instances.json").read_text())
    boxes = {a["id"]: a["bbox"] for a in instances["annotations"] if a["category_id"] == LABELS[0].id}
    assert {a["id"]: a["bbox"] for a in keypoints["annotations"]} == boxes
    category = keypoints["categories"][0]
    assert category["keypoints"] == list(KEYPOINTS.names)
    for annotation in keypoints["annotations"]:
        flags = annotation["keypoints"][2::3]
        assert len(flags) == 17
        assert annotation["num_keypoints"] == sum(flag > 0 for flag in flags)


def test_a_dataset_is_repeatable_byte_for_byte(dataset: Path, tmp_path: Path) -> None:
    again = write_dataset(tmp_path / "again", 12, 5, SMALL)
    files = sorted(path.relative_to(dataset) for path in dataset.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) == 12 + 12 + 4 + 1
    for file in files:
        assert (dataset / file).read_bytes() == (again / file).read_bytes(), file


@pytest.mark.parametrize(
    ("count", "seed", "size"), [(0, 1, 256), (-3, 1, 256), (1, -1, 256), (1, 1, 10), (1, 1, (64, 100000))]
)
def test_impossible_requests_are_refused(tmp_path: Path, count: int, seed: int, size: int) -> None:
    with pytest.raises(DatasetError):
        write_dataset(tmp_path / "set", count, seed, size)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "precious.txt").write_text("keep me")
    for replace in (False, True):
        with pytest.raises(EdgewiseError, match="exists already"):
            write_dataset(folder, 1, 1, 64, replace=replace)
    assert (folder / "precious.txt").read_text() == "keep me"
    (folder / "precious.txt").unlink()
    write_dataset(folder, 1, 1, 64)
    with pytest.raises(EdgewiseError, match="pass --force"):
        write_dataset(folder, 1, 2, 64)
    write_dataset(folder, 1, 2, 64, replace=True)
    assert json.loads((folder / "instances.json").read_text())["info"]["seed"] == 2
    (folder / "images" / "mine.png").write_bytes(b"keep me")
    with pytest.raises(EdgewiseError, match=r"images/mine\.png"):
        write_dataset(folder, 1, 1, 64, replace=True)


def test_an_interrupted_dataset_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("edgewise.models.scenes.dataset.write_json", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_dataset(tmp_path / "set", 2, 1, 64)
    assert list(tmp_path.iterdir()) == []
    shutil.rmtree(tmp_path)


def test_what_lies_outside_of_the_picture_is_laid_nowhere() -> None:
    """On every side, and with a shadow that is not."""
    rng = np.random.default_rng(2)
    sprite = shape_sprite(rng, THING_NAMES[1], 20.0, 1.0)
    height, width = sprite.coverage.shape
    for corner in ((5, -width), (5, -width - 3), (-height - 9, 5), (5, 64), (48, 5), (99, -99)):
        picture = np.full((48, 64, 3), 100, np.float32)
        blend(picture, sprite, corner, 1.0)
        window, part = overlap(sprite.coverage.shape, corner, picture.shape)
        assert picture[window].size == sprite.colour[part].size == 0
        assert picture.max() == 100

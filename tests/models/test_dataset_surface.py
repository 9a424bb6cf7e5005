"""COCO DensePose datasets, and how right surfaces are."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewise.models.data.augment import NO_AUGMENTATION
from edgewise.models.tasks.surface.dataset import CocoSurfaces
from edgewise.models.tasks.surface.metric import SURFACE_AGREEMENT
from edgewise.runtime.contract.preprocessing import Stretch
from edgewise.runtime.kinds.surface.crops import SurfaceCrops
from edgewise.runtime.kinds.surface.result import Surface
from edgewise.runtime.system.errors import DatasetError

MASK = {"size": [256, 256], "counts": [0, 128 * 256, 128 * 256]}
"""The left half of a box."""


def person(number: int, **changes: object) -> dict[str, object]:
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "bbox": [10, 20, 32, 64],
        "area": 1000,
        "iscrowd": 0,
        "dp_masks": [[], MASK],
        "dp_x": [8, 132],
        "dp_y": [4, 130],
        "dp_I": [2, 5],
        "dp_U": [0.25, 0.75],
        "dp_V": [0.5, 1],
        **changes,
    }


def written(folder: Path, *people: dict[str, object]) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "images" / "a.png"), np.full((100, 60, 3), 80, np.uint8))
    file = folder / "surface.json"
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 60}],
        "annotations": list(people),
        "categories": [{"id": 1, "name": "person"}],
    }
    file.write_text(json.dumps(document))
    return folder


def test_points_and_masks_lie_in_the_box(tmp_path: Path) -> None:
    bare = {key: value for key, value in person(2, bbox=[0, 0, 9, 9]).items() if not key.startswith("dp_")}
    dataset = CocoSurfaces.open(written(tmp_path, person(1), bare, person(3, iscrowd=1)))
    assert (dataset.object_count, dataset.sample_count) == (2, 1)
    people = dataset.people(0)
    np.testing.assert_allclose(people.points[0], [[11, 21, 2, 0.25, 0.5], [26.5, 52.5, 5, 0.75, 1]])
    assert (people.masks[0, :, :128] == 2).all()
    assert not people.masks[0, :, 128:].any()
    assert people.points[1].shape == (0, 5)
    # At twice the size: points move with the picture.
    frame, targets = dataset.training_pair(
        np.random.default_rng(0), 0, Stretch(size=(200, 120)), NO_AUGMENTATION
    )
    assert frame.shape == (200, 120, 3)
    np.testing.assert_allclose(targets.points[0].numpy()[:, :2], [[22, 42], [53, 105]])
    np.testing.assert_allclose(targets.boxes.numpy()[0], [20, 40, 84, 168])
    assert len(targets.crowd_boxes) == 1


def test_the_truth_shows_what_the_nearest_point_does(tmp_path: Path) -> None:
    dataset = CocoSurfaces.open(written(tmp_path, person(1)))
    (labels, uv), *_ = dataset.truth(0).crops
    assert labels[1, 1] == labels[15, 4] == 2
    assert (labels[32, 16], labels[60, 12], labels[60, 30]) == (5, 5, 0)
    assert uv[:, 60, 12].tolist() == [0.75, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dp_U": [0.5]},
            "annotation 1 has lists of points of different length: 2 dp_x, 2 dp_y, 2 dp_I, 1 dp_U",
        ),
        ({"dp_x": [8, 257]}, r"annotation 1 has a point outside 0\.\.256 of its box"),
        ({"dp_I": [2, 25]}, r"annotation 1 has a point of no part in 1\.\.24"),
        ({"dp_I": [2, 1.5]}, r"annotation 1 has a point of no part in 1\.\.24"),
        ({"dp_V": [0.5, -0.1]}, r"annotation 1 has a point whose U or V is not in 0\.\.1"),
        ({"dp_masks": [[]] * 15}, "annotation 1 has 15 coarse masks, more than 14"),
        ({"dp_masks": [{"size": [9, 9], "counts": [81]}]}, "a coarse mask of annotation 1 is broken"),
        ({"dp_masks": 3}, "not a COCO DensePose dataset"),
    ],
)
def test_broken_annotations_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        CocoSurfaces.open(written(tmp_path, person(1, **changes)))


def test_every_point_counts_and_people_who_are_not_found_count_nothing(tmp_path: Path) -> None:
    dataset = CocoSurfaces.open(written(tmp_path, person(1), person(2, bbox=[28, 2, 30, 30])))
    truth = dataset.truth(0)
    (labels, uv), *others = truth.crops
    labels = labels.copy()
    labels[1, 1] = 3  # one point of the wrong part
    uv = uv + np.array([0.0, -0.1], np.float32)[:, None, None]

    def measured(result: Surface):
        measuring = SURFACE_AGREEMENT.begin(dataset)
        measuring.add(0, result)
        return measuring.value()

    changed = Surface(
        truth.boxes,
        truth.scores,
        truth.classes,
        SurfaceCrops.of([(labels, uv), *others], truth.crops.places, truth.frame_size),
        24,
        truth.labels,
        truth.frame_size,
    )
    assert measured(truth).value == 1.0
    found = measured(changed)
    assert found.parts == {
        "part accuracy": pytest.approx(0.75),
        "UV error": pytest.approx(0.05 / 3, abs=1e-6),
        "people found": 1.0,
    }
    assert found.value == pytest.approx((2 + np.exp(-0.01 / (2 * 0.255**2))) / 4, abs=1e-6)
    first = measured(truth[0])
    assert (first.value, first.parts["people found"]) == (0.5, 0.5)
    # One result answers for one person, and a box elsewhere for nobody.
    assert measured(truth[[0, 0]]).value == 0.5


def test_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such annotation file"):
        CocoSurfaces.open(tmp_path)

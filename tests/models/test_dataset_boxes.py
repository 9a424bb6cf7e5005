"""COCO detection datasets: boxes are enough, and masks help where there are any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgewise.models.data.augment import cut
from edgewise.models.tasks.boxes.dataset import CocoDetections
from edgewise.models.tasks.instances.dataset import CocoInstances
from edgewise.runtime.kinds.boxes.result import Boxes
from edgewise.runtime.system.errors import DatasetError

CATEGORIES = [{"id": 3, "name": "bolt"}, {"id": 5, "name": "nut"}]
BOXES = [[2.5, 3, 10, 6], [20, 10, 8.25, 12]]


def written(folder: Path, *changes: dict[str, Any]) -> Path:
    """One image with a bolt and a nut that have no masks; the changes are made to them in turn."""
    cv2.imwrite(str(folder / "a.png"), np.full((30, 40, 3), 90, np.uint8))
    objects = [
        {"id": number + 1, "image_id": 1, "category_id": CATEGORIES[number]["id"], "bbox": box, **change}
        for number, (box, change) in enumerate(zip(BOXES, [*changes, {}, {}][:2], strict=True))
    ]
    images = [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": CATEGORIES}))
    return file


@pytest.mark.parametrize("absent", [{}, {"segmentation": []}, {"segmentation": None}])
def test_objects_without_masks(tmp_path: Path, absent: dict[str, Any]) -> None:
    dataset = CocoDetections.open(written(tmp_path, absent, absent))
    truth = dataset.truth(0)
    assert isinstance(truth, Boxes)
    assert truth.boxes.tolist() == [[2.5, 3, 12.5, 9], [20, 10, 28.25, 22]]
    assert truth.names == ("bolt", "nut")
    assert [record["area"] for record in dataset.records(0)] == [60, 99]
    masks = dataset.example(0).masks
    assert masks[0].sum() == 11 * 6, "the pixels that the box touches"
    assert masks[0, 3:9, 2:13].all()
    with pytest.raises(DatasetError, match="neither polygons nor runs"):
        CocoInstances.open(dataset.json)


def test_a_crop_leaves_the_tight_box_of_what_there_is(tmp_path: Path) -> None:
    """Of an object with a mask that of its remaining mask, of another its remaining box."""
    triangle = {"segmentation": [[2.5, 3, 12.5, 3, 12.5, 9]]}
    left = cut(CocoDetections.open(written(tmp_path, triangle)).example(0), (0, 0, 9, 30))
    assert left.boxes[0, 3] < 9
    left = cut(CocoDetections.open(written(tmp_path)).example(0), (0, 0, 9, 30))
    assert left.boxes.tolist() == [[2, 3, 9, 9]]


def test_a_broken_mask_is_a_fault_though_none_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="segmentation of annotation 2 is broken"):
        CocoDetections.open(written(tmp_path, {}, {"segmentation": [[1, 2, 3]]}))

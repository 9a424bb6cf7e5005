"""Instances: consistency, selection, COCO records."""

from __future__ import annotations

import doctest
import sys
import types

import numpy as np
import pytest
from pycocotools import mask as coco

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.kinds.instances import result as instances_module
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.pixels.masks import crop_dense
from edgewise.runtime.system.errors import ResultError

SIZE = (40, 60)
LABELS = (ClassLabel(id=1, name="cat"), ClassLabel(id=44, name="dog"))


def dense():
    masks = np.zeros((3, *SIZE), np.bool_)
    masks[0, 5:20, 10:30] = True
    masks[2, 30:, 50:] = True
    return masks


def instances(**changes):
    fields = {
        "boxes": np.array([[10, 5, 30, 20], [1.26, 2.04, 3.45, 9.96], [50, 30, 60, 40]], np.float32),
        "scores": np.array([0.9, 0.5, 0.25], np.float32),
        "classes": np.array([0, 1, 0], np.int32),
        "masks": crop_dense(dense()),
        "labels": LABELS,
        "frame_size": SIZE,
    }
    return Instances(**(fields | changes))


def test_docstring_examples():
    found = doctest.testmod(instances_module)
    assert found.failed == 0
    assert found.attempted > 5


def test_length_names_and_masks():
    found = instances()
    assert len(found) == 3
    assert found.names == ("cat", "dog", "cat")
    np.testing.assert_array_equal(found.dense_masks(), dense())


@pytest.mark.parametrize(
    ("index", "kept"),
    [
        (0, [0]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        (np.array([2, 0]), [2, 0]),
        (np.array([True, False, True]), [0, 2]),
        ([1], [1]),
        (np.zeros(3, bool), []),
        (np.array([], np.int64), []),
    ],
)
def test_selection(index, kept):
    whole, part = instances(), instances()[index]
    np.testing.assert_array_equal(part.scores, whole.scores[kept])
    np.testing.assert_array_equal(part.boxes, whole.boxes[kept])
    np.testing.assert_array_equal(part.classes, whole.classes[kept])
    np.testing.assert_array_equal(part.dense_masks(), dense()[kept])
    assert part.frame_size == SIZE


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": np.zeros((2, 4), np.float32)},
        {"boxes": np.zeros((3, 4), np.float64)},
        {"scores": np.zeros(2, np.float32)},
        {"scores": np.zeros((3, 1), np.float32)},
        {"classes": np.zeros(3, np.int64)},
        {"classes": np.array([0, 2, 0], np.int32)},
        {"classes": np.array([0, -1, 0], np.int32)},
        {"masks": crop_dense(dense()[:2])},
        {"frame_size": (40, 61)},
    ],
)
def test_what_does_not_belong_together_is_refused(changes):
    with pytest.raises(ResultError):
        instances(**changes)


def test_coco_records():
    records = instances().records(image_id=7)
    assert [record["image_id"] for record in records] == [7, 7, 7]
    assert [record["category_id"] for record in records] == [1, 44, 1]
    assert [record["bbox"] for record in records] == [[10, 5, 20, 15], [1.3, 2.0, 2.2, 7.9], [50, 30, 10, 10]]
    assert [record["score"] for record in records] == [pytest.approx(score) for score in (0.9, 0.5, 0.25)]
    for record, mask in zip(records, dense(), strict=True):
        assert record["segmentation"]["size"] == [40, 60]
        np.testing.assert_array_equal(coco.decode(record["segmentation"]), mask)
        assert all(type(value) is float for value in [*record["bbox"], record["score"]])


def test_boxes_without_extent_are_no_coco_results():
    boxes = np.array([[10, 5, 10, 20], [5, 9, 8, 4], [50, 30, 60, 40]], np.float32)
    records = instances(boxes=boxes).records(image_id=0)
    assert [record["score"] for record in records] == [0.25]


def test_nothing_found():
    nothing = instances()[:0]
    assert nothing.records(image_id=0) == []
    assert nothing.dense_masks().shape == (0, *SIZE)


def test_supervision_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ResultError, match="pip install supervision"):
        instances().to_supervision()


def test_supervision_gets_whole_frames(monkeypatch):
    """The fields that supervision's constructor takes; the package itself is not among the test tools."""
    recorded = types.SimpleNamespace(Detections=lambda **fields: fields)
    monkeypatch.setitem(sys.modules, "supervision", recorded)
    fields = instances().to_supervision()
    assert fields["xyxy"].shape == (3, 4)
    np.testing.assert_array_equal(fields["mask"], dense())
    np.testing.assert_array_equal(fields["confidence"], instances().scores)
    assert fields["class_id"].tolist() == [0, 1, 0]
    assert fields["data"]["class_name"].tolist() == ["cat", "dog", "cat"]

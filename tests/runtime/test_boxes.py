"""Boxes: consistency, selection, records, decoding, and what other rooms do with them."""

from __future__ import annotations

import doctest
import json
import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edgewise.runtime.contract.postprocessing import DetectedBoxes
from edgewise.runtime.decoding.decode import decode_result, looks_of
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.kinds.boxes import result as boxes_module
from edgewise.runtime.kinds.boxes.result import Boxes
from edgewise.runtime.system.errors import ResultError
from edgewise.runtime.walk.box_sources import DetectorBoxes
from edgewise.runtime.walk.session import Session

from .conftest import ONE_THREAD, bright_frame, build_bundle, detector_manifest
from .five_classes import CAT, DOG, LABELS
from .pose_bundle import build_pose_bundle
from .test_cli import Verb, edgewise

__all__ = ["edgewise"]

SIZE = (40, 60)


def boxes(**changes: object) -> Boxes:
    fields: dict = {
        "boxes": np.array([[10, 5, 30, 20], [1.2604, 2.04, 3.45, 9.96], [50, 30, 60, 30]], np.float32),
        "scores": np.array([0.9, 0.5, 0.25], np.float32),
        "classes": np.array([CAT, DOG, CAT], np.int32),
        "labels": LABELS,
        "frame_size": SIZE,
    }
    return Boxes(**(fields | changes))


def test_docstring_examples() -> None:
    found = doctest.testmod(boxes_module)
    assert found.failed == 0
    assert found.attempted > 3


@pytest.mark.parametrize(
    ("index", "kept"),
    [(0, [0]), (-1, [2]), (slice(1, None), [1, 2]), (np.array([True, False, True]), [0, 2])],
)
def test_selection(index: object, kept: list[int]) -> None:
    whole, part = boxes(), boxes()[index]  # type: ignore[index]
    np.testing.assert_array_equal(part.boxes, whole.boxes[kept])
    np.testing.assert_array_equal(part.scores, whole.scores[kept])
    assert part.names == tuple(whole.names[place] for place in kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.zeros((2, 4), np.float32)}, r"the boxes of 3 boxes are float32 \[2, 4\]"),
        ({"scores": np.zeros(3, np.float64)}, "the scores of 3 boxes are float64"),
        ({"classes": np.array([0, 1, 9], np.int32)}, "outside the 5 labels"),
    ],
)
def test_arrays_that_do_not_belong_together(changes: dict, message: str) -> None:
    with pytest.raises(ResultError, match=message):
        boxes(**changes)


def test_records_are_coco_detections_without_the_box_that_has_no_height() -> None:
    first, second = boxes().records(8)
    assert first == {
        "image_id": 8,
        "category_id": LABELS[CAT].id,
        "bbox": [10.0, 5.0, 20.0, 15.0],
        "score": pytest.approx(0.9),
    }
    assert second["bbox"] == [1.2604, 2.04, 2.1896, 7.92]


def test_supervision_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ResultError, match="pip install supervision"):
        boxes().to_supervision()


def test_slots_become_boxes_of_the_frame() -> None:
    """Sorted by score, in frame pixels, held inside, with nothing of empty slots."""
    manifest = msgspec.structs.replace(
        detector_manifest({}), postprocess=DetectedBoxes(score_threshold=0.1), classes=LABELS
    )
    outputs = {
        "boxes": np.array([[[4, 4, 8, 8], [40, -6, 60, 16], [50, 4, 60, 8], [0, 0, 1, 1]]], np.float32),
        "scores": np.array([[0.2, 0.9, 0.8, 0.05]], np.float32),
        "classes": np.array([[DOG, CAT, DOG, 0]], np.int32),
    }
    looks = looks_of(manifest, np.zeros((64, 96, 3), np.uint8))  # the network's 32 x 48, doubled
    found = decode_result(manifest, looks, [outputs])
    assert isinstance(found, Boxes)
    assert found.boxes.tolist() == [[80, 0, 96, 32], [8, 8, 16, 16]]
    assert found.names == (LABELS[CAT].name, LABELS[DOG].name)
    with pytest.raises(ResultError, match="outside the manifest's 5 classes"):
        decode_result(manifest, looks, [outputs | {"classes": np.array([[7, 0, 0, 0]], np.int32)}])


def test_a_bundle_of_boxes_is_run_and_says_where_crops_are(edgewise: Verb, tmp_path: Path) -> None:
    """What stands before a pose model as `--boxes`."""
    bundle = build_bundle(tmp_path / "boxes", postprocess=DetectedBoxes(display_threshold=0.3))
    with Session.open(bundle, backend=ONE_THREAD) as detector:
        shown = Frame(0, "a.png", bright_frame(200), 0.0)
        assert DetectorBoxes(detector, "bright").boxes(shown).boxes.tolist() == [[8, 8, 48, 56]]
    cv2.imwrite(str(tmp_path / "a.png"), bright_frame(200))
    status, out, error = edgewise("run", bundle, tmp_path / "a.png", "-o", tmp_path / "out")
    assert status == 0, error
    assert "40 x 48" in out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [record["bbox"] for record in results] == [[8, 8, 40, 48], [52, 4, 40, 56]]
    pose = build_pose_bundle(tmp_path / "pose")
    looked = ("run", pose, tmp_path / "a.png", "--boxes", bundle, "--boxes-class", "bright")
    status, out, error = edgewise(*looked, "--threshold", "0")
    assert status == 0, error
    assert "8.0, 8.0, 48.0, 56.0" in out

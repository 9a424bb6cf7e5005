"""Keypoints: consistency, selection, COCO records, overlays."""

from __future__ import annotations

import doctest
import json
import sys
import types

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgewise.runtime.contract.manifest import ClassLabel, KeypointLayout
from edgewise.runtime.kinds.keypoints import result as module
from edgewise.runtime.kinds.keypoints.draw import CENTRE, LEFT, RIGHT, limb_colour, side_colour
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.system.errors import ResultError

SIZE = (120, 160)
LAYOUT = KeypointLayout(
    names=("nose", "left_hand", "right_hand"),
    flip_pairs=((1, 2),),
    limbs=((0, 1), (0, 2)),
    sigmas=(0.05, 0.1, 0.1),
)
POINTS = np.array([[[40, 20], [60.5, 60.25], [20, 60]], [[120, 30], [140, 80], [100, 80]]], np.float32)
SCORES = np.array([[0.9, 0.8, 0.7], [0.6, 0.1, 0.5]], np.float32)


def people(**changes) -> Keypoints:
    fields = {
        "points": POINTS,
        "point_scores": SCORES,
        "boxes": np.array([[10, 10, 70, 70], [90, 20, 150, 90]], np.float32),
        "scores": np.array([0.4, 0.8], np.float32),
        "classes": np.zeros(2, np.int32),
        "labels": (ClassLabel(id=7, name="person"),),
        "layout": LAYOUT,
        "frame_size": SIZE,
        "display_threshold": 0.3,
        "point_threshold": 0.2,
    }
    return Keypoints(**(fields | changes))


def test_docstring_examples():
    done = doctest.testmod(module)
    assert done.failed == 0
    assert done.attempted > 5


@pytest.mark.parametrize(
    ("index", "kept"), [(0, [0]), (slice(1, None), [1]), (np.array([1, 0]), [1, 0]), ([True, False], [0])]
)
def test_selection(index, kept):
    part = people()[index]
    for name in ("points", "point_scores", "boxes", "scores", "classes"):
        np.testing.assert_array_equal(getattr(part, name), getattr(people(), name)[kept])
    assert (part.layout, part.frame_size, part.display_threshold, part.point_threshold) == (
        LAYOUT,
        SIZE,
        0.3,
        0.2,
    )


def test_above_keeps_who_scores_at_least_the_threshold():
    assert people().above(np.float32(0.4)).scores.tolist() == people().scores.tolist()
    assert len(people().above(0.41)) == 1
    assert len(people().above(0.9)) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"points": POINTS[:1]},
        {"points": POINTS[:, :2]},
        {"points": POINTS.astype(np.float64)},
        {"points": np.full_like(POINTS, np.nan)},
        {"point_scores": SCORES[:, :2]},
        {"boxes": np.zeros((2, 2), np.float32)},
        {"scores": np.zeros(3, np.float32)},
        {"classes": np.array([0, 1], np.int32)},
        {"labels": ()},
    ],
)
def test_what_does_not_belong_together_is_refused(changes):
    with pytest.raises(ResultError):
        people(**changes)


def test_coco_records_count_from_pixel_centres():
    records = people().records(image_id=3)
    assert [record["image_id"] for record in records] == [3, 3]
    assert [record["category_id"] for record in records] == [7, 7]
    assert records[0]["bbox"] == [10, 10, 60, 60]
    triples = np.array(records[0]["keypoints"]).reshape(3, 3)
    np.testing.assert_allclose(triples[:, :2], POINTS[0] - 0.5)
    np.testing.assert_allclose(triples[:, 2], SCORES[0])
    assert all(type(value) is float for value in [*records[0]["keypoints"], *records[0]["bbox"]])


def test_pycocotools_reads_the_records(tmp_path):
    """Annotations that name the pixels of the points: the similarity is full, so every AP is 1."""
    found = people(points=np.floor(POINTS) + np.float32(0.5))
    annotations = [
        {
            "id": index + 1,
            "image_id": 3,
            "category_id": 7,
            "keypoints": np.insert(np.floor(POINTS[index]), 2, 2, axis=1).astype(int).ravel().tolist(),
            "num_keypoints": 3,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }
        for index, (x1, y1, x2, y2) in enumerate(found.boxes.tolist())
    ]
    truth = {
        "info": {},
        "images": [{"id": 3, "width": SIZE[1], "height": SIZE[0], "file_name": "a.png"}],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "person"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(found.records(image_id=3)))
    dataset = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(dataset, dataset.loadRes(str(tmp_path / "results.json")), "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(LAYOUT.sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


# ---------------------------------------------------------------- overlay


def grey() -> np.ndarray:
    return np.full((*SIZE, 3), 128, np.uint8)


def close(pixel: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() <= 20)


def test_the_frame_is_copied():
    frame = grey()
    drawn = people().draw(frame)
    assert (frame == 128).all()
    assert not np.shares_memory(frame, drawn)


def test_points_and_limbs_have_the_colours_of_their_sides():
    away = np.array([[10, 90, 70, 110], [90, 90, 150, 110]], np.float32)
    drawn = people(points=np.floor(POINTS) + np.float32(0.5), boxes=away).draw(grey())
    assert close(drawn[20, 40], CENTRE)
    assert close(drawn[60, 60], LEFT)
    assert close(drawn[60, 20], RIGHT)
    assert close(drawn[40, 50], LEFT)
    assert close(drawn[40, 30], RIGHT)


def test_unsure_points_are_faint():
    sure, faint = (people(point_threshold=threshold).draw(grey()).astype(int) for threshold in (0.05, 0.2))
    shown, dimmed = sure[80, 140] - 128, faint[80, 140] - 128
    assert np.abs(shown).max() > 80
    np.testing.assert_allclose(dimmed, 0.35 * shown, atol=2)
    np.testing.assert_array_equal(sure[60, 20], faint[60, 20])


@pytest.mark.parametrize(("threshold", "shown"), [(None, 2), (0.5, 1), (0.9, 0)])
def test_only_people_of_at_least_the_threshold_are_drawn(threshold, shown):
    touched = (people().draw(grey(), threshold=threshold) != 128).any(axis=2)
    assert touched[:, 85:].any() == (shown >= 1)
    assert touched[:, :75].any() == (shown >= 2)


def test_points_far_outside_are_drawn():
    points = POINTS.copy()
    points[0, 0] = [-3e8, 3e8]
    assert (people(points=points).draw(grey()) != 128).any()


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("left_knee", LEFT),
        ("l-ankle", LEFT),
        ("Right Wrist", RIGHT),
        ("r_hip", RIGHT),
        ("nose", CENTRE),
        ("upright", CENTRE),
    ],
)
def test_sides_come_from_names(name, colour):
    assert side_colour(name) == colour


def test_limbs_from_side_to_side_belong_to_the_middle():
    assert limb_colour(LEFT, RIGHT) == CENTRE
    assert limb_colour(CENTRE, LEFT) == LEFT
    assert limb_colour(RIGHT, RIGHT) == RIGHT


def test_supervision_gets_points_and_their_scores(monkeypatch):
    """The first three by place, as both names of the third are in use; the package is not a test tool."""
    recorded = types.SimpleNamespace(KeyPoints=lambda *fields, data: (*fields, data))
    monkeypatch.setitem(sys.modules, "supervision", recorded)
    xy, classes, confidence, data = people().to_supervision()
    np.testing.assert_array_equal(xy, POINTS)
    np.testing.assert_array_equal(confidence, SCORES)
    assert classes.tolist() == [0, 0]
    assert data["class_name"].tolist() == ["person", "person"]
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ResultError, match="pip install supervision"):
        people().to_supervision()

"""Panoptic: consistency, order, thresholds, masks, COCO forms, overlay."""

from __future__ import annotations

import doctest

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from edgewise.runtime.contract.manifest import ClassKind, ClassLabel
from edgewise.runtime.kinds.panoptic import draw as overlay_panoptic
from edgewise.runtime.kinds.panoptic import result as panoptic
from edgewise.runtime.kinds.panoptic.result import Panoptic
from edgewise.runtime.system.errors import ResultError

LABELS = (
    ClassLabel(id=3, name="cat"),
    ClassLabel(id=200, name="sky", kind=ClassKind.STUFF),
    ClassLabel(id=9, name="dog"),
    ClassLabel(id=90, name="grass", kind=ClassKind.STUFF),
)
THINGS = (True, False, True, False)
SIZE = (30, 40)


def result(**changes):
    """A dog 0.9, a cat 0.4, sky, grass and a void corner."""
    segments = np.full(SIZE, 3, np.uint16)
    segments[15:] = 4
    segments[10:20, 5:15] = 1
    segments[12:14, 20:30] = 2
    segments[25:, 35:] = 0
    built = Panoptic(
        segments=segments,
        boxes=np.array([[5, 10, 15, 20], [20, 12, 30, 14], [0, 0, 40, 15], [0, 15, 40, 30]], np.float32),
        scores=np.array([0.9, 0.4, 1, 1], np.float32),
        classes=np.array([2, 0, 1, 3], np.int32),
        areas=np.array([100, 20, 600 - 50 - 20, 600 - 50 - 25], np.int64),
        labels=LABELS,
        frame_size=SIZE,
        display_threshold=0.5,
    )
    fields = {name: getattr(built, name) for name in built.__dataclass_fields__}
    return Panoptic(**(fields | changes))


@st.composite
def any_segments(draw):
    """A map with any ids, and classes and scores for them, in no order."""
    count = draw(st.integers(0, 8))
    size = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    coarse = rng.integers(0, count + 1, (3, 4)).astype(np.uint16)
    segments = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)
    return segments.reshape(size), rng.integers(0, 4, count), rng.choice([0.3, 0.5, 0.8], count)


def test_docstring_examples():
    outcome = doctest.testmod(panoptic)
    assert outcome.failed == 0
    assert outcome.attempted > 5


def test_names_and_kinds():
    assert len(result()) == 4
    assert result().names == ("dog", "cat", "sky", "grass")
    assert result().things.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    "changes",
    [
        {"segments": np.zeros(SIZE, np.int32)},
        {"segments": np.zeros((30, 41), np.uint16)},
        {"segments": np.full(SIZE, 5, np.uint16)},
        {"frame_size": (40, 30)},
        {"boxes": np.zeros((4, 4), np.float64)},
        {"boxes": np.zeros((3, 4), np.float32)},
        {"scores": np.ones(3, np.float32)},
        {"scores": np.array([0.4, 0.9, 1, 1], np.float32)},
        {"classes": np.array([2, 0, 1, 4], np.int32)},
        {"classes": np.array([2, 0, 1, -1], np.int32)},
        {"classes": np.array([1, 0, 2, 3], np.int32)},
        {"classes": np.array([2, 0, 1, 3], np.int64)},
        {"areas": np.array([100, 20, 530, 524], np.int64)},
        {"areas": np.array([0, 120, 530, 525], np.int64)},
    ],
)
def test_what_does_not_belong_together_is_refused(changes):
    with pytest.raises(ResultError):
        result(**changes)


@given(any_segments())
@settings(max_examples=60, deadline=None)
def test_any_map_becomes_an_ordered_result(made):
    segments, classes, scores = made
    found = Panoptic.of_segments(segments, classes, scores, LABELS)
    present = [index for index in range(len(classes)) if (segments == index + 1).any()]
    wanted = sorted(
        present,
        key=lambda index: (0, -scores[index]) if THINGS[classes[index]] else (1, classes[index]),
    )
    assert len(found) == len(wanted)
    for number, index in enumerate(wanted):
        mask = segments == index + 1
        np.testing.assert_array_equal(found.segments == number + 1, mask)
        assert found.classes[number] == classes[index]
        assert found.scores[number] == pytest.approx(scores[index] if THINGS[classes[index]] else 1)
        assert found.areas[number] == mask.sum()
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found.boxes[number].tolist() == box
    np.testing.assert_array_equal(found.segments == 0, segments == 0)
    again = Panoptic.of_segments(found.segments, found.classes, found.scores, LABELS)
    np.testing.assert_array_equal(again.segments, found.segments)
    np.testing.assert_array_equal(again.classes, found.classes)


@given(any_segments())
@settings(max_examples=50, deadline=None)
def test_masks_are_the_segments(made):
    found = Panoptic.of_segments(*made, LABELS)
    masks = found.masks
    np.testing.assert_array_equal(
        masks.dense(), found.segments == np.arange(1, len(found) + 1)[:, None, None]
    )
    np.testing.assert_array_equal(masks.areas(), found.areas)


@given(any_segments(), st.sampled_from([0.0, 0.4, 0.5, 0.9, 1.0, 1.1]))
@settings(max_examples=50, deadline=None)
def test_above_makes_void_and_nothing_else(made, threshold):
    whole = Panoptic.of_segments(*made, LABELS)
    part = whole.above(threshold)
    kept = np.flatnonzero(whole.scores >= threshold)
    assert len(part) == len(kept)
    for number, index in enumerate(kept):
        np.testing.assert_array_equal(part.segments == number + 1, whole.segments == index + 1)
        for field in ("boxes", "scores", "classes", "areas"):
            np.testing.assert_array_equal(getattr(part, field)[number], getattr(whole, field)[index])
    assert part.areas.sum() + (part.segments == 0).sum() == part.segments.size


@pytest.mark.parametrize(
    ("segments", "classes", "scores"),
    [
        (np.full((3, 3), 3), [0, 0], [1, 1]),
        (np.full((3, 3), -1), [0], [1]),
        (np.zeros((3, 3)), [0], [1]),
        (np.zeros((3, 3, 1), int), [0], [1]),
        (np.zeros((3, 3), int), [4], [1]),
        (np.zeros((3, 3), int), [0, 1], [1]),
        (np.zeros((3, 3), int), np.zeros(1 << 16, int), np.zeros(1 << 16)),
    ],
)
def test_maps_that_mean_nothing_are_refused(segments, classes, scores):
    with pytest.raises(ResultError):
        Panoptic.of_segments(segments, classes, scores, LABELS)


def test_coco_records():
    records = result().records(image_id=7)
    assert [record["image_id"] for record in records] == [7] * 4
    assert [record["category_id"] for record in records] == [9, 3, 200, 90]
    assert [record["bbox"] for record in records] == [
        [5, 10, 10, 10],
        [20, 12, 10, 2],
        [0, 0, 40, 15],
        [0, 15, 40, 15],
    ]
    assert [record["score"] for record in records] == [pytest.approx(score) for score in (0.9, 0.4, 1, 1)]
    for number, record in enumerate(records, 1):
        np.testing.assert_array_equal(coco.decode(record["segmentation"]), result().segments == number)
    assert msgspec.json.decode(msgspec.json.encode(records)) == records


def test_coco_panoptic_picture_and_annotation_agree():
    annotation, picture = result().to_coco_panoptic(7, "seven.png")
    assert picture.dtype == np.uint8
    assert picture.shape == (*SIZE, 3)
    blue, green, red = (picture[..., channel].astype(int) for channel in range(3))
    ids = red + 256 * green + 65536 * blue
    assert (annotation["image_id"], annotation["file_name"]) == (7, "seven.png")
    described = annotation["segments_info"]
    assert {segment["id"] for segment in described} == set(np.unique(ids).tolist()) - {0}
    for segment in described:
        mask = ids == segment["id"]
        assert segment["area"] == mask.sum()
        x, y, w, h = segment["bbox"]
        assert mask[y : y + h, x : x + w].sum() == mask.sum()
        assert segment["iscrowd"] == 0
    assert [segment["category_id"] for segment in described] == [9, 3, 200, 90]
    assert msgspec.json.decode(msgspec.json.encode(annotation)) == annotation


def test_more_than_255_segments_use_the_second_byte():
    segments = np.arange(1, 601).reshape(20, 30)
    found = Panoptic.of_segments(segments, np.zeros(600, int), np.linspace(1, 0, 600), LABELS)
    np.testing.assert_array_equal(found.segments, segments)
    _, picture = found.to_coco_panoptic(1, "a.png")
    np.testing.assert_array_equal(picture[..., 2] + 256 * picture[..., 1].astype(int), segments)
    assert found.draw(np.zeros((20, 30, 3), np.uint8)).any()
    assert len(found.above(0.5)) == 300


def test_nothing_found():
    nothing = Panoptic.of_segments(np.zeros(SIZE, np.uint8), [], [], LABELS)
    assert len(nothing) == 0
    assert nothing.names == ()
    assert nothing.records(1) == []
    assert nothing.to_coco_panoptic(1, "a.png")[0]["segments_info"] == []
    assert len(nothing.masks) == 0
    frame = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    np.testing.assert_array_equal(nothing.draw(frame), frame)


BIG = (240, 320)


def big_result():
    """A thing in the middle of two stuff classes, and a void quarter."""
    segments = np.full(BIG, 2)
    segments[120:] = 3
    segments[100:160, 60:120] = 1
    segments[120:, 200:] = 0
    return Panoptic.of_segments(segments, [0, 1, 3], [0.8, 1, 1], LABELS)


def test_the_frame_is_copied_and_void_stays():
    frame = np.random.default_rng(0).integers(0, 256, (*BIG, 3), np.uint8)
    before = frame.copy()
    drawn = big_result().draw(frame)
    np.testing.assert_array_equal(frame, before)
    np.testing.assert_array_equal(drawn[120:, 200:], frame[120:, 200:])
    assert (drawn[5:115, 5:55] != frame[5:115, 5:55]).any(axis=2).all()


def test_things_are_more_vivid_than_stuff_and_both_let_the_picture_through():
    frame = np.random.default_rng(0).integers(0, 256, (*BIG, 3), np.uint8)
    drawn = big_result().draw(frame)
    thing, stuff = np.s_[104:156, 64:116], np.s_[170:230, 5:60]

    def share(area):
        """Of the frame's contrast that is left."""
        return drawn[area].std(axis=(0, 1)).mean() / frame[area].std(axis=(0, 1)).mean()

    assert 0.2 < share(thing) < share(stuff) < 0.9


def test_borders_are_thin_and_bright_on_stuff():
    drawn = big_result().draw(np.full((*BIG, 3), 60, np.uint8))
    line = (drawn[:, 20] > 200).all(axis=1)
    assert np.flatnonzero(line).tolist() == [119, 120]


def test_stuff_is_named_where_it_has_room_and_not_where_it_has_none():
    frame = np.full((*BIG, 3), 60, np.uint8)

    def inked(drawn, area):
        return len(np.unique(drawn[area].reshape(-1, 3), axis=0)) > 2

    wide = big_result().draw(frame)
    assert inked(wide, np.s_[10:90, 10:-10])
    assert inked(wide, np.s_[165:-5, 5:195])
    segments = np.full(BIG, 1)
    segments[100:104] = 2
    narrow = Panoptic.of_segments(segments, [1, 3], [1, 1], LABELS).draw(frame)
    assert len(np.unique(narrow[100:104].reshape(-1, 3), axis=0)) <= 2


def test_the_threshold_leaves_things_out():
    frame = np.full((*BIG, 3), 60, np.uint8)
    drawn = big_result().draw(frame, threshold=0.9)
    assert (drawn[104:156, 64:116] == 60).all()


def test_labels_of_neighbours_do_not_cover_each_other():
    segments = np.zeros(BIG, int)
    segments[80:160, 60:160] = 1
    segments[82:100, 64:156] = 2
    found = Panoptic.of_segments(segments, [0, 2], [0.9, 0.8], LABELS)
    drawn = found.draw(np.full((*BIG, 3), 60, np.uint8))
    above, inside = drawn[60:80, 60:160], drawn[84:98, 66:154]
    first, second = (np.array(overlay_panoptic.instance_colour(kind, 0)) for kind in (0, 2))
    assert (above == first).all(axis=2).sum() > 200
    assert not (above == second).all(axis=2).any()
    assert (inside == second).all(axis=2).sum() > 200


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (60, 2)])
def test_tiny_frames_can_be_drawn(size):
    found = Panoptic.of_segments(np.ones(size, int), [1], [1], LABELS)
    assert found.draw(np.zeros((*size, 3), np.uint8)).shape == (*size, 3)
    found = Panoptic.of_segments(np.ones(size, int), [0], [1], LABELS)
    assert found.draw(np.zeros((*size, 3), np.uint8)).shape == (*size, 3)

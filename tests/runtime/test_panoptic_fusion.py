"""The fusion rule on crops against the same rule on whole frames, and its outputs' checks."""

from __future__ import annotations

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.contract.postprocessing import MaskRule, PanopticFusion
from edgewise.runtime.contract.preprocessing import Letterbox, Stretch
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.kinds.panoptic.fusion import fuse
from edgewise.runtime.pixels.geometry import scaling
from edgewise.runtime.pixels.masks import MaskCrops, crop_dense
from edgewise.runtime.pixels.paste import paste_box_masks, paste_prototype_masks
from edgewise.runtime.system.errors import ResultError

from .five_classes import CAT, DOG, GRASS, LABELS, ROAD, SKY, decode

CHANNELS = (-1, GRASS, SKY, CAT, ROAD, SKY)
"""Things, grass, sky, a thing class, road, sky again."""


def slow(masks, scores, classes, semantic, semantic_classes, overlap_limit, limit):
    """The rule on whole frames: the map, and (class, score) of each segment."""
    panoptic = np.zeros(semantic.shape, int)
    table = []
    for index in sorted(range(len(masks)), key=lambda index: -scores[index]):
        mask = masks[index]
        area, free = int(mask.sum()), mask & (panoptic == 0)
        if not free.any() or (area - free.sum()) / area > overlap_limit:
            continue
        table.append((int(classes[index]), float(scores[index])))
        panoptic[free] = len(table)
    stuff_of = np.array([-1 if kind < 0 or kind in (CAT, DOG) else kind for kind in semantic_classes])
    left = np.where(panoptic == 0, stuff_of[semantic], -1)
    for kind in (SKY, GRASS, ROAD):
        mask = left == kind
        if mask.any() and mask.sum() >= limit:
            table.append((kind, 1.0))
            panoptic[mask] = len(table)
    return panoptic, table


@st.composite
def any_frame(draw):
    """Overlapping rectangles and blots with repeated scores, their crops, and a patchy semantic map."""
    rng = np.random.default_rng(draw(st.integers(0, 99999)))
    h, w = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    count = draw(st.integers(0, 7))
    masks = np.zeros((count, h, w), np.bool_)
    for mask in masks:
        top, left = rng.integers(0, h), rng.integers(0, w)
        mask[top : top + rng.integers(0, 15), left : left + rng.integers(0, 15)] = True
        mask &= rng.random((h, w)) < rng.choice([0.3, 1.0])
    coarse = rng.integers(0, len(CHANNELS), (4, 5)).astype(np.uint8)
    semantic = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_NEAREST).reshape(h, w)
    scores = rng.choice(np.float32([0.2, 0.5, 0.5, 0.9]), count)
    return masks, scores, rng.integers(0, 2, count).astype(np.int32), semantic


@given(
    any_frame(),
    st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]),
    st.integers(0, 120),
    st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]),
)
@settings(max_examples=150, deadline=None)
def test_crops_and_whole_frames_give_the_same_integers(frame, overlap_limit, limit, dtype):
    masks, scores, classes, semantic = frame
    found = fuse(
        crop_dense(masks),
        scores,
        classes,
        semantic.astype(dtype),
        CHANNELS,
        LABELS,
        overlap_limit=overlap_limit,
        stuff_area_limit=limit,
        display_threshold=0.25,
    )
    panoptic, table = slow(masks, scores, classes, semantic, CHANNELS, overlap_limit, limit)
    np.testing.assert_array_equal(found.segments, panoptic)
    assert list(zip(found.classes.tolist(), found.scores.tolist(), strict=True)) == table
    assert found.areas.tolist() == [int((panoptic == number + 1).sum()) for number in range(len(table))]
    for box, number in zip(found.boxes.tolist(), range(1, len(table) + 1), strict=True):
        rows, columns = np.nonzero(panoptic == number)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert found.display_threshold == 0.25


@given(any_frame())
@settings(max_examples=50, deadline=None)
def test_fusing_the_result_again_changes_nothing(frame):
    masks, scores, classes, semantic = frame
    first = fuse(crop_dense(masks), scores, classes, semantic, CHANNELS, LABELS, stuff_area_limit=5)
    things = np.flatnonzero(first.things)
    # Void as semantic value 0, the s-th label as s + 1.
    table = np.concatenate([[0], np.where(first.things, 0, first.classes + 1)])
    again = fuse(
        first.masks.select(things),
        first.scores[things],
        first.classes[things],
        table[first.segments],
        (-1, *range(5)),
        LABELS,
        stuff_area_limit=5,
    )
    np.testing.assert_array_equal(again.segments, first.segments)
    np.testing.assert_array_equal(again.classes, first.classes)


def test_the_size_of_a_crop_decides_nothing():
    dense = np.zeros((2, 20, 30), np.bool_)
    dense[0, 5:10, 5:15] = True
    dense[1, 8:15, 8:18] = True
    whole = MaskCrops(
        np.concatenate([mask.T.ravel() for mask in dense]), np.array([[0, 0, 30, 20]] * 2), (20, 30)
    )
    scores, classes = np.float32([0.5, 0.6]), np.array([CAT, DOG])
    semantic = np.ones((20, 30), np.uint8)
    tight = fuse(crop_dense(dense), scores, classes, semantic, CHANNELS, LABELS)
    loose = fuse(whole, scores, classes, semantic, CHANNELS, LABELS)
    np.testing.assert_array_equal(tight.segments, loose.segments)
    assert tight.names == ("dog", "cat")


@pytest.mark.parametrize(("limit", "there"), [(0.5, True), (0.4999, False), (0.3, False)])
def test_an_overlap_equal_to_the_limit_is_allowed(limit, there):
    dense = np.zeros((2, 10, 10), np.bool_)
    dense[0, :5], dense[1, 3:7] = True, True
    semantic = np.zeros((10, 10), np.uint8)
    scores, classes = np.float32([0.9, 0.8]), np.array([CAT, DOG])
    found = fuse(crop_dense(dense), scores, classes, semantic, CHANNELS, LABELS, overlap_limit=limit)
    assert ("dog" in found.names) == there
    if there:
        assert found.areas.tolist() == [50, 20]
        assert (found.segments[5:7] == 2).all()


@pytest.mark.parametrize(("limit", "there"), [(40, True), (41, False)])
def test_the_stuff_limit_counts_what_instances_left(limit, there):
    dense = np.zeros((1, 10, 10), np.bool_)
    dense[0, :6] = True
    semantic = np.ones((10, 10), np.uint8)
    found = fuse(
        crop_dense(dense),
        np.float32([1]),
        np.array([CAT]),
        semantic,
        CHANNELS,
        LABELS,
        stuff_area_limit=limit,
    )
    assert found.names == (("cat", "grass") if there else ("cat",))
    assert (found.segments[6:] == (2 if there else 0)).all()


def test_channels_of_one_class_are_one_segment():
    semantic = np.full((10, 10), 2, np.uint8)
    semantic[5:] = 5
    nothing = (crop_dense(np.zeros((0, 10, 10), np.bool_)), np.zeros(0, np.float32), np.zeros(0, np.int32))
    found = fuse(*nothing, semantic, CHANNELS, LABELS, stuff_area_limit=100)
    assert found.names == ("sky",)
    assert found.areas.tolist() == [100]


def test_more_segments_than_a_byte_holds():
    count = 400
    dense = np.zeros((count, 20, 40), np.bool_)
    dense.reshape(count, -1)[np.arange(count), np.arange(count) * 2] = True
    scores = np.linspace(1, 0.1, count).astype(np.float32)
    semantic = np.ones((20, 40), np.uint8)
    found = fuse(
        crop_dense(dense),
        scores,
        np.zeros(count, np.int32),
        semantic,
        CHANNELS,
        LABELS,
        stuff_area_limit=400,
    )
    assert len(found) == 401
    np.testing.assert_array_equal(found.segments.ravel()[::2], np.arange(1, 401))
    assert (found.segments.ravel()[1::2] == 401).all()


def test_inputs_are_not_changed():
    dense = np.ones((2, 6, 6), np.bool_)
    crops, semantic = crop_dense(dense), np.ones((6, 6), np.uint8)
    data = crops.data.copy()
    fuse(crops, np.float32([0.1, 0.2]), np.array([CAT, DOG]), semantic, CHANNELS, LABELS)
    np.testing.assert_array_equal(crops.data, data)
    assert (semantic == 1).all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scores": np.ones(1, np.float32)}, "2 masks need"),
        ({"scores": np.float32([1, np.nan])}, "finite scores"),
        ({"classes": np.zeros(3, int)}, "2 masks need"),
        ({"classes": np.array([0, 5])}, "class 5 of an instance"),
        ({"classes": np.array([0, -1])}, "class -1 of an instance"),
        ({"classes": np.array([0, SKY])}, "no thing"),
        ({"semantic": np.zeros((6, 7), np.uint8)}, r"belong to a \[6, 6\] frame"),
        ({"semantic": np.zeros((6, 6), np.float32)}, "integers"),
        ({"semantic": np.full((6, 6), 6, np.uint8)}, "outside 0..5"),
        ({"semantic": np.full((6, 6), -1)}, "outside 0..5"),
        ({"semantic_classes": (5,)}, "outside the 5 labels"),
        ({"semantic_classes": (-2,)}, "outside the 5 labels"),
        ({"semantic_classes": (-1,) * 65535}, "too many"),
    ],
)
def test_what_does_not_belong_together_is_refused(changes, says):
    fields = {
        "masks": crop_dense(np.ones((2, 6, 6), np.bool_)),
        "scores": np.float32([0.5, 0.4]),
        "classes": np.array([CAT, DOG]),
        "semantic": np.zeros((6, 6), np.uint8),
        "semantic_classes": CHANNELS,
        "labels": LABELS,
    }
    with pytest.raises(ResultError, match=says):
        fuse(**(fields | changes))


NETWORK = (40, 60)
SPEC = PanopticFusion(semantic_classes=CHANNELS, score_threshold=0.3, stuff_area_limit=50)


def outputs(**changes):
    rng = np.random.default_rng(0)
    logits = cv2.resize(rng.normal(size=(4, 5, len(CHANNELS))).astype(np.float32), (15, 10))
    return {
        "boxes": np.float32([[[5, 5, 30, 30], [20, 10, 50, 35], [22, 12, 48, 33], [0, 0, 0, 0]]]),
        "scores": np.float32([[0.5, 0.9, 0.8, 0.3]]),
        "classes": np.array([[CAT, DOG, CAT, 99]], np.int32),
        "masks": rng.uniform(0.3, 1, (1, 4, 14, 14)).astype(np.float32),
        "semantic": np.ascontiguousarray(logits.transpose(2, 0, 1))[None],
    } | changes


def shown(preprocessing, frame):
    return preprocess(preprocessing, np.zeros((*frame, 3), np.uint8))[1]


@pytest.mark.parametrize(
    "geometry", [shown(Stretch(size=NETWORK), (90, 70)), shown(Letterbox(size=NETWORK), (30, 90))]
)
def test_outputs_are_pasted_resampled_and_fused(geometry):
    given_outputs = outputs()
    found = decode(SPEC, given_outputs, geometry)
    across, down = geometry.axes()
    place_x = (np.arange(across.source_length) + 0.5) * across.scale + across.offset
    place_y = (np.arange(down.source_length) + 0.5) * down.scale + down.offset
    channels = given_outputs["semantic"][0].argmax(axis=0)
    semantic = channels[np.floor(place_y / 4).astype(int)][:, np.floor(place_x / 4).astype(int)]
    boxes = geometry.to_source(given_outputs["boxes"][0, :3].reshape(-1, 2, 2)).reshape(-1, 4)
    masks = paste_box_masks(given_outputs["masks"][0, :3], boxes, geometry.source_size, 0.5).dense()
    panoptic, table = slow(
        masks, given_outputs["scores"][0, :3], [CAT, DOG, CAT], semantic, CHANNELS, 0.5, 50
    )
    np.testing.assert_array_equal(found.segments, panoptic)
    assert found.classes.tolist() == [kind for kind, _ in table]
    assert found.things.sum() == 2
    assert found.display_threshold == SPEC.display_threshold


def test_prototype_masks_can_be_fused_too():
    geometry = shown(Stretch(size=NETWORK), (90, 70))
    spec = msgspec.structs.replace(SPEC, mask_rule=MaskRule.BILINEAR_HALF_PIXEL, overlap_limit=1.0)
    found = decode(spec, outputs(), geometry)
    best = paste_prototype_masks(outputs()["masks"][0, 1:2], geometry, 0.5).dense()[0]
    np.testing.assert_array_equal(found.segments == 1, best)


def test_a_map_of_channels_does_what_its_logits_do():
    geometry = shown(Stretch(size=NETWORK), (50, 50))
    logits = outputs()["semantic"]
    whole = decode(SPEC, outputs(), geometry)
    for dtype in (np.uint8, np.int32, np.int64):
        part = decode(SPEC, outputs(semantic=logits.argmax(axis=1).astype(dtype)), geometry)
        np.testing.assert_array_equal(part.segments, whole.segments)


def test_equal_logits_go_to_the_lowest_channel():
    logits = np.zeros((1, len(CHANNELS), 4, 6), np.float32)
    logits[:, 0] = -1
    found = decode(SPEC, outputs(semantic=logits), shown(Stretch(size=NETWORK), (50, 50)))
    assert [name for name, thing in zip(found.names, found.things, strict=True) if not thing] == ["grass"]


def test_pixels_outside_the_network_input_are_void():
    crop = scaling((60, 80), NETWORK, (1.0, 1.0), (-20.0, -20.0))
    nobody = np.zeros((1, 4), np.float32)
    semantic = np.ones((1, 4, 6), np.int32)
    found = decode(SPEC, outputs(scores=nobody, semantic=semantic), crop)
    assert (found.segments[20:, 20:] == 1).all()
    assert found.areas.tolist() == [40 * 60]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"semantic": np.zeros((1, 5, 4, 6), np.float32)}, "shape"),
        ({"semantic": np.zeros((1, 6, 0, 6), np.float32)}, "shape"),
        ({"semantic": np.zeros((1, 6, 4, 6), np.float64)}, "float64"),
        ({"semantic": np.full((1, 6, 4, 6), np.nan, np.float32)}, "not a number"),
        ({"semantic": np.zeros((1, 6, 4, 6), np.int32)}, "shape"),
        ({"semantic": np.zeros((1, 4, 6), np.int16)}, "int16"),
        ({"semantic": np.full((1, 4, 6), 6, np.int32)}, "outside 0..5"),
        ({"semantic": np.full((1, 4, 6), -1, np.int32)}, "outside 0..5"),
        ({"scores": np.full((1, 4), np.nan, np.float32)}, "not a number"),
        ({"masks": np.zeros((1, 3, 14, 14), np.float32)}, "shape"),
        ({"classes": np.full((1, 4), SKY, np.int32)}, "no thing"),
    ],
)
def test_wrong_outputs_are_named(changes, says):
    with pytest.raises(ResultError, match=says):
        decode(SPEC, outputs(**changes), shown(Stretch(size=NETWORK), (50, 50)))


def test_a_missing_map_and_an_empty_list_of_channels_are_refused():
    geometry = shown(Stretch(size=NETWORK), (50, 50))
    without = {name: array for name, array in outputs().items() if name != "semantic"}
    with pytest.raises(ResultError, match="no output 'semantic'"):
        decode(SPEC, without, geometry)
    empty = msgspec.structs.replace(SPEC, semantic_classes=())
    with pytest.raises(ResultError, match="semantic_classes are empty"):
        decode(empty, outputs(), geometry)


def test_an_unsettled_frame_gives_its_result_and_says_so():
    geometry = shown(Stretch(size=NETWORK), (50, 50))
    spec = msgspec.structs.replace(SPEC, settled="settled")
    for settled in (1, 0):
        found = decode(spec, outputs(settled=np.array([settled], np.int32)), geometry)
        assert found.settled == bool(settled)

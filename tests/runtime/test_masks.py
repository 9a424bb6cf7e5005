"""Crops: their arithmetic, and pasting against a resampling of the whole frame.

`full_frame_values` writes the definition of `runtime/pixels/paste.py` down once more, for every pixel of the
frame: the same float64 expression in the same order, positions rounded to 2**-22 of a cell. Pasted crops must
equal it exactly. That the definition itself is the usual resampling is checked against OpenCV and against
torch's grid_sample, whose float32 arithmetic differs in the last digits.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgewise.runtime.contract.preprocessing import AffineCrop, Letterbox
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.pixels import paste
from edgewise.runtime.pixels.geometry import Geometry, scaling
from edgewise.runtime.pixels.masks import MaskCrops, crop_dense, mask_iou
from edgewise.runtime.pixels.paste import paste_box_masks, paste_prototype_masks
from edgewise.runtime.system.errors import ResultError

lengths = st.integers(1, 50)
sizes = st.tuples(lengths, lengths)
# Ties are wanted: few distinct values, of which one is the threshold.
close_to_half = float(np.nextafter(np.float32(0.5), np.float32(1)))
three_tenths = float(np.float32(0.3))
values = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, close_to_half, three_tenths]) | st.floats(0, 1, width=32)
mask_stacks = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9)), elements=values
)
thresholds = st.sampled_from([0.5, 0.3, 0.0])
coordinates = st.floats(-60, 110) | st.integers(-60, 110)


def taps(positions):
    steps = np.rint(positions * 2**22).astype(np.int64)
    return steps >> 22, (steps & (2**22 - 1)) / 2**22


def full_frame_values(mask, positions_x, positions_y):
    (x, tx), (y, ty) = taps(positions_x), taps(positions_y)
    repeated = np.pad(mask.astype(np.float64), ((0, 1), (0, 1)))

    def lerp(a, b, t):
        return a + t * (b - a)

    upper = lerp(repeated[np.ix_(y, x)], repeated[np.ix_(y, x + 1)], tx)
    below = lerp(repeated[np.ix_(y + 1, x)], repeated[np.ix_(y + 1, x + 1)], tx)
    return lerp(upper, below, ty[:, None])


def positions(begin, end, cells, pixels):
    u = (np.arange(pixels) + 0.5 - begin) / ((end - begin) / cells) - 0.5
    return np.clip(u, 0, cells - 1)


def input_in_frame(scale, offset, network):
    """Where the network input begins and ends on one axis of the frame."""
    return -offset / scale, (network - offset) / scale


def seen(begin, end, pixels):
    centre = np.arange(pixels) + 0.5
    return (centre >= begin) & (centre < end)


def prototype_reference(mask, geometry, threshold):
    (scale_x, _, offset_x), (_, scale_y, offset_y) = geometry.matrix.tolist()
    (height, width), (net_h, net_w) = geometry.source_size, geometry.network_size
    across, down = input_in_frame(scale_x, offset_x, net_w), input_in_frame(scale_y, offset_y, net_h)
    x, y = positions(*across, mask.shape[1], width), positions(*down, mask.shape[0], height)
    visible = seen(*across, width) & seen(*down, height)[:, None]
    return (full_frame_values(mask, x, y) > threshold) & visible


def box_values(mask, box, frame_size):
    """The mask in a ring of zeros, whose own box is a cell larger on every side."""
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    pitch_x, pitch_y = (x2 - x1) / mask.shape[1], (y2 - y1) / mask.shape[0]
    x = (np.arange(frame_size[1]) + 0.5 - (x1 - pitch_x)) / pitch_x - 0.5
    y = (np.arange(frame_size[0]) + 0.5 - (y1 - pitch_y)) / pitch_y - 0.5
    ringed = np.pad(mask, 1)
    return full_frame_values(ringed, np.clip(x, 0, ringed.shape[1] - 1), np.clip(y, 0, ringed.shape[0] - 1))


def box_reference(mask, box, frame_size, threshold):
    if box[2] <= box[0] or box[3] <= box[1]:
        return np.zeros(frame_size, bool)
    return box_values(mask, box, frame_size) > threshold


def stretch(source, network):
    return scaling(source, network, (network[1] / source[1], network[0] / source[0]), (0.0, 0.0))


@given(mask_stacks, sizes, sizes, thresholds)
@settings(deadline=None, max_examples=100)
def test_prototype_masks_equal_the_full_frame(masks, source, network, threshold):
    geometry = stretch(source, network)
    crops = paste_prototype_masks(masks, geometry, threshold)
    assert crops.frame_size == source
    for mask, dense in zip(masks, crops.dense(), strict=True):
        np.testing.assert_array_equal(dense, prototype_reference(mask, geometry, threshold))


@given(mask_stacks, sizes, sizes, st.booleans(), st.tuples(st.floats(-9, 40), st.floats(-9, 40)))
@settings(deadline=None, max_examples=80)
def test_prototype_masks_equal_the_full_frame_through_padding_and_crops(masks, source, network, pad, corner):
    frame = np.zeros((*source, 3), np.uint8)
    if pad:
        _, geometry = preprocess(Letterbox(size=network), frame)
    else:
        box = (*corner, corner[0] + 13.7, corner[1] + 9.2)
        _, geometry = preprocess(AffineCrop(size=network), frame, box=box)
    crops = paste_prototype_masks(masks, geometry, 0.5)
    for mask, dense in zip(masks, crops.dense(), strict=True):
        np.testing.assert_array_equal(dense, prototype_reference(mask, geometry, 0.5))


@given(mask_stacks, st.lists(st.tuples(*[coordinates] * 4), min_size=3, max_size=3), sizes, thresholds)
@settings(deadline=None, max_examples=120)
def test_box_masks_equal_the_full_frame(masks, boxes, frame_size, threshold):
    boxes = np.array(boxes, np.float64)[: len(masks)]
    crops = paste_box_masks(masks, boxes, frame_size, threshold)
    for mask, box, dense in zip(masks, boxes, crops.dense(), strict=True):
        np.testing.assert_array_equal(dense, box_reference(mask, box, frame_size, threshold))


@pytest.mark.parametrize("cells", [28, 138])
def test_sizes_of_use_equal_the_full_frame(cells):
    rng = np.random.default_rng(cells)
    masks = rng.random((6, cells, cells), dtype=np.float32)
    frame_size = (270, 480)
    corners = rng.uniform(-60, 400, (6, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 190, (6, 2))], axis=1).astype(np.float32)
    boxed = paste_box_masks(masks, boxes, frame_size, 0.5).dense()
    geometry = stretch(frame_size, (550, 550))
    whole = paste_prototype_masks(masks, geometry, 0.5).dense()
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(boxed[index], box_reference(mask, boxes[index], frame_size, 0.5))
        np.testing.assert_array_equal(whole[index], prototype_reference(mask, geometry, 0.5))


@given(mask_stacks, sizes, sizes)
@settings(deadline=None, max_examples=40)
def test_batches_do_not_show(masks, source, network):
    together = paste_prototype_masks(masks, stretch(source, network), 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paste, "_BATCH", 1)
        one_by_one = paste_prototype_masks(masks, stretch(source, network), 0.5)
    np.testing.assert_array_equal(together.places, one_by_one.places)
    np.testing.assert_array_equal(together.data, one_by_one.data)


def test_the_definition_is_opencvs_bilinear_resize():
    mask = np.random.default_rng(0).random((23, 31), dtype=np.float32)
    ours = full_frame_values(mask, positions(0, 400, 31, 400), positions(0, 97, 23, 97))
    np.testing.assert_allclose(ours, cv2.resize(mask, (400, 97)), atol=2e-5)


def test_the_definition_is_torchs_grid_sample():
    import torch

    mask = np.random.default_rng(0).random((28, 28), dtype=np.float32)
    x1, y1, x2, y2 = box = (-3.25, 4.5, 71.75, 60.125)
    x = ((torch.arange(90) + 0.5) - x1) / (x2 - x1) * 2 - 1
    y = ((torch.arange(70) + 0.5) - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack([x.expand(70, 90), y[:, None].expand(70, 90)], dim=2)[None]
    theirs = torch.nn.functional.grid_sample(torch.from_numpy(mask)[None, None], grid, align_corners=False)
    np.testing.assert_allclose(box_values(mask, box, (70, 90)), theirs[0, 0].numpy(), atol=2e-5)


def test_only_what_a_mask_can_reach_is_computed():
    masks = np.zeros((2, 138, 138), np.float32)
    masks[1, 40:44, 60:66] = 1
    crops = paste_prototype_masks(masks, stretch((1380, 1380), (550, 550)), 0.5)
    x, y, w, h = crops.places[1]
    assert crops.places[0, 2:].prod() == 0
    assert w <= 80
    assert h <= 60
    assert (x >= 590, y >= 390) == (True, True)
    expected = prototype_reference(masks[1], stretch((1380, 1380), (550, 550)), 0.5).sum()
    assert crops.areas().tolist() == [0, expected]
    assert 60 * 40 - 60 < expected <= 60 * 40


@pytest.mark.parametrize(
    "masks",
    [
        np.zeros((2, 4, 4), np.float64),
        np.zeros((4, 4), np.float32),
        np.zeros((1, 0, 4), np.float32),
        np.full((1, 4, 4), np.nan, np.float32),
        np.full((1, 4, 4), 3.0, np.float32),
        np.full((1, 4, 4), -2.0, np.float32),
    ],
)
def test_masks_that_are_no_probabilities_are_refused(masks):
    with pytest.raises(ResultError):
        paste_prototype_masks(masks, stretch((9, 9), (8, 8)), 0.5)
    with pytest.raises(ResultError):
        paste_box_masks(masks, np.zeros((len(masks), 4)), (9, 9), 0.5)


def test_wrong_boxes_and_turned_geometry_are_refused():
    masks = np.zeros((1, 4, 4), np.float32)
    for boxes in (np.zeros((2, 4)), np.array([[0, 0, np.inf, 1]]), np.zeros(4)):
        with pytest.raises(ResultError, match="boxes"):
            paste_box_masks(masks, boxes, (9, 9), 0.5)
    turned = Geometry((9, 9), (9, 9), np.array([[0, 1, 0], [-1, 0, 9.0]]))
    with pytest.raises(ResultError, match="turned"):
        paste_prototype_masks(masks, turned, 0.5)


dense_stacks = hnp.arrays(np.bool_, st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9)))


@given(dense_stacks)
@settings(deadline=None)
def test_crops_of_dense_masks(dense):
    crops = crop_dense(dense)
    np.testing.assert_array_equal(crops.dense(), dense)
    np.testing.assert_array_equal(crops.areas(), dense.sum(axis=(1, 2)))
    for crop, mask in zip(crops, dense, strict=True):
        assert crop.sum() == mask.sum()
        if crop.size:
            assert crop[0].any()
            assert crop[:, -1].any()


@given(dense_stacks, st.data())
@settings(deadline=None)
def test_selection(dense, data):
    chosen = np.array(data.draw(st.lists(st.integers(0, max(0, len(dense) - 1)), max_size=5)), np.int64)
    chosen = chosen[: len(dense) * 5]
    np.testing.assert_array_equal(crop_dense(dense).select(chosen).dense(), dense[chosen])


@given(dense_stacks)
@settings(deadline=None)
def test_iou_equals_the_dense_one(dense):
    other = np.roll(dense, 1, axis=2)
    iou = mask_iou(crop_dense(dense), crop_dense(other))
    both = (dense[:, None] & other[None]).sum(axis=(2, 3))
    either = (dense[:, None] | other[None]).sum(axis=(2, 3))
    np.testing.assert_array_equal(iou, both / np.maximum(either, 1))


def test_iou_needs_one_frame_size():
    with pytest.raises(ResultError):
        mask_iou(*(crop_dense(np.zeros((0, 4, width), np.bool_)) for width in (4, 5)))


@pytest.mark.parametrize("place", [[-1, 0, 2, 2], [0, 0, 5, 2], [0, 3, 2, 2], [0, 0, -1, 2]])
def test_crops_stay_in_the_frame(place):
    with pytest.raises(ResultError, match="leaves"):
        MaskCrops(np.zeros(4, bool), np.array([place], np.int64), (4, 4))


def test_crops_need_their_pixels():
    with pytest.raises(ResultError, match="bools"):
        MaskCrops(np.zeros(3, bool), np.array([[0, 0, 2, 2]], np.int64), (4, 4))


def test_a_float32_just_above_the_threshold_counts():
    masks = np.full((1, 2, 2), 0.3, np.float32)
    assert float(masks[0, 0, 0]) > 0.3
    assert paste_prototype_masks(masks, stretch((4, 4), (2, 2)), 0.3).areas().tolist() == [16]

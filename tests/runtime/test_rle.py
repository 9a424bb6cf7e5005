"""RLE strings equal pycocotools' byte for byte."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from edgewise.runtime.pixels import rle
from edgewise.runtime.pixels.masks import MaskCrops, crop_dense
from edgewise.runtime.pixels.paste import paste_box_masks
from edgewise.runtime.pixels.rle import decode_rle, encode_rle, rle_counts
from edgewise.runtime.system.errors import ResultError

stacks = hnp.arrays(
    np.bool_,
    st.tuples(st.integers(0, 3), st.integers(1, 12), st.integers(1, 12)),
    fill=st.booleans(),
)


def reference(dense):
    return coco.encode(np.asfortranarray(dense, np.uint8))["counts"].decode()


@given(stacks)
@settings(deadline=None, max_examples=150)
def test_strings_equal_pycocotools(dense):
    strings = encode_rle(crop_dense(dense))
    assert strings == [reference(mask) for mask in dense]
    for string, mask in zip(strings, dense, strict=True):
        np.testing.assert_array_equal(decode_rle(string, mask.shape), mask)
        assert rle_counts(string)[1::2].sum() == mask.sum()


@given(stacks, st.integers(0, 5), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3))
@settings(deadline=None)
def test_loose_crops_give_the_same_strings(dense, left, top, right, bottom):
    """Crops with empty margins, full rows and full columns, anywhere in the frame."""
    framed = np.pad(dense, ((0, 0), (top, bottom), (left, right)))
    count, height, width = dense.shape
    places = np.tile(np.array([[left, top, width, height]], np.int64), (count, 1))
    crops = MaskCrops(dense.transpose(0, 2, 1).ravel(), places, framed.shape[1:])
    assert encode_rle(crops) == [reference(mask) for mask in framed]


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 6), (300, 400)])
def test_full_and_empty_masks(fill, size):
    dense = np.full((2, *size), fill)
    assert encode_rle(crop_dense(dense)) == [reference(mask) for mask in dense]


def test_runs_join_over_columns_only_within_a_mask():
    dense = np.ones((2, 4, 3), bool)
    places = np.array([[0, 0, 3, 4], [0, 0, 3, 4]], np.int64)
    crops = MaskCrops(np.ones(24, bool), places, (4, 3))
    assert encode_rle(crops) == [reference(mask) for mask in dense]


def test_a_4k_frame_of_pasted_masks():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-100, [3800, 2100], (12, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 400, (12, 2))], axis=1)
    crops = paste_box_masks(rng.random((12, 28, 28), dtype=np.float32), boxes, (2160, 3840), 0.5)
    strings = encode_rle(crops)
    assert strings == [reference(mask) for mask in crops.dense()]
    assert [rle_counts(string)[1::2].sum() for string in strings] == crops.areas().tolist()


def test_no_masks_no_strings():
    assert encode_rle(crop_dense(np.zeros((0, 4, 4), np.bool_))) == []


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=8))
@settings(deadline=None)
def test_counts_of_any_size_are_read_back(counts):
    string = coco.frPyObjects({"counts": counts, "size": [1, 1]}, 1, 1)["counts"].decode()
    assert rle_counts(string).tolist() == counts


@pytest.mark.parametrize("string", ["", "é", "9", "0q", "P", "oooooooooooooooo0", "\x00"])
def test_what_is_no_rle_is_refused(string):
    with pytest.raises(ResultError):
        decode_rle(string, (4, 4))


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=20))
@settings(deadline=None)
def test_any_text_decodes_to_the_frame_or_is_refused(text):
    with contextlib.suppress(ResultError):
        assert decode_rle(text, (3, 3)).shape == (3, 3)


@given(stacks)
@settings(deadline=None, max_examples=60)
def test_batches_do_not_show(dense):
    crops = crop_dense(dense)
    together = encode_rle(crops)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rle, "_BATCH", 1)
        assert encode_rle(crops) == together

"""Augmentation: pictures, boxes and masks move together, and nothing is left unlabelled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.models.data.augment import (
    FILL,
    KEPT_SHARE,
    NO_AUGMENTATION,
    Augmentation,
    augment,
    cut,
    mirror,
    tight_box,
    vary_colour,
)
from edgewise.models.data.example import Example

Array = np.ndarray[Any, Any]
STUFF = 9


@st.composite
def _examples(draw: st.DrawFn) -> Example:
    """Rectangles painted in their own colour on a dark frame, so that pixels prove where the mask belongs."""
    height, width = draw(st.integers(8, 60)), draw(st.integers(8, 60))
    frame, masks, boxes = np.zeros((height, width, 3), np.uint8), [], []
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    owner = np.full((height, width), -1)
    for index in range(draw(st.integers(0, 4))):
        top, left = int(rng.integers(height - 2)), int(rng.integers(width - 2))
        bottom, right = int(rng.integers(top + 1, height + 1)), int(rng.integers(left + 1, width + 1))
        owner[top:bottom, left:right] = index
    for index in range(owner.max() + 1):
        mask = owner == index
        if mask.any():
            frame[mask] = 100 + 30 * len(masks)
            masks.append(mask)
            boxes.append(tight_box(mask))
    return Example(
        frame,
        np.array(boxes, np.float64).reshape(-1, 4),
        np.arange(len(masks)),
        np.array(masks, np.bool_).reshape(len(masks), height, width),
        np.array([[1.0, 2.0, 5.0, 6.0]]),
        np.where(frame[..., 0] > 0, (frame[..., 0].astype(np.int16) - 100) // 30, STUFF),
    )


def _check_agreement(example: Example) -> None:
    height, width = example.frame.shape[:2]
    assert example.masks.shape == (len(example.boxes), height, width)
    assert len(example.classes) == len(example.boxes)
    assert example.semantic is not None
    assert example.semantic.shape == (height, width)
    for box, label, mask in zip(example.boxes, example.classes, example.masks, strict=True):
        assert tuple(box) == tight_box(mask)
        assert set(np.unique(example.frame[mask])) == {100 + 30 * label}
        assert set(np.unique(example.semantic[mask])) == {label}
    # Nothing is known of the canvas around the picture, nor of what is left of an object as a scrap.
    unknown = example.semantic == -1
    assert not (example.masks.any(axis=0) & unknown).any()
    assert (example.frame[example.semantic == STUFF] == 0).all()


@given(_examples())
def test_mirroring_twice_changes_nothing(example: Example) -> None:
    once = mirror(example)
    _check_agreement(once)
    again = mirror(once)
    for name in ("frame", "boxes", "classes", "masks", "crowd_boxes", "semantic"):
        np.testing.assert_array_equal(getattr(again, name), getattr(example, name))


@given(_examples(), st.integers(-20, 50), st.integers(-20, 50), st.integers(4, 80), st.integers(4, 80))
def test_a_window_moves_everything_together(
    example: Example, left: int, top: int, width: int, height: int
) -> None:
    frame_height, frame_width = example.frame.shape[:2]
    left, top = min(left, frame_width - 1), min(top, frame_height - 1)
    if left + width <= 0 or top + height <= 0:
        return
    result = cut(example, (left, top, left + width, top + height))
    assert result.frame.shape == (height, width, 3)
    _check_agreement(result)
    # Every painted pixel is in a kept mask or inside an ignored region.
    ignored = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in result.crowd_boxes.astype(int):
        ignored[y1:y2, x1:x2] = True
    painted = (result.frame[..., 0] >= 100) & (result.frame != FILL).any(axis=2)
    assert not (painted & ~result.masks.any(axis=0) & ~ignored).any()


def test_scraps_are_ignored_and_never_labelled() -> None:
    mask = np.zeros((1, 20, 20), bool)
    mask[0, :, 0:10] = True
    frame = np.where(mask[0][..., None], 100, 0).astype(np.uint8).repeat(3, axis=2)
    example = Example(frame, np.array([[0.0, 0, 10, 20]]), np.array([0]), mask, np.zeros((0, 4)))
    scrap = cut(example, (9, 0, 20, 20))
    assert KEPT_SHARE > 0.1
    assert len(scrap.boxes) == 0
    assert scrap.crowd_boxes.tolist() == [[0, 0, 1, 20]]
    half = cut(example, (5, 0, 20, 20))
    assert half.boxes.tolist() == [[0, 0, 5, 20]]
    gone = cut(example, (10, 0, 20, 20))
    assert len(gone.boxes) == len(gone.crowd_boxes) == 0


@given(_examples(), st.integers(0, 1000))
def test_geometry_alone_keeps_pixels_and_masks_in_agreement(example: Example, seed: int) -> None:
    settings = replace(NO_AUGMENTATION, mirror=0.5, zoom_out=2.5, zoom_in=0.3, stretch=2.0)
    _check_agreement(augment(np.random.default_rng(seed), example, settings))


@given(_examples(), st.integers(0, 1000))
def test_the_same_generator_gives_the_same_variation(example: Example, seed: int) -> None:
    left = augment(np.random.default_rng(seed), example, Augmentation())
    right = augment(np.random.default_rng(seed), example, Augmentation())
    for name in ("frame", "boxes", "classes", "masks", "crowd_boxes", "semantic"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@given(_examples(), st.integers(0, 1000))
def test_no_augmentation_is_the_identity(example: Example, seed: int) -> None:
    result = augment(np.random.default_rng(seed), example, NO_AUGMENTATION)
    np.testing.assert_array_equal(result.frame, example.frame)
    np.testing.assert_array_equal(result.boxes, example.boxes)


@pytest.mark.parametrize(
    ("field", "value"), [("brightness", 32.0), ("contrast", 0.5), ("saturation", 0.9), ("hue", 90.0)]
)
def test_each_colour_term_changes_colours(field: str, value: float) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    before = frame.copy()
    varied = vary_colour(np.random.default_rng(3), frame, replace(NO_AUGMENTATION, **{field: value}))
    np.testing.assert_array_equal(frame, before)
    assert np.abs(varied.astype(int) - frame).mean() > 1

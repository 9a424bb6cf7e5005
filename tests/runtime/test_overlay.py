"""Overlays: what is touched, what is left out, and that a label can be read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.pixels.colours import instance_colour
from edgewise.runtime.pixels.masks import crop_dense

SIZE = (200, 300)


def result(scores=(0.9, 0.4), display_threshold=0.3):
    masks = np.zeros((2, *SIZE), np.bool_)
    masks[0, 60:120, 40:100] = True
    masks[1, 100:180, 200:280] = True
    return Instances(
        boxes=np.array([[40, 60, 100, 120], [200, 100, 280, 180]], np.float32),
        scores=np.array(scores, np.float32),
        classes=np.array([0, 1], np.int32),
        masks=crop_dense(masks),
        labels=(ClassLabel(id=1, name="cat"), ClassLabel(id=2, name="dog")),
        frame_size=SIZE,
        display_threshold=display_threshold,
    )


def grey():
    return np.full((*SIZE, 3), 128, np.uint8)


def changed(drawn):
    return (drawn != 128).any(axis=2)


def test_the_frame_is_copied():
    frame = grey()
    drawn = result().draw(frame)
    assert (frame == 128).all()
    assert not np.shares_memory(drawn, frame)


def test_masks_are_tinted_and_the_rest_is_left_alone():
    touched = changed(result().draw(grey()))
    assert touched[62:118, 42:98].all()
    assert touched[102:178, 202:278].all()
    # Outline and label need a border; far away nothing changes.
    assert not touched[130:, :190].any()
    assert not touched[:60, 180:].any()


def test_a_tint_keeps_the_picture_visible():
    frame = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    inside = (slice(70, 110), slice(50, 90))
    drawn = result().draw(frame)[inside]
    for channel in range(3):
        assert np.corrcoef(drawn[..., channel].ravel(), frame[inside][..., channel].ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("threshold", "display", "shown"),
    [(None, 0.3, 2), (None, 0.5, 1), (0.95, 0.3, 0), (0.4, 0.9, 2), (0, 0.9, 2)],
)
def test_only_scores_of_at_least_the_threshold_are_drawn(threshold, display, shown):
    threshold = None if threshold is None else np.float32(threshold)
    touched = changed(result(display_threshold=display).draw(grey(), threshold=threshold))
    assert touched[90, 70] == (shown >= 1)
    assert touched[140, 240] == (shown >= 2)
    assert touched.any() == (shown > 0)


def test_labels_are_readable():
    """A filled plate above the box in the instance's colour, with letters that stand out from it."""
    drawn = result().draw(grey())
    plate = drawn[45:58, 42:90].reshape(-1, 3)
    colour = np.array(instance_colour(0, 0))
    assert (plate == colour).all(axis=1).mean() > 0.4
    luma = plate @ np.array([0.114, 0.587, 0.299])
    assert luma.max() - luma.min() > 80


def test_labels_stay_in_the_frame():
    found = result()
    at_edges = Instances(
        boxes=np.array([[0, 0, 8, 6], [295, 190, 300, 200]], np.float32),
        scores=found.scores,
        classes=found.classes,
        masks=crop_dense(np.zeros((2, *SIZE), np.bool_)),
        labels=found.labels,
        frame_size=SIZE,
    )
    touched = changed(at_edges.draw(grey()))
    assert touched[:40, :70].sum() > 300
    assert touched[160:, 230:].sum() > 300


def test_instances_and_classes_have_colours_of_their_own():
    colours = [instance_colour(kind, nth) for kind in range(6) for nth in range(3)]
    assert len(set(colours)) == len(colours)
    for first, second in itertools.pairwise(instance_colour(kind, 0) for kind in range(80)):
        assert np.abs(np.subtract(first, second)).max() > 60


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (2000, 40)])
def test_odd_frames_are_drawn(size):
    found = Instances(
        boxes=np.array([[0, 0, size[1], size[0]]], np.float32),
        scores=np.array([1], np.float32),
        classes=np.array([0], np.int32),
        masks=crop_dense(np.ones((1, *size), np.bool_)),
        labels=(ClassLabel(id=1, name="a name that is longer than the frame is wide"),),
        frame_size=size,
    )
    assert found.draw(np.zeros((*size, 3), np.uint8)).any()

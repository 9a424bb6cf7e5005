"""Which anchors and boxes a two-stage detector learns from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.models.layers.anchors import pyramid_anchors
from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.two_stage.sampling import (
    BACKGROUND,
    FOREGROUND,
    NEUTRAL,
    AnchorSampling,
    RoiSampling,
    anchor_targets,
    roi_targets,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NONE = torch.zeros(0, 4)
EXTENT = (96.0, 128.0)
ANCHORS = torch.cat(pyramid_anchors([(24, 32), (12, 16), (6, 8)], (4, 8, 16), ((16,), (32,), (64,))))


def random_boxes(seed: int, count: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, [100, 70], (count, 2))
    return torch.tensor(np.concatenate([low, low + rng.uniform(6, 60, (count, 2))], axis=1)).float()


def iou_table(boxes: torch.Tensor, others: torch.Tensor, one: float) -> np.ndarray:
    table = np.zeros((len(boxes), len(others)))
    for i, a in enumerate(boxes.double().tolist()):
        for j, b in enumerate(others.double().tolist()):
            width = max(min(a[2], b[2]) - max(a[0], b[0]) + one, 0.0)
            height = max(min(a[3], b[3]) - max(a[1], b[1]) + one, 0.0)
            areas = sum((box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (a, b))
            table[i, j] = width * height / (areas - width * height)
    return table


ALL = AnchorSampling(count=100_000)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.booleans())
def test_every_anchor_is_labelled_by_its_overlaps(seed, count, plus_one):
    anchors, boxes = ANCHORS[::7], random_boxes(seed, count)
    table = iou_table(boxes, anchors, 1.0 if plus_one else 0.0)
    best = table.max(axis=0)
    if min(np.abs(best - 0.7).min(), np.abs(best - 0.3).min()) < 1e-5:
        return
    coding = BoxCoding(plus_one=plus_one)
    got = anchor_targets(anchors, boxes, NONE, coding=coding, sampling=ALL, extent=EXTENT)
    top = table.max(axis=1, keepdims=True)
    # Anchors that tie in exact arithmetic may differ in their last bit.
    best_of_object = (table >= top - 1e-6) & (table > 0)
    possible = best_of_object.any(axis=0) | (best >= 0.7)
    labels = got.labels.numpy()
    for anchors_of_object in best_of_object:
        assert (labels[anchors_of_object] == FOREGROUND).any() or not anchors_of_object.any()
    assert not (labels[~possible] == FOREGROUND).any()
    assert (labels[best >= 0.7] == FOREGROUND).all()
    assert (labels[~possible & (best < 0.3)] == BACKGROUND).all()
    assert (labels[~possible & (best >= 0.3)] == NEUTRAL).all()
    chosen = got.labels == FOREGROUND
    wanted = coding.encode(boxes[got.objects[chosen]], anchors[chosen])
    torch.testing.assert_close(got.deltas[chosen], wanted)
    assert not got.deltas[~chosen].any()
    np.testing.assert_allclose(table[got.objects[chosen], np.flatnonzero(chosen)], best[chosen], atol=1e-6)


def test_all_anchors_that_share_an_objects_best_overlap_are_foreground():
    anchors = torch.tensor([[0.0, 0, 9, 9], [4, 0, 13, 9], [40, 40, 49, 49], [0, 20, 9, 29]])
    between = torch.tensor([[2.0, 0, 11, 9], [200, 200, 210, 210]])
    got = anchor_targets(
        anchors, between, NONE, coding=BoxCoding(plus_one=True), sampling=ALL, extent=(300.0, 300.0)
    )
    # IoU 8/12 with both neighbours, below 0.7; the object far away touches no anchor and claims none.
    assert got.labels.tolist() == [FOREGROUND, FOREGROUND, BACKGROUND, BACKGROUND]


def test_plus_one_moves_the_border_of_the_overlap():
    anchors, box = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10]]), torch.tensor([[0.0, 0, 10, 10]])
    # 8/12 = 0.667 continuous; 9/13 = 0.692 inclusive.
    sampling = AnchorSampling(count=10, positive_iou=0.68)
    for plus_one, label in ((True, FOREGROUND), (False, NEUTRAL)):
        got = anchor_targets(
            anchors, box, NONE, coding=BoxCoding(plus_one=plus_one), sampling=sampling, extent=EXTENT
        )
        assert got.labels.tolist() == [FOREGROUND, label]


@pytest.mark.parametrize(("border", "allowed"), [(None, 4), (0.0, 1), (2.0, 3)])
def test_anchors_over_the_border_take_no_part(border, allowed):
    anchors = torch.tensor([[0.0, 0, 127, 95], [0, 0, 128, 95], [-2, 0, 20, 20], [0, -9, 20, 20]])
    got = anchor_targets(
        anchors,
        NONE,
        NONE,
        coding=BoxCoding(plus_one=True),
        sampling=AnchorSampling(border=border),
        extent=EXTENT,
    )
    assert (got.labels == BACKGROUND).sum() == allowed


def test_anchors_in_a_crowd_are_no_background():
    crowd = torch.tensor([[0.0, 0, 63, 95]])
    got = anchor_targets(ANCHORS, NONE, crowd, coding=BoxCoding(plus_one=True), sampling=ALL, extent=EXTENT)
    within = (ANCHORS[:, 2] <= 63) & (ANCHORS[:, 0] >= 0) & (ANCHORS[:, 1] >= 0) & (ANCHORS[:, 3] <= 95)
    assert within.any()
    assert (got.labels[within] == NEUTRAL).all()
    assert (got.labels[ANCHORS[:, 0] >= 64] == BACKGROUND).all()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(2, 300))
def test_the_sample_has_its_size_and_at_most_half_foreground(seed, objects, count):
    boxes = random_boxes(seed, objects)
    coding = BoxCoding(plus_one=True)
    everything = anchor_targets(ANCHORS, boxes, NONE, coding=coding, sampling=ALL, extent=EXTENT)
    got = anchor_targets(
        ANCHORS,
        boxes,
        NONE,
        coding=coding,
        sampling=AnchorSampling(count=count),
        extent=EXTENT,
        generator=torch.Generator().manual_seed(seed),
    )
    foreground = int((got.labels == FOREGROUND).sum())
    assert foreground == min(int((everything.labels == FOREGROUND).sum()), count // 2)
    assert int((got.labels != NEUTRAL).sum()) == count
    taken = got.labels != NEUTRAL
    assert torch.equal(got.labels[taken], everything.labels[taken])


def test_the_choice_is_random_and_repeats_with_its_seed():
    def labels(seed):
        return anchor_targets(
            ANCHORS,
            random_boxes(1, 4),
            NONE,
            coding=BoxCoding(),
            sampling=AnchorSampling(count=64),
            extent=EXTENT,
            generator=torch.Generator().manual_seed(seed),
        ).labels

    assert torch.equal(labels(1), labels(1))
    assert not torch.equal(labels(1), labels(2))


# ---------------------------------------------------------------- regions


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 80), st.integers(4, 120), st.booleans())
def test_regions_carry_the_class_and_shift_of_their_object(seed, objects, proposed, count, plus_one):
    boxes, candidates = random_boxes(seed, objects), random_boxes(seed + 1, proposed)
    classes = torch.arange(objects) + 3
    coding = BoxCoding(weights=(10.0, 10.0, 5.0, 5.0), plus_one=plus_one)
    got = roi_targets(
        candidates,
        boxes,
        classes,
        NONE,
        coding=coding,
        sampling=RoiSampling(count=count),
        generator=torch.Generator().manual_seed(seed),
    )
    pool = torch.cat((candidates, boxes))
    table = iou_table(boxes, got.rois, 1.0 if plus_one else 0.0)
    best = table.max(axis=0) if objects else np.zeros(len(got.rois))
    if len(best) and np.abs(best - 0.5).min() < 1e-5:
        return
    full = iou_table(boxes, pool, 1.0 if plus_one else 0.0)
    positives = int((full.max(axis=0) >= 0.5).sum()) if objects else 0
    assert got.foreground == min(positives, count // 4)
    assert len(got.rois) == min(count, got.foreground + len(pool) - positives)
    front = slice(0, got.foreground)
    assert (best[front] >= 0.5).all()
    assert (best[got.foreground :] < 0.5).all()
    assert torch.equal(got.classes[front], classes[got.objects[front]])
    assert (got.classes[got.foreground :] == -1).all()
    if got.foreground:
        np.testing.assert_allclose(table[got.objects[front], np.arange(got.foreground)], best[front])
        torch.testing.assert_close(
            got.deltas[front], coding.encode(boxes[got.objects[front]], got.rois[front])
        )
    assert not got.deltas[got.foreground :].any()
    assert len(torch.unique(got.rois, dim=0)) == len(got.rois)


def test_objects_are_regions_themselves():
    boxes = random_boxes(3, 4)
    got = roi_targets(
        NONE, boxes, torch.tensor([5, 6, 7, 8]), NONE, coding=BoxCoding(), sampling=RoiSampling(count=16)
    )
    assert got.foreground == 4
    assert sorted(got.classes.tolist()) == [5, 6, 7, 8]
    assert torch.equal(got.rois, boxes[got.objects])
    assert not got.deltas.any()


def test_regions_in_a_crowd_are_no_background():
    crowd = torch.tensor([[0.0, 0, 60, 90]])
    candidates = torch.tensor([[5.0, 5, 40, 40], [50, 5, 100, 40], [10, 10, 20, 20]])
    got = roi_targets(
        candidates,
        torch.tensor([[10.0, 10, 20, 20]]),
        torch.tensor([1]),
        crowd,
        coding=BoxCoding(),
        sampling=RoiSampling(count=16),
    )
    assert got.foreground == 2
    assert got.rois[got.foreground :].tolist() == [[50, 5, 100, 40]]

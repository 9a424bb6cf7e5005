"""Which instances of two results are the same, and what counts when they are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.errors import ResultError
from edgewise.runtime.manifest import Budget, ClassLabel, Precision
from edgewise.runtime.manifest_kinds import ImageOutput, PanopticFusion, PrototypeInstances
from edgewise.runtime.masks import crop_dense
from edgewise.runtime.matching import Detections, display_threshold, margin_of, match, pooled
from edgewise.runtime.results import Instances

SIZE = (60, 80)
LABELS = (ClassLabel(id=11, name="a"), ClassLabel(id=22, name="b"))
Spec = tuple[float, int, tuple[int, int, int, int]]


def instances(*specs: Spec) -> Instances:
    """(score, class index, (x1, y1, x2, y2) whose mask fills it)."""
    masks = np.zeros((len(specs), *SIZE), np.bool_)
    for mask, (_, _, (left, top, right, bottom)) in zip(masks, specs, strict=True):
        mask[top:bottom, left:right] = True
    return Instances(
        boxes=np.array([box for _, _, box in specs], np.float32).reshape(-1, 4),
        scores=np.array([score for score, _, _ in specs], np.float32),
        classes=np.array([kind for _, kind, _ in specs], np.int32),
        masks=crop_dense(masks),
        labels=LABELS,
        frame_size=SIZE,
    )


def detections(*specs: Spec) -> Detections:
    return Detections.of_result(instances(*specs))


A = (0, 0, 20, 20)
B = (40, 30, 70, 55)


def test_the_same_result() -> None:
    both = detections((0.9, 0, A), (0.8, 1, B))
    matching = match(both, both, threshold=0.3)
    assert (matching.matched_fraction, matching.similarity, matching.score_difference) == (1, 1, 0)
    assert matching.pairs == ((0, 0), (1, 1))


def test_two_empty_results_agree() -> None:
    matching = match(detections(), detections(), threshold=0.3)
    assert (matching.matched_fraction, matching.similarity, matching.score_difference) == (1, 1, 0)
    assert not matching.one_side_empty


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_result_matches_nothing(swap: bool) -> None:
    sides = (detections((0.9, 0, A)), detections())
    matching = match(*reversed(sides), threshold=0.3) if swap else match(*sides, threshold=0.3)
    assert (matching.matched_fraction, matching.similarity, matching.score_difference) == (0, 0, 1)
    assert matching.one_side_empty
    assert (matching.invented if swap else matching.lost) == (0,)


def test_what_nobody_sees_does_not_count() -> None:
    matching = match(detections((0.1, 0, A)), detections(), threshold=0.3)
    assert matching.matched_fraction == 1
    assert not matching.one_side_empty


def test_another_class_is_another_instance() -> None:
    matching = match(detections((0.9, 0, A)), detections((0.9, 1, A)), threshold=0.3)
    assert matching.matched_fraction == 0
    assert (matching.lost, matching.invented) == ((0,), (0,))


def test_lost_and_invented_instances_weigh_alike() -> None:
    two, three = [(0.9, 0, A), (0.9, 0, B)], [(0.9, 0, A), (0.9, 0, B), (0.9, 0, (0, 40, 20, 60))]
    assert match(detections(*three), detections(*two), threshold=0.3).matched_fraction == pytest.approx(2 / 3)
    assert match(detections(*two), detections(*three), threshold=0.3).matched_fraction == pytest.approx(2 / 3)


def test_scores_near_the_threshold_may_cross_it() -> None:
    for low, high in ((0.28, 0.32), (0.32, 0.28)):
        matching = match(detections((low, 0, A)), detections((high, 0, A)), threshold=0.3, margin=0.05)
        assert matching.matched_fraction == 1
        assert matching.score_difference == pytest.approx(0.04)
    # 0.36 must find a partner of at least 0.25: 0.26 will do, 0.24 will not.
    assert match(detections((0.36, 0, A)), detections((0.26, 0, A)), threshold=0.3).matched_fraction == 1
    assert match(detections((0.36, 0, A)), detections((0.24, 0, A)), threshold=0.3).matched_fraction == 0
    # 0.34 may stay alone.
    assert match(detections((0.34, 0, A)), detections(), threshold=0.3).matched_fraction == 1


def test_the_best_pair_goes_first() -> None:
    shifted = (4, 0, 24, 20)
    matching = match(detections((0.9, 0, A), (0.8, 0, shifted)), detections((0.8, 0, shifted)), threshold=0.3)
    assert matching.pairs == ((1, 0),)
    assert matching.similarity == 1


def test_less_than_half_overlap_is_no_partner() -> None:
    # 20 x 20 against the same shifted by 8: 12 / 28 < 0.5; by 6: 14 / 26 > 0.5.
    assert match(detections((0.9, 0, A)), detections((0.9, 0, (8, 0, 28, 20))), threshold=0.3).pairs == ()
    close = match(detections((0.9, 0, A)), detections((0.9, 0, (6, 0, 26, 20))), threshold=0.3)
    assert close.similarity == pytest.approx(14 / 26)


def test_empty_masks_are_paired_by_their_boxes() -> None:
    empty = instances((0.9, 0, A), (0.9, 0, B))
    empty = Instances(
        empty.boxes,
        empty.scores,
        empty.classes,
        crop_dense(np.zeros((2, *SIZE), np.bool_)),
        LABELS,
        SIZE,
    )
    one = Detections.of_result(empty)
    matching = match(one, one, threshold=0.3)
    assert matching.pairs == ((0, 0), (1, 1))
    assert matching.similarity == 1


def test_frames_of_different_size_cannot_be_compared() -> None:
    other = Detections.of_coco([], (10, 10))
    with pytest.raises(ResultError, match="cannot be compared"):
        match(other, detections(), threshold=0.3)


def test_nan_scores_are_refused() -> None:
    with pytest.raises(ResultError, match="NaN"):
        match(detections((float("nan"), 0, A)), detections((0.9, 0, A)), threshold=0.3)


def test_coco_records_are_the_same_detections() -> None:
    found = instances((0.9, 0, A), (0.8, 1, B))
    records = json.loads(json.dumps(found.to_coco(0)))
    read = Detections.of_coco(records, SIZE)
    direct = Detections.of_result(found)
    np.testing.assert_array_equal(read.categories, [11, 22])
    np.testing.assert_allclose(read.shapes.boxes, direct.shapes.boxes)
    assert match(read, direct, threshold=0).similarity == 1
    with pytest.raises(ResultError, match="not a COCO result record"):
        Detections.of_coco([{"bbox": [0, 0, 1, 1]}], SIZE)
    with pytest.raises(ResultError, match="a mask is of a"):
        Detections.of_coco(records, (10, 10))


def test_frames_are_pooled_by_instance() -> None:
    good = match(detections((0.9, 0, A), (0.8, 1, B)), detections((0.9, 0, A), (0.6, 1, B)), threshold=0.3)
    bad = match(detections((0.9, 0, A)), detections(), threshold=0.3)
    both = pooled([good, bad])
    assert both.matched_fraction == pytest.approx(2 / 3)
    assert both.score_difference == pytest.approx(0.1)
    assert pooled([]).matched_fraction == 1


def test_thresholds_and_margins() -> None:
    assert display_threshold(PrototypeInstances(display_threshold=0.4)) == pytest.approx(0.4)
    assert display_threshold(PanopticFusion(semantic_classes=(), display_threshold=0.6)) == pytest.approx(0.6)
    assert display_threshold(ImageOutput()) == 0

    def margin(score_difference: float) -> float:
        return margin_of(
            Budget(
                precision=Precision.FP32,
                tensor_relative_error=0,
                matched_fraction=1,
                similarity=1,
                score_difference=score_difference,
                metric_drop=0,
            )
        )

    assert margin(0.001) == pytest.approx(0.003)
    assert margin(0.5) == pytest.approx(0.05)


corners = st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(1, 20), st.integers(1, 20)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)
specs = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1), corners), max_size=6)


@settings(max_examples=60, deadline=None)
@given(specs, specs)
def test_matching_is_symmetric_and_bounded(first: list[Spec], second: list[Spec]) -> None:
    one, two = detections(*first), detections(*second)
    there, back = match(one, two, threshold=0.3), match(two, one, threshold=0.3)
    assert there.matched_fraction == back.matched_fraction
    assert 0 <= there.matched_fraction <= 1
    assert (
        len({pair[0] for pair in there.pairs}) == len(there.pairs) == len({pair[1] for pair in there.pairs})
    )
    assert all(0.5 <= iou <= 1 for iou in there.similarities)


@settings(max_examples=30, deadline=None)
@given(specs)
def test_everything_matches_itself(first: list[Spec]) -> None:
    one = detections(*first)
    matching = match(one, one, threshold=0.0, margin=0.0)
    assert matching.matched_fraction == 1
    assert matching.similarity == 1
    assert matching.score_difference == pytest.approx(0)

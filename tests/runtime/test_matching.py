"""Which instances of two results are the same, and what counts when they are not."""

from __future__ import annotations

import json
from functools import partial

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.command.selftest import SAME_DECODING_SIMILARITY
from edgewise.runtime.compare.matching import Matching, margin_of, match, pooled
from edgewise.runtime.contract.manifest import (
    Budget,
    ClassKind,
    ClassLabel,
    KeypointLayout,
    Manifest,
    Precision,
)
from edgewise.runtime.contract.postprocessing import (
    DetectedBoxes,
    HeatmapKeypoints,
    PanopticFusion,
    PanopticSegments,
    PrototypeInstances,
)
from edgewise.runtime.decoding.kinds import KINDS, kind_of
from edgewise.runtime.kinds.boxes.result import Boxes
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.kinds.panoptic.result import Panoptic
from edgewise.runtime.pixels.masks import crop_dense
from edgewise.runtime.results.overlap import box_likeness
from edgewise.runtime.results.result import Record, Result
from edgewise.runtime.system.errors import ResultError

from .conftest import detector_manifest

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


match_instances = partial(match, KINDS[PrototypeInstances])
match_people = partial(match, KINDS[HeatmapKeypoints])
match_segments = partial(match, KINDS[PanopticSegments])


def manifest(
    postprocess: PrototypeInstances | PanopticSegments | HeatmapKeypoints,
    labels: tuple[ClassLabel, ...],
    layout: KeypointLayout | None = None,
) -> Manifest:
    return msgspec.structs.replace(
        detector_manifest({}), postprocess=postprocess, classes=labels, keypoints=layout
    )


def read_back(described: Manifest, records: list[Record], size: tuple[int, int] = SIZE) -> Result:
    """The result that the kind of the manifest reads from records that went through JSON."""
    spec = described.postprocess
    return KINDS[type(spec)].read(spec, described, json.loads(json.dumps(records)), size)


def figures(matching: Matching) -> tuple[float, float, float]:
    tally = matching.tally
    return tally.matched_fraction, tally.similarity, tally.score_difference


WITH_MASKS = manifest(PrototypeInstances(), LABELS)
WITH_BOXES = manifest(DetectedBoxes(), LABELS)


A = (0, 0, 20, 20)
B = (40, 30, 70, 55)


def test_the_same_result() -> None:
    both = instances((0.9, 0, A), (0.8, 1, B))
    matching = match_instances(both, both, threshold=0.3)
    assert figures(matching) == (1, 1, 0)
    assert matching.pairs == ((0, 0), (1, 1))


def test_two_empty_results_agree() -> None:
    matching = match_instances(instances(), instances(), threshold=0.3)
    assert figures(matching) == (1, 1, 0)
    assert not matching.tally.one_empty


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_result_matches_nothing(swap: bool) -> None:
    sides = (instances((0.9, 0, A)), instances())
    matching = (
        match_instances(*reversed(sides), threshold=0.3) if swap else match_instances(*sides, threshold=0.3)
    )
    assert figures(matching) == (0, 0, 1)
    assert matching.tally.one_empty
    assert (matching.invented if swap else matching.lost) == (0,)


def test_what_nobody_sees_does_not_count() -> None:
    matching = match_instances(instances((0.1, 0, A)), instances(), threshold=0.3)
    assert matching.tally.matched_fraction == 1
    assert not matching.tally.one_empty


def test_another_class_is_another_instance() -> None:
    matching = match_instances(instances((0.9, 0, A)), instances((0.9, 1, A)), threshold=0.3)
    assert matching.tally.matched_fraction == 0
    assert (matching.lost, matching.invented) == ((0,), (0,))


def test_lost_and_invented_instances_weigh_alike() -> None:
    two, three = [(0.9, 0, A), (0.9, 0, B)], [(0.9, 0, A), (0.9, 0, B), (0.9, 0, (0, 40, 20, 60))]
    assert match_instances(
        instances(*three), instances(*two), threshold=0.3
    ).tally.matched_fraction == pytest.approx(2 / 3)
    assert match_instances(
        instances(*two), instances(*three), threshold=0.3
    ).tally.matched_fraction == pytest.approx(2 / 3)


def test_scores_near_the_threshold_may_cross_it() -> None:
    for low, high in ((0.28, 0.32), (0.32, 0.28)):
        matching = match_instances(
            instances((low, 0, A)), instances((high, 0, A)), threshold=0.3, margin=0.05
        )
        assert matching.tally.matched_fraction == 1
        assert matching.tally.score_difference == pytest.approx(0.04)
    # 0.36 must find a partner of at least 0.25: 0.26 will do, 0.24 will not.
    assert (
        match_instances(
            instances((0.36, 0, A)), instances((0.26, 0, A)), threshold=0.3
        ).tally.matched_fraction
        == 1
    )
    assert (
        match_instances(
            instances((0.36, 0, A)), instances((0.24, 0, A)), threshold=0.3
        ).tally.matched_fraction
        == 0
    )
    # 0.34 may stay alone.
    assert match_instances(instances((0.34, 0, A)), instances(), threshold=0.3).tally.matched_fraction == 1


def test_the_best_pair_goes_first() -> None:
    shifted = (4, 0, 24, 20)
    matching = match_instances(
        instances((0.9, 0, A), (0.8, 0, shifted)), instances((0.8, 0, shifted)), threshold=0.3
    )
    assert matching.pairs == ((1, 0),)
    assert matching.tally.similarity == 1


def test_less_than_half_overlap_is_no_partner() -> None:
    # 20 x 20 against the same shifted by 8: 12 / 28 < 0.5; by 6: 14 / 26 > 0.5.
    assert (
        match_instances(instances((0.9, 0, A)), instances((0.9, 0, (8, 0, 28, 20))), threshold=0.3).pairs
        == ()
    )
    close = match_instances(instances((0.9, 0, A)), instances((0.9, 0, (6, 0, 26, 20))), threshold=0.3)
    assert close.tally.similarity == pytest.approx(14 / 26)


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
    matching = match_instances(empty, empty, threshold=0.3)
    assert matching.pairs == ((0, 0), (1, 1))
    assert matching.tally.similarity == 1


def test_empty_masks_are_equal_though_their_boxes_are_rounded() -> None:
    """COCO records round boxes to tenths of a pixel, which is much of a thin box."""
    rough = instances((0.9, 0, (0, 0, 1, 20)))
    boxes = np.array([[0.04, 0, 1.06, 20]], np.float32)
    nothing = crop_dense(np.zeros((1, *SIZE), np.bool_))
    thin = Instances(boxes, rough.scores, rough.classes, nothing, LABELS, SIZE)
    read = read_back(WITH_MASKS, thin.records(0))
    matching = match_instances(read, thin, threshold=0.0, margin=0.0)
    assert matching.tally.matched_fraction == 1
    assert matching.tally.similarity == 1


@pytest.mark.parametrize("sliver", [3e-4, 4.5e-3, 0.04, 0.3])
def test_what_the_edge_of_the_frame_left_of_a_box_finds_itself_in_its_record(sliver: float) -> None:
    box = np.array([[31.38, SIZE[0] - sliver, 39.62, SIZE[0]]], np.float32)
    scores, classes = np.array([0.9], np.float32), np.zeros(1, np.int32)
    nothing = crop_dense(np.zeros((1, *SIZE), np.bool_))
    for manifest, thin in (
        (WITH_MASKS, Instances(box, scores, classes, nothing, LABELS, SIZE)),
        (WITH_BOXES, Boxes(box, scores, classes, LABELS, SIZE)),
    ):
        kind, read = kind_of(manifest), read_back(manifest, thin.records(0))
        assert match(kind, read, thin, threshold=0.0, margin=0.0).tally.matched_fraction == 1


def test_boxes_of_a_pixel_are_the_same_in_their_records() -> None:
    """As nearly as a self test asks of what it reads back."""
    rng = np.random.default_rng(4)
    corner = rng.uniform(0, min(SIZE) - 2, (200, 2))
    small = np.concatenate([corner, corner + rng.uniform(1, 2, (200, 2))], axis=1).astype(np.float32)
    scores, classes = np.linspace(1, 0.5, 200, dtype=np.float32), np.zeros(200, np.int32)
    found = Boxes(small, scores, classes, LABELS, SIZE)
    read = read_back(WITH_BOXES, found.records(0))
    ious = np.diag(box_likeness(read.boxes.astype(np.float64), small.astype(np.float64)))
    assert ious.min() > SAME_DECODING_SIMILARITY


def test_frames_of_different_size_cannot_be_compared() -> None:
    other = read_back(WITH_MASKS, [], (10, 10))
    with pytest.raises(ResultError, match="cannot be compared"):
        match_instances(other, instances(), threshold=0.3)


def test_nan_scores_are_refused() -> None:
    with pytest.raises(ResultError, match="NaN"):
        match_instances(instances((float("nan"), 0, A)), instances((0.9, 0, A)), threshold=0.3)


def test_coco_records_are_the_same_instances() -> None:
    found = instances((0.9, 0, A), (0.8, 1, B))
    records = found.records(0)
    read = read_back(WITH_MASKS, records)
    assert isinstance(read, Instances)
    assert [LABELS[index].id for index in read.classes] == [11, 22]
    np.testing.assert_allclose(read.boxes, found.boxes)
    assert match_instances(read, found, threshold=0).tally.similarity == 1
    with pytest.raises(ResultError, match="not a COCO result record"):
        read_back(WITH_MASKS, [{"bbox": [0, 0, 1, 1]}])
    with pytest.raises(ResultError, match="not a COCO result record"):
        read_back(WITH_MASKS, [record | {"category_id": 12} for record in records])
    with pytest.raises(ResultError, match="a mask is of a"):
        read_back(WITH_MASKS, records, (10, 10))


def test_frames_are_pooled_by_instance() -> None:
    good = match_instances(
        instances((0.9, 0, A), (0.8, 1, B)), instances((0.9, 0, A), (0.6, 1, B)), threshold=0.3
    )
    bad = match_instances(instances((0.9, 0, A)), instances(), threshold=0.3)
    both = pooled([good, bad])
    assert both.matched_fraction == pytest.approx(2 / 3)
    assert both.score_difference == pytest.approx(0.1)
    assert pooled([]).matched_fraction == 1


def test_thresholds_and_margins() -> None:
    assert PrototypeInstances(display_threshold=0.4).shown_from == pytest.approx(0.4)
    assert PanopticFusion(semantic_classes=(), display_threshold=0.6).shown_from == pytest.approx(0.6)

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
    one, two = instances(*first), instances(*second)
    there, back = match_instances(one, two, threshold=0.3), match_instances(two, one, threshold=0.3)
    assert there.tally.matched_fraction == back.tally.matched_fraction
    assert 0 <= there.tally.matched_fraction <= 1
    assert (
        len({pair[0] for pair in there.pairs}) == len(there.pairs) == len({pair[1] for pair in there.pairs})
    )
    assert all(0.5 <= iou <= 1 for iou in there.similarities)


@settings(max_examples=30, deadline=None)
@given(specs)
def test_everything_matches_itself(first: list[Spec]) -> None:
    one = instances(*first)
    matching = match_instances(one, one, threshold=0.0, margin=0.0)
    assert matching.tally.matched_fraction == 1
    assert matching.tally.similarity == 1
    assert matching.tally.score_difference == pytest.approx(0)


# ---------------------------------------------------------------- people

LAYOUT = KeypointLayout(names=("head", "hip", "foot"), sigmas=(0.05, 0.1, 0.1))
HOUSE = (10.0, 10.0, 50.0, 60.0)


def people(
    *points: list[tuple[float, float, float]], scores: float = 0.9, layout: KeypointLayout = LAYOUT
) -> Keypoints:
    """People in one box, each of (x, y, score) triples."""
    triples = np.array(points, np.float32).reshape(-1, len(layout.names), 3)
    return Keypoints(
        points=triples[..., :2],
        point_scores=triples[..., 2],
        boxes=np.tile(np.array([HOUSE], np.float32), (len(triples), 1)),
        scores=np.full(len(triples), scores, np.float32),
        classes=np.zeros(len(triples), np.int32),
        labels=(ClassLabel(id=1, name="person"),),
        layout=layout,
        frame_size=SIZE,
        display_threshold=0.2,
        point_threshold=0.2,
    )


PERSON = [(30.0, 15.0, 0.9), (30.0, 35.0, 0.8), (32.0, 55.0, 0.9)]


def moved(right: float, joint: int) -> list[tuple[float, float, float]]:
    x, y, score = PERSON[joint]
    return [*PERSON[:joint], (x + right, y, score), *PERSON[joint + 1 :]]


def similarity_of(first: Keypoints, second: Keypoints) -> float:
    return match_people(first, second, threshold=0.2).tally.similarity


def test_people_are_alike_by_object_keypoint_similarity() -> None:
    area = 0.53 * 40 * 50
    expected = (2 + np.exp(-(3.0**2) / (2 * area * (2 * 0.05) ** 2))) / 3
    assert similarity_of(people(PERSON), people(moved(3, 0))) == pytest.approx(expected, abs=1e-6)
    assert similarity_of(people(PERSON), people(PERSON)) == 1
    loose = (2 + np.exp(-(3.0**2) / (2 * area * (2 * 0.1) ** 2))) / 3
    assert similarity_of(people(PERSON), people(moved(3, 1))) == pytest.approx(loose, abs=1e-6)


def test_only_points_that_the_reference_vouches_for_count() -> None:
    unsure = [PERSON[0], PERSON[1], (32.0, 55.0, 0.1)]
    far = [PERSON[0], PERSON[1], (80.0, 5.0, 0.9)]
    assert similarity_of(people(unsure), people(far)) == 1
    matching = match_people(
        people(PERSON),
        people(moved(60, 2)),
        threshold=0.2,
    )
    assert matching.tally.similarity == pytest.approx(2 / 3, abs=1e-3)
    lost = match_people(
        people([PERSON[0], *[(1.0, 1.0, 0.9)] * 2]),
        people(PERSON),
        threshold=0.2,
    )
    assert lost.pairs == ()
    assert lost.tally.matched_fraction == 0


def test_a_person_without_a_sure_point_is_compared_by_all() -> None:
    faint = [(x, y, 0.05) for x, y, _ in PERSON]
    other = [(x + 30, y, 0.05) for x, y, _ in PERSON]
    assert similarity_of(people(faint), people(faint)) == 1
    assert similarity_of(people(faint), people(other)) == 0


def test_layouts_without_constants_take_one_for_all() -> None:
    layout = KeypointLayout(names=("a", "b", "c"))
    expected = (2 + np.exp(-(3.0**2) / (2 * 0.53 * 2000 * 0.1**2))) / 3
    found = similarity_of(people(PERSON, layout=layout), people(moved(3, 1), layout=layout))
    assert found == pytest.approx(expected, abs=1e-6)


def test_coco_records_of_people_are_the_same_instances() -> None:
    both = people(PERSON, moved(8, 1))
    records = both.records(3)
    described = manifest(HeatmapKeypoints(), both.labels, LAYOUT)
    read = read_back(described, records)
    matching = match_people(read, both, threshold=0.0, margin=0.0)
    assert matching.pairs == ((0, 0), (1, 1))
    assert matching.tally.similarity == pytest.approx(1, abs=1e-9)
    nobody = read_back(described, [])
    assert isinstance(nobody, Keypoints)
    assert len(nobody) == 0
    with pytest.raises(ResultError, match="2 keypoints"):
        read_back(manifest(HeatmapKeypoints(), both.labels, KeypointLayout(names=("a", "b"))), records)
    with pytest.raises(ResultError, match="names no keypoints"):
        read_back(manifest(HeatmapKeypoints(), both.labels), records)


def test_people_of_other_keypoints_cannot_be_compared() -> None:
    two = people(PERSON[:2], layout=KeypointLayout(names=("a", "b")))
    with pytest.raises(ResultError, match="people of 3 and of 2 keypoints cannot be compared"):
        match_people(people(PERSON), two, threshold=0.2)


def test_people_and_masks_cannot_be_compared() -> None:
    with pytest.raises(ResultError, match="Keypoints and Instances cannot be compared"):
        match_people(people(PERSON), instances((0.9, 0, A)), threshold=0.2)


# ---------------------------------------------------------------- segments


def scene(meadow_from: int, *, ball: float = 0.9, gap: int = 0) -> Panoptic:
    """A ball on sky over meadow; `gap` rows between them are void."""
    segments = np.ones(SIZE, np.uint16)
    segments[meadow_from:] = 2
    segments[meadow_from : meadow_from + gap] = 0
    segments[5:25, 30:50] = 3
    labels = (
        ClassLabel(id=1, name="ball"),
        ClassLabel(id=2, name="sky", kind=ClassKind.STUFF),
        ClassLabel(id=3, name="meadow", kind=ClassKind.STUFF),
    )
    return Panoptic.of_segments(segments, [1, 2, 0], [1.0, 1.0, ball], labels)


def test_segments_are_matched_like_masks() -> None:
    first, second = scene(30), scene(34)
    matching = match_segments(first, second, threshold=0.5)
    assert matching.tally.matched_fraction == 1
    sky, more_sky = 30 * 80 - 400, 34 * 80 - 400
    expected = (1 + sky / more_sky + (26 * 80) / (30 * 80)) / 3
    assert matching.tally.similarity == pytest.approx(expected)
    read = read_back(manifest(PanopticSegments(), first.labels), first.records(0))
    assert match_segments(read, first, threshold=0.0, margin=0.0).tally.similarity == 1


def test_lost_stuff_and_a_lost_thing_weigh_alike() -> None:
    whole = scene(30)
    without_meadow = scene(30, gap=30)
    assert match_segments(whole, without_meadow, threshold=0.5).tally.matched_fraction == pytest.approx(2 / 3)
    without_ball = scene(30).above(0.95)
    assert match_segments(whole, without_ball, threshold=0.5).tally.matched_fraction == pytest.approx(2 / 3)

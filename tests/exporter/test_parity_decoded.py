from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.exporter.bundle.budgets import FP32, INT8
from edgewise.exporter.parity.decoded import DecodedTally, match_results, score_pairs
from edgewise.exporter.parity.judge import decoded_checks, decoded_figures
from edgewise.runtime.compare.matching import pooled
from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.pixels.masks import crop_dense

LABELS = (ClassLabel(id=1, name="disc"), ClassLabel(id=2, name="box"))
SIZE = 32
Thing = tuple[int, int, int, float]
"""Left, top, class, score of an 8-pixel square."""


def instances(things: Sequence[Thing]) -> Instances:
    things = sorted(things, key=lambda thing: -thing[3])
    masks = np.zeros((len(things), SIZE, SIZE), np.bool_)
    for mask, (left, top, _, _) in zip(masks, things, strict=True):
        mask[top : top + 8, left : left + 8] = True
    return Instances(
        boxes=np.array([(x, y, x + 8, y + 8) for x, y, _, _ in things], np.float32).reshape(-1, 4),
        scores=np.array([score for *_, score in things], np.float32),
        classes=np.array([kind for _, _, kind, _ in things], np.int32),
        masks=crop_dense(masks),
        labels=LABELS,
        frame_size=(SIZE, SIZE),
    )


def tally(*frames: tuple[Sequence[Thing], Sequence[Thing]]) -> DecodedTally:
    """Over (candidate, reference) results of images 1, 2, ..."""
    found = DecodedTally()
    for image, (candidate, reference) in enumerate(frames, start=1):
        matching = match_results(instances(candidate), instances(reference), threshold=0.3, budget=INT8)
        found.add(image, matching)
    return found


ONE: list[Thing] = [(4, 4, 0, 0.9)]
TWO: list[Thing] = [(4, 4, 0, 0.9), (20, 20, 1, 0.8)]


def passed(found: DecodedTally) -> bool:
    return all(check.passed for check in decoded_checks(decoded_figures(found), INT8, found.images))


def test_equal_results_agree() -> None:
    found = tally((TWO, TWO), ([], []))
    assert (found.matched_fraction, found.similarity, found.score_difference) == (1.0, 1.0, 0.0)
    assert (found.both_empty, found.one_empty) == (1, 0)
    assert passed(found)


def test_one_empty_side_is_disagreement() -> None:
    lost, invented = tally(([], TWO)), tally((TWO, []))
    for found in (lost, invented):
        assert found.one_empty == 1
        assert found.matched_fraction == 0.0
        assert found.similarity == 0.0
        assert not passed(found)


def test_an_engine_that_finds_nothing_fails_among_empty_images() -> None:
    """99 empty images that agree do not outvote the one with objects."""
    assert not passed(tally(*[([], [])] * 99, ([], ONE)))


def test_nothing_anywhere_proves_nothing() -> None:
    found = tally(([], []), ([], []))
    assert found.matched_fraction == 1.0
    assert not passed(found)
    first = decoded_checks(decoded_figures(found), FP32, 2)[0]
    assert first.figure == "shown by the reference"
    assert not first.passed


def test_the_worst_image_is_named() -> None:
    moved: list[Thing] = [(6, 4, 0, 0.9)]
    found = tally((ONE, ONE), (moved, ONE), (TWO, TWO))
    assert found.worst_image == 2
    assert found.similarity == pytest.approx((1 + 6 / 10 + 1 + 1) / 4)


def test_another_class_is_no_partner() -> None:
    assert tally(([(4, 4, 1, 0.9)], ONE)).matched_fraction == 0.0


def test_scores_are_paired_by_object_not_by_rank() -> None:
    candidate = instances([(4, 4, 0, 0.6), (20, 20, 1, 0.7)])
    reference = instances(TWO)
    matching = match_results(candidate, reference, threshold=0.3, budget=INT8)
    assert sorted(score_pairs(matching, candidate, reference)) == [
        (pytest.approx(0.8), pytest.approx(0.7)),
        (pytest.approx(0.9), pytest.approx(0.6)),
    ]


THINGS = st.lists(
    st.tuples(st.integers(0, 24), st.integers(0, 24), st.integers(0, 1), st.floats(0.0625, 1.0, width=32)),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(THINGS, THINGS), max_size=4))
def test_the_tally_is_the_pooled_matching(frames: list[tuple[list[Thing], list[Thing]]]) -> None:
    found = tally(*frames)
    whole = pooled(
        match_results(instances(candidate), instances(reference), threshold=0.3, budget=INT8)
        for candidate, reference in frames
    )
    assert found.matched_fraction == whole.matched_fraction
    assert found.similarity == pytest.approx(whole.similarity)
    assert found.score_difference == pytest.approx(whole.score_difference)
    assert found.both_empty + found.one_empty <= len(frames)

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.exporter.bundle.budgets import FP32, INT8
from edgewise.exporter.parity.judge import (
    decoded_figures,
    judged_tensors,
    metric_checks,
    raw_checks,
    result_checks,
    run_check,
    tensor_figures,
)
from edgewise.exporter.parity.report import MetricFigures
from edgewise.runtime.compare.checks import Check, Level
from edgewise.runtime.compare.matching import Matching, MatchTally, match
from edgewise.runtime.compare.tensors import TensorDifference, TensorTally
from edgewise.runtime.contract.manifest import Budget, ClassLabel, Precision
from edgewise.runtime.contract.postprocessing import PrototypeInstances
from edgewise.runtime.decoding.kinds import KINDS
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.pixels.masks import crop_dense

from .blob_models import blobs_manifest

BUDGET = Budget(
    precision=Precision.FP16,
    tensor_relative_error=2e-2,
    tensor_cosine=0.9999,
    matched_fraction=0.98,
    similarity=0.98,
    score_difference=5e-3,
    metric_drop=1e-3,
)


def figures(relative: float, cosine: float = 1.0, name: str = "loc", probes: tuple[str, ...] = ("loc",)):
    tally = TensorTally()
    tally.add(7, TensorDifference(max_abs=1.0, mean_abs=0.5, relative=relative, cosine=cosine))
    return tensor_figures({name: tally}, probes, judged=probes or (name,))


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "passed"),
    [
        (0.5, 0.5, False, True),
        (0.51, 0.5, False, False),
        (0.5, 0.5, True, True),
        (0.49, 0.5, True, False),
        (None, 0.5, False, False),
        (None, 0.5, True, False),
        (float("nan"), 0.5, False, False),
        (float("inf"), 0.5, True, False),
        (float("-inf"), 0.5, False, False),
    ],
)
def test_a_check_holds_only_for_a_figure_within_its_limit(
    value: float | None, limit: float, at_least: bool, passed: bool
) -> None:
    check = Check(level=Level.RAW, figure="x", value=value, limit=limit, at_least=at_least)
    assert check.passed is passed


def test_raw_tensors_are_judged_by_error_and_by_cosine() -> None:
    assert all(check.passed for check in raw_checks(figures(2e-2), BUDGET))
    by_error, by_cosine = raw_checks(figures(2.1e-2, 0.9998), BUDGET)
    assert not by_error.passed
    assert not by_cosine.passed
    assert by_error.note == "loc, image 7"


def test_an_infinite_error_fails() -> None:
    assert not raw_checks(figures(float("inf")), BUDGET)[0].passed


def test_outputs_are_judged_only_where_there_are_no_probes() -> None:
    reported = figures(0.9, name="scores", probes=("loc",))
    assert not reported[0].judged
    judged = figures(0.9, name="scores", probes=())
    assert judged[0].judged
    assert not raw_checks(judged, BUDGET)[0].passed


def test_each_graph_is_judged_by_its_own_probes_or_outputs() -> None:
    """Probes of one graph say nothing about another, whose outputs must not go unjudged."""
    manifest = blobs_manifest()
    assert judged_tensors(manifest) == {"key.heat", "nonkey.heat"}
    nonkey = msgspec.structs.replace(manifest.graphs["nonkey"], probes=())
    lacking = msgspec.structs.replace(manifest, graphs={**manifest.graphs, "nonkey": nonkey})
    assert judged_tensors(lacking) == {
        "key.heat",
        *(f"nonkey.{name}" for name in ("boxes", "scores", "classes", "masks")),
    }


def test_a_stage_without_its_probes_is_not_passed_by_silence() -> None:
    """Only a built engine, which cannot show inner tensors, goes without a raw check."""
    reported = figures(0.0, name="scores", probes=("loc",))
    assert [check.passed for check in raw_checks(reported, BUDGET)] == [False]
    assert raw_checks(reported, BUDGET, blind=True) == ()


def test_every_image_must_be_compared() -> None:
    assert run_check(200, 200).passed
    assert not run_check(199, 200).passed


@pytest.mark.parametrize(
    ("reference", "candidate", "passed"),
    [
        (0.5, 0.4995, True),
        (0.5, 0.498, False),
        (0.5, 0.61, True),
        (0.5, None, False),
        (None, 0.5, False),
        (None, None, False),
        (0.0, 0.0, False),
    ],
)
def test_the_metric_may_rise_but_not_drop(
    reference: float | None, candidate: float | None, passed: bool
) -> None:
    metric = MetricFigures(name="mask AP", reference=reference, candidate=candidate)
    assert [check.passed for check in metric_checks(metric, BUDGET)] == [passed]


def test_the_limits_are_the_budget() -> None:
    strict = msgspec.structs.replace(BUDGET, tensor_relative_error=1e-9)
    assert all(check.passed for check in raw_checks(figures(1e-6), BUDGET))
    assert not raw_checks(figures(1e-6), strict)[0].passed


def test_maps_are_judged_by_their_equal_share() -> None:
    """A graph of maps without probes: the share must reach the least mean similarity."""

    def checks(equal: float) -> list[tuple[str, bool]]:
        tally = TensorTally(looks=1, relative=0.9, equal=equal, worst_frame=3)
        judged = tensor_figures({"segments": tally}, [], judged=["segments"])
        assert judged[0].relative is None
        return [(check.figure, check.passed) for check in raw_checks(judged, BUDGET)]

    assert checks(0.981) == [("equal share", True)]
    assert checks(0.979) == [("equal share", False)]


# ---------------------------------------------------------------- results

LABELS = (ClassLabel(id=1, name="disc"), ClassLabel(id=2, name="box"))
SIZE = 32
Thing = tuple[int, int, int, float]
"""Left, top, class, score of an 8-pixel square."""
Frame = tuple[Sequence[Thing], Sequence[Thing]]
"""What a candidate and its reference find."""

ONE: list[Thing] = [(4, 4, 0, 0.9)]
TWO: list[Thing] = [(4, 4, 0, 0.9), (20, 20, 1, 0.8)]


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


def matched(frame: Frame) -> Matching:
    candidate, reference = frame
    kind = KINDS[PrototypeInstances]
    return match(kind, instances(reference), instances(candidate), threshold=0.3)


def tally(*frames: Frame) -> MatchTally:
    """Over images 1, 2, ..."""
    found = MatchTally()
    for image, frame in enumerate(frames, start=1):
        found.add(matched(frame), image)
    return found


def passed(found: MatchTally) -> bool:
    return all(check.passed for check in result_checks(found, INT8))


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
    first = result_checks(found, FP32)[0]
    assert first.figure == "shown by the reference"
    assert not first.passed


def test_the_worst_image_is_named() -> None:
    moved: list[Thing] = [(6, 4, 0, 0.9)]
    figures = decoded_figures(tally((ONE, ONE), (moved, ONE), (TWO, TWO)))
    assert figures.worst_image == 2
    assert figures.similarity == pytest.approx((1 + 6 / 10 + 1 + 1) / 4)


THINGS = st.lists(
    st.tuples(st.integers(0, 24), st.integers(0, 24), st.integers(0, 1), st.floats(0.0625, 1.0, width=32)),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(THINGS, THINGS), max_size=4))
def test_the_figures_are_those_of_all_things_together(frames: list[Frame]) -> None:
    """Every thing weighs alike, whichever image it is on."""
    figures = decoded_figures(tally(*frames))
    each = [matched(frame) for frame in frames]
    clear = [[sum(score >= 0.35 for *_, score in things) for things in frame] for frame in frames]
    candidates, references = (sum(counts) for counts in zip(*clear, strict=True)) if clear else (0, 0)
    lost = sum(len(matching.lost) for matching in each)
    invented = sum(len(matching.invented) for matching in each)
    similarities = [similarity for matching in each for similarity in matching.similarities]
    assert (figures.reference_count, figures.candidate_count) == (references, candidates)
    assert figures.matched == references + candidates - lost - invented
    shares = [(references - lost) / max(references, 1) if references else 1.0]
    shares += [(candidates - invented) / max(candidates, 1) if candidates else 1.0]
    assert figures.matched_fraction == pytest.approx(min(shares))
    assert figures.pairs == len(similarities)
    nothing = 0.0 if references or candidates else 1.0
    assert figures.similarity == pytest.approx(np.mean(similarities) if similarities else nothing)
    assert figures.images_both_empty + figures.images_one_empty <= len(frames)

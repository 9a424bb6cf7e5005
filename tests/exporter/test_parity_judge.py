from __future__ import annotations

import msgspec
import pytest

from edgewise.exporter.parity.judge import metric_checks, raw_checks, run_check, tensor_figures
from edgewise.exporter.parity.report import Check, Level, MetricFigures
from edgewise.exporter.parity.tensors import TensorDifference, TensorTally
from edgewise.runtime.contract.manifest import Budget, Precision

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
    return tensor_figures({name: tally}, probes)


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
        tally = TensorTally(looks=1, relative=0.9, equal=equal, worst_image=3)
        judged = tensor_figures({"segments": tally}, [])
        assert judged[0].relative is None
        return [(check.figure, check.passed) for check in raw_checks(judged, BUDGET)]

    assert checks(0.981) == [("equal share", True)]
    assert checks(0.979) == [("equal share", False)]

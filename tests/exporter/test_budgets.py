"""Limits by their names, and limits that know how few things they judge."""

from __future__ import annotations

import pytest

from edgewise.exporter.bundle.budgets import DEFAULT_BUDGETS, FP16, FP32, LIMITS, changed_budgets
from edgewise.runtime.compare.checks import decoded_checks
from edgewise.runtime.compare.matching import MatchTally
from edgewise.runtime.contract.manifest import Budget
from edgewise.runtime.system.errors import ExportError


def test_limits_change_by_short_and_by_full_names() -> None:
    settings = ["int8.matched=0.9", "fp16.tensor_cosine=0.5", "int8.metric=0.02", "int8.matched=0.8"]
    fp32, fp16, int8 = changed_budgets(DEFAULT_BUDGETS, settings)
    assert fp32 == FP32
    assert fp16.tensor_cosine == 0.5
    assert fp16.matched_fraction == FP16.matched_fraction
    assert (int8.matched_fraction, int8.metric_drop) == (0.8, 0.02)
    assert set(LIMITS.values()) | {"precision"} == set(Budget.__struct_fields__)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("int4.matched=0.9", "is no limit of a budget"),
        ("int8.speed=0.9", "is no limit of a budget"),
        ("int8.precision=1", "is no limit of a budget"),
        ("matched=0.9", "is no limit of a budget"),
        ("int8.matched", "is no value of a budget's matched_fraction"),
        ("int8.matched=much", "is no value of a budget's matched_fraction"),
        ("int8.matched=1.5", "is no value of a budget's matched_fraction"),
        ("int8.error=-1", "is no value of a budget's tensor_relative_error"),
        ("int8.error=nan", "is no value of a budget's tensor_relative_error"),
    ],
)
def test_what_is_no_limit_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        changed_budgets(DEFAULT_BUDGETS, [setting])


def matched(budget: Budget, things: int, lost: int) -> bool:
    tally = MatchTally(
        reference_count=things, candidate_count=things, reference_found=things - lost, candidate_found=things
    )
    return decoded_checks("all", tally, budget)[0].passed


@pytest.mark.parametrize(
    ("things", "lost", "passes"),
    [(1, 1, False), (2, 1, True), (7, 1, True), (7, 2, False), (100, 2, True), (100, 3, False)],
)
def test_one_of_a_few_things_may_be_lost(things: int, lost: int, passes: bool) -> None:
    assert matched(FP16, things, lost) is passes
    assert not matched(FP32, things, lost)

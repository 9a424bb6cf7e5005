from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgewise.calibration.collect import calibrate
from edgewise.calibration.placement import Placement, place
from edgewise.calibration.qdq import quantise_s8
from edgewise.calibration.samples import CalibrationSet
from edgewise.calibration.search import SearchResult, Trial, search_precision
from edgewise.calibration.sensitivity import Sensitivity, rank_by_error
from edgewise.calibration.table import CalibrationTable
from edgewise.runtime.contract.preprocessing import Stretch
from edgewise.runtime.system.errors import CalibrationError

Run = Callable[..., dict[str, np.ndarray]]


def ranked(count: int) -> list[Sensitivity]:
    return [Sensitivity(f"node_{number}", 0.5**number) for number in range(count)]


@given(count=st.integers(2, 200), needed=st.integers(0, 199))
def test_the_least_prefix_is_found_in_few_evaluations(count: int, needed: int) -> None:
    needed = min(needed, count - 1)
    calls: list[int] = []

    def evaluate(kept: Mapping[str, str]) -> float:
        calls.append(len(kept))
        assert list(kept) == [found.node for found in ranked(count)[: calls[-1]]]
        return 0.0 if calls[-1] >= needed else 1.0

    result = search_precision(lambda: ranked(count), dict, evaluate, 0.5)
    assert list(result.keep) == [f"node_{number}" for number in range(needed)]
    assert result.loss == 0.0
    assert [trial.kept for trial in result.trials] == calls
    assert len(calls) <= 3 + 2 * math.ceil(math.log2(needed + 1))


def test_nothing_is_ranked_or_kept_where_int8_meets_its_budget() -> None:
    def unneeded() -> list[Sensitivity]:
        raise AssertionError("ranked")

    result = search_precision(unneeded, dict, lambda _: 0.01, 0.01)
    assert result.keep == result.codes == {}
    assert result.trials == (Trial(0, 0.01),)


@pytest.mark.parametrize("loss", [0.2, math.nan, math.inf])
def test_a_budget_that_cannot_be_met(loss: float) -> None:
    with pytest.raises(CalibrationError, match=r"budget of 0\.1 even with 4 of 5 nodes"):
        search_precision(lambda: ranked(5), dict, lambda _: loss, 0.1)


def test_a_single_node_cannot_be_kept() -> None:
    with pytest.raises(CalibrationError, match="even with 0 of 1 nodes"):
        search_precision(lambda: ranked(1), dict, lambda _: 1.0, 0.1)


def test_reasons_and_progress() -> None:
    seen: list[Trial] = []
    result = search_precision(
        lambda: ranked(9), dict, lambda kept: 1 / (1 + len(kept)), 0.3, progress=seen.append
    )
    assert result.keep["node_1"] == (
        "INT8 misses its budget without it: number 2 of 9 by the rounding error of its result, 3.0 dB"
    )
    assert tuple(seen) == result.trials


# ---------------------------------------------------------------- a loss that does not fall


def search_where(meets: Collection[int], count: int) -> SearchResult[dict[str, str]]:
    """The search among `count` nodes for a loss that is within the budget at the given counts alone."""
    return search_precision(
        lambda: ranked(count), dict, lambda kept: 0.0 if len(kept) in meets else 1.0 + len(kept), 0.5
    )


@given(count=st.integers(1, 70), meets=st.sets(st.integers(0, 69), max_size=8))
def test_any_loss_is_searched_soundly(count: int, meets: set[int]) -> None:
    """What is returned met the budget, one less missed it, and an error means that no tried count met."""
    tried: list[int] = []

    def evaluate(kept: Mapping[str, str]) -> float:
        tried.append(len(kept))
        return 0.0 if tried[-1] in meets else 1.0

    try:
        kept = len(search_precision(lambda: ranked(count), dict, evaluate, 0.5).keep)
    except CalibrationError:
        assert not meets.intersection(tried)
        assert count - 1 in tried
    else:
        assert kept in meets.intersection(tried)
        assert kept == 0 or kept - 1 in set(tried) - meets
    assert len(tried) == len(set(tried)), "nothing is evaluated twice"
    assert len(tried) <= 2 + 3 * math.ceil(math.log2(count + 1))


def test_a_count_between_the_doubled_ones_is_found() -> None:
    """0, 1, 2, 4, 8, 16 and 20 miss; 18 lies between two of them, and 17 meets too."""
    result = search_where({5, 17, 18}, 21)
    assert [trial.kept for trial in result.trials] == [0, 1, 2, 4, 8, 16, 20, 18, 17]
    assert len(result.keep) == len(result.codes) == 17
    assert len(search_where({3}, 21).keep) == 3


def test_the_error_names_the_least_loss_of_all_tried() -> None:
    with pytest.raises(CalibrationError, match=r"even with 20 of 21 nodes .* the least loss was 1\n"):
        search_where(set(), 21)


def test_two_forms_are_searched_as_one() -> None:
    """Either form alone is content with few nodes, but the second's number breaks the first."""
    first, second = {1, 3, 4}, {2, 3, 4}
    alone = max(len(search_where(form, 5).keep) for form in (first, second))
    assert alone not in first
    assert len(search_where(first & second, 5).keep) == 3


# ---------------------------------------------------------------- on a network


@pytest.fixture(scope="module")
def damaged(residual: onnx.ModelProto) -> onnx.ModelProto:
    """The network with a weight that one scale a channel cannot hold: a single huge tap in every channel."""
    model = onnx.ModelProto()
    model.CopyFrom(residual)
    for tensor in model.graph.initializer:
        if tensor.name == "b1.weight":
            values = numpy_helper.to_array(tensor).copy()
            # This input channel is zero behind its Relu , so that float32 does not notice.
            values[:, 5] = 300.0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        if tensor.name == "a3.bias":
            values = numpy_helper.to_array(tensor).copy()
            values[5] = -1000.0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


@pytest.fixture(scope="module")
def damaged_table(damaged: onnx.ModelProto, images: Path, spec: Stretch) -> CalibrationTable:
    return calibrate(damaged, CalibrationSet.from_folder(images, count=4), spec)


@pytest.fixture(scope="module")
def ranking(
    damaged: onnx.ModelProto, damaged_table: CalibrationTable, frames: list[np.ndarray]
) -> tuple[Sensitivity, ...]:
    feeds = [("frame", {"image": frame}) for frame in frames[:2]]
    return rank_by_error(damaged, damaged_table, place(damaged), feeds)


def test_the_damaged_node_is_the_most_sensitive(
    ranking: tuple[Sensitivity, ...], damaged: onnx.ModelProto
) -> None:
    assert ranking[0].node == "node_b1"
    assert ranking[0].decibels < 10 < ranking[3].decibels
    assert {found.node for found in ranking} == set(place(damaged).weighted)
    assert [found.error for found in ranking] == sorted((found.error for found in ranking), reverse=True)


def test_errors_are_those_of_the_node_alone(
    residual: onnx.ModelProto, table: CalibrationTable, frames: list[np.ndarray], run: Run
) -> None:
    """Quantising only `a1` and reading its result gives the ranking's number."""
    placement = place(residual)
    feeds = [("frame", {"image": frames[0]})]
    ranking = {found.node: found.error for found in rank_by_error(residual, table, placement, feeds)}
    edges = tuple(edge for edge in placement.edges if edge.node == "node_a1")
    alone = quantise_s8(residual, table, Placement(edges, ("node_a1",), ()))
    results = []
    for model in (residual, alone):
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        exposed.graph.output.append(onnx.helper.make_tensor_value_info("a1", 1, [1, 16, 12, 12]))
        results.append(run(exposed, frames[0], fused=False)["a1"].astype(np.float64))
    expected = np.sum((results[0] - results[1]) ** 2) / np.sum(results[0] ** 2)
    assert ranking["node_a1"] == pytest.approx(expected, rel=1e-3)


def test_search_keeps_the_damaged_node_and_meets_the_budget(
    ranking: tuple[Sensitivity, ...],
    damaged: onnx.ModelProto,
    damaged_table: CalibrationTable,
    frames: list[np.ndarray],
    run: Run,
) -> None:
    exact = [run(damaged, frame)["classes"] for frame in frames[:2]]

    def assemble(keep: Mapping[str, str]) -> onnx.ModelProto:
        return quantise_s8(damaged, damaged_table, place(damaged, keep=keep))

    def evaluate(model: onnx.ModelProto) -> float:
        found = [run(model, frame, fused=False)["classes"] for frame in frames[:2]]
        return max(
            float(np.sqrt(np.mean((a - b) ** 2) / np.mean(a**2))) for a, b in zip(exact, found, strict=True)
        )

    whole = evaluate(assemble({}))
    result = search_precision(lambda: ranking, assemble, evaluate, whole / 3)
    assert "node_b1" in result.keep
    assert len(result.keep) <= 4
    assert result.loss <= whole / 3 < whole
    again = search_precision(lambda: ranking, assemble, evaluate, whole / 3)
    assert again == result


def test_no_sample(residual: onnx.ModelProto, table: CalibrationTable) -> None:
    with pytest.raises(CalibrationError, match="no sample"):
        rank_by_error(residual, table, place(residual), [])

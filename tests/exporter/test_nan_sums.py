"""The sums that a file gives beside its outputs say in which of them a NaN is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgewise.exporter.graph.numerics import GraphRunner, every_float_alike
from edgewise.exporter.passes.nan_sums import sum_outputs, with_nan_sums
from edgewise.exporter.targets.lowering import stored
from edgewise.exporter.targets.profiles import RELEASES, check_release
from edgewise.runtime.contract.manifest import DType, Graph, NanSums, Precision, Target, TensorSpec
from edgewise.runtime.engines.base import check_not_nan
from edgewise.runtime.system.errors import BackendError

SHAPE = (1, 4, 32, 32)


def spec(name: str, shape: tuple[int, ...] = SHAPE, dtype: DType = DType.FLOAT32) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


GRAPH = Graph(
    inputs=(spec("x"),),
    outputs=(spec("halves"), spec("few", (1, 8)), spec("labels", dtype=DType.INT32), spec("roots")),
)


def model_of(looks: str) -> onnx.ModelProto:
    """Roots of negative numbers are NaN."""
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    maps (float[{looks},4,32,32] x) => (float[{looks},4,32,32] halves, float[{looks},4,32,32] roots)
    <float half = {{0.5}}> {{ halves = Mul(x, half)  roots = Sqrt(x) }}"""
    return onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))


def test_large_float_outputs_get_a_sum_and_a_name_that_is_free() -> None:
    assert with_nan_sums(GRAPH).nan_sums == NanSums(name="nan_sums", of=("halves", "roots"))
    assert with_nan_sums(GRAPH).given[-1].shape == (1, 2)
    small = Graph(inputs=(spec("x"),), outputs=(spec("few", (1, 8)), spec("nan_sums", (1, 9))))
    assert with_nan_sums(small).nan_sums is None
    assert with_nan_sums(small).given == small.outputs
    taken = Graph(inputs=(spec("x"),), outputs=(spec("nan_sums"),))
    assert with_nan_sums(taken).nan_sums == NanSums(name="nan_sums_2", of=("nan_sums",))


@pytest.mark.parametrize("looks", ["1", "looks"])
def test_the_row_of_a_look_says_which_output_of_it_holds_a_nan(looks: str) -> None:
    model = sum_outputs(model_of(looks), NanSums(name="nan_sums", of=("halves", "roots")))
    runner = GraphRunner(model)
    clean, broken = np.ones(SHAPE, np.float32), np.ones(SHAPE, np.float32)
    broken[0, 3, 31, 31] = -1.0
    rows = [clean, broken] if looks == "1" else [np.concatenate([clean, broken])]
    found = np.concatenate([runner.run({"x": row})["nan_sums"] for row in rows])
    assert np.isnan(found).tolist() == [[False, False], [False, True]]
    assert found[0].tolist() == [2048.0, 4096.0]


def test_every_target_takes_a_stored_graph_with_its_sums() -> None:
    graph = with_nan_sums(Graph(inputs=GRAPH.inputs, outputs=(spec("halves"), spec("roots"))))
    key = (Target.TENSORRT, Precision.FP32)
    samples = [{"x": np.ones(SHAPE, np.float32)}]
    (data,) = stored({key: {"": model_of("1")}}, graph, samples, every_float_alike)[key].values()
    model = onnx.load_model_from_string(data)
    assert [value.name for value in model.graph.output] == [each.name for each in graph.given]
    for release in RELEASES:
        check_release(model, release)


def test_only_what_a_sum_leaves_open_is_searched() -> None:
    bad, nan = np.full((1, 4), np.nan, np.float32), float("nan")
    tensors = {"a": bad, "b": bad, "c": np.zeros((1, 4), np.float32)}
    check_not_nan(tensors, where="here", sums={"a": 0.0, "b": 0.0})
    with pytest.raises(BackendError, match="'b' holds NaN"):
        check_not_nan(tensors, where="here", sums={"a": 1.0, "b": nan})
    with pytest.raises(BackendError, match="'c' holds NaN"):
        check_not_nan({"c": bad}, where="here", sums={"a": 0.0, "b": 0.0})
    with pytest.raises(BackendError, match="'a' holds NaN"):
        check_not_nan(tensors, where="a runner that gives no sums", sums={})


def test_opposite_infinities_sum_to_nan_and_are_none() -> None:
    infinite = np.array([[np.inf, -np.inf]], np.float32)
    check_not_nan({"a": infinite}, where="here", sums={"a": float("nan")})

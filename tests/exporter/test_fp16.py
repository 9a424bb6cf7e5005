from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgewise.exporter.graph.edit import element_types
from edgewise.exporter.graph.numerics import run_graph
from edgewise.exporter.graph.passes import PassRunner, expose
from edgewise.exporter.passes.fp16 import Fp16Limits, choose_fp16, fp16_pass, weight_rounding_error
from edgewise.runtime.compare.tensors import difference
from edgewise.runtime.contract.manifest import Precision
from edgewise.runtime.system.errors import ExportError

from .float_graph import float_graph

X = np.random.default_rng(3).normal(size=(1, 3, 16, 16)).astype(np.float32)
SAMPLES = [{"x": X}]


def weight(out: int, into: int, size: int = 3) -> np.ndarray:
    generator = np.random.default_rng(100 * out + into)
    return (generator.normal(size=(out, into, size, size)) / np.sqrt(into * size * size)).astype(np.float32)


def residual_network(**changes: np.ndarray) -> onnx.ModelProto:
    """x*1.5 -> conv -> relu -> conv -> add(relu) -> relu -> [probe] -> conv -> transpose -> softmax -> y."""
    tensors = {
        "half": np.float32(1.5),
        "w1": weight(8, 3),
        "w2": weight(8, 8),
        "w3": weight(4, 8),
        "b3": np.array([0.3, -0.2, 0.1, 0.7], np.float32),
        **changes,
    }
    pads = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["scaled"], name="scale"),
        helper.make_node("Conv", ["scaled", "w1"], ["c1"], name="first", pads=pads),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second", pads=pads),
        helper.make_node("Add", ["c2", "r1"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["features"], name="relu2"),
        helper.make_node("Conv", ["features", "w3", "b3"], ["head"], name="third", pads=pads),
        helper.make_node("Transpose", ["head"], ["turned"], name="turn", perm=(0, 2, 3, 1)),
        helper.make_node("Softmax", ["turned"], ["y"], name="softmax", axis=-1),
    ]
    return float_graph(nodes, tensors, X.shape, (1, 16, 16, 4))


def ranges_of(model: onnx.ModelProto, samples: list[dict[str, np.ndarray]]) -> dict[str, tuple[float, float]]:
    types = element_types(model)
    names = [
        name for node in model.graph.node for name in node.output if types.get(name) == TensorProto.FLOAT
    ]
    values = run_graph(expose(model, names), samples)
    return {
        name: (
            min(float(value[name].min()) for value in values),
            max(float(value[name].max()) for value in values),
        )
        for name in names
    }


def casts(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type == "Cast"]


def test_one_island_with_a_cast_at_each_border() -> None:
    model = residual_network()
    choice = choose_fp16(model, ranges_of(model, SAMPLES))
    assert choice.narrow == {"first", "relu1", "second", "add", "relu2", "third", "turn"}
    assert choice.kept == ()
    runner = PassRunner(SAMPLES, ["y"])
    half = runner.run(fp16_pass(choice, tolerance=5e-3), model).model
    assert casts(half) == ["scaled_fp16/Cast", "turned/Cast"]
    stored = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert stored.pop("half") == TensorProto.FLOAT
    assert set(stored.values()) == {TensorProto.FLOAT16}
    types = element_types(half)
    assert types["sum"] == TensorProto.FLOAT16
    assert types["turned"] == types["y"] == TensorProto.FLOAT
    values, reference = (run_graph(each, SAMPLES)[0]["y"] for each in (half, model))
    assert 0 < difference(values, reference).relative < 5e-3


def test_a_large_activation_keeps_its_node_wide_and_says_so() -> None:
    model = residual_network(w2=weight(8, 8) * 4000)
    choice = choose_fp16(model, ranges_of(model, SAMPLES))
    assert [node.node for node in choice.kept] == ["second", "third"]
    assert choice.kept[0].precision is Precision.FP32
    assert "the limit is 512" in choice.kept[0].reason
    assert choice.narrow == {"first", "relu1"}
    # The softmax of logits in the thousands turns a rounding into another winner: judge before it.
    half = PassRunner(SAMPLES, ["turned"]).run(fp16_pass(choice, tolerance=5e-3), model).model
    assert casts(half) == ["scaled_fp16/Cast", "r1/Cast"]


@pytest.mark.parametrize(
    ("changes", "limits", "reason"),
    [
        ({"b3": np.array([0, 0, 0, 7e4], np.float32)}, Fp16Limits(largest_activation=1e6), "float16 ends at"),
        ({"w3": weight(4, 8) * np.float32(1e-5)}, Fp16Limits(), "rounding its weights to float16 loses"),
        ({}, Fp16Limits(deepest_sum=71), "each value sums 72 products"),
    ],
    ids=["overflow", "subnormal", "deep"],
)
def test_reasons_to_stay_wide(changes: dict[str, np.ndarray], limits: Fp16Limits, reason: str) -> None:
    model = residual_network(**changes)
    kept = choose_fp16(model, ranges_of(model, SAMPLES), limits=limits).kept
    assert "third" in [node.node for node in kept]
    assert any(reason in node.reason for node in kept if node.node == "third")


def test_a_node_without_a_range_stays_wide() -> None:
    model = residual_network()
    ranges = ranges_of(model, SAMPLES)
    del ranges["c2"]
    kept = choose_fp16(model, ranges).kept
    assert [node.node for node in kept] == ["second"]
    assert "no range" in kept[0].reason


@pytest.mark.parametrize("rows", [1, 2])
def test_a_product_with_one_row_stays_wide(rows: int) -> None:
    """TensorRT-RTX runs it inside the float32 kernel before it, whatever the types say."""
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], name="fc")]
    model = float_graph(nodes, {"w": weight(8, 4, 1)[..., 0, 0]}, (rows, 8), (rows, 4))
    choice = choose_fp16(model, {"y": (-1.0, 1.0)})
    assert choice.narrow == (set() if rows == 1 else {"fc"})
    assert ["single row" in node.reason for node in choice.kept] == [True] * (rows == 1)


@pytest.mark.parametrize("last", ["Gemm", "Sigmoid"])
def test_a_sum_before_a_product_with_one_row_is_narrow(last: str) -> None:
    """Left wide, it would draw one of its convolutions into a float32 kernel; before decoding it is wide."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="a", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "w2"], ["b"], name="b", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a", "b"], ["sum"], name="sum"),
        helper.make_node("Relu", ["sum"], ["relu"], name="relu"),
        helper.make_node("AveragePool", ["relu"], ["mean"], name="mean", kernel_shape=[16, 16]),
        helper.make_node("Flatten", ["mean"], ["flat"], name="flat"),
        helper.make_node(last, ["flat", "fc"] if last == "Gemm" else ["flat"], ["y"], name="last"),
    ]
    tensors = {"w1": weight(8, 3), "w2": weight(8, 3), "fc": weight(8, 8, 1)[..., 0, 0]}
    if last != "Gemm":
        del tensors["fc"]
    model = float_graph(nodes, tensors, X.shape, (1, 8))
    choice = choose_fp16(model, ranges_of(model, SAMPLES))
    inside = {"sum", "relu", "mean", "flat"} if last == "Gemm" else set()
    assert choice.narrow == {"a", "b"} | inside
    half = PassRunner(SAMPLES, ["y"]).run(fp16_pass(choice, tolerance=5e-3), model).model
    types = element_types(half)
    assert types["y"] == TensorProto.FLOAT
    assert (types["sum"] == TensorProto.FLOAT16) == (last == "Gemm")


def test_a_deform_conv_samples_in_float32_and_holds_float16_weights() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "wo"], ["offsets"], name="offsets", pads=[1, 1, 1, 1]),
        helper.make_node(
            "DeformConv", ["x", "wd", "offsets", "b"], ["moved"], name="moved", pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["moved"], ["y"], name="relu"),
    ]
    tensors = {"wo": weight(18, 3), "wd": weight(4, 3), "b": np.array([0.3, -0.2, 0.1, 0.7], np.float32)}
    model = float_graph(nodes, tensors, X.shape, (1, 4, 16, 16), opset=19, ir_version=9)
    choice = choose_fp16(model, ranges_of(model, SAMPLES))
    assert choice.narrow == {"offsets", "moved"}
    half = PassRunner(SAMPLES, ["y"]).run(fp16_pass(choice, tolerance=2e-2), model).model
    assert {tensor.data_type for tensor in half.graph.initializer} == {TensorProto.FLOAT16}
    types = element_types(half)
    moved = next(node for node in half.graph.node if node.name == "moved")
    assert {types[name] for name in (*moved.input, *moved.output)} == {TensorProto.FLOAT}


def test_a_probe_keeps_its_name_and_type_for_its_readers() -> None:
    model = residual_network()
    choice = choose_fp16(model, ranges_of(model, SAMPLES), probes=["head"])
    assert "turn" not in choice.narrow
    half = PassRunner(SAMPLES, ["head"]).run(fp16_pass(choice, tolerance=5e-3), model).model
    assert element_types(half)["head"] == TensorProto.FLOAT


def test_only_the_named_nodes() -> None:
    model = residual_network()
    choice = choose_fp16(model, ranges_of(model, SAMPLES), only={"second"})
    assert choice.narrow == {"second"}
    half = PassRunner(SAMPLES, ["y"]).run(fp16_pass(choice, tolerance=5e-3), model).model
    assert casts(half) == ["r1_fp16/Cast", "c2/Cast"]


def split_block() -> onnx.ModelProto:
    """As YOLOv8 has them: conv -> SiLU -> split -> conv of one half -> concat -> slice -> conv -> split."""
    tensors = {
        "w1": weight(8, 3, 1),
        "w2": weight(4, 4),
        "w3": weight(6, 10, 1),
        "halves": np.array([4, 4], np.int64),
        "heads": np.array([2, 4], np.int64),
        **{name: np.array([value], np.int64) for name, value in (("from", 0), ("to", 10), ("axis", 1))},
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="first"),
        helper.make_node("Sigmoid", ["c1"], ["gate"], name="gate"),
        helper.make_node("Mul", ["c1", "gate"], ["silu"], name="silu"),
        helper.make_node("Split", ["silu", "halves"], ["left", "right"], name="split", axis=1),
        helper.make_node("Conv", ["right", "w2"], ["c2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["left", "right", "c2"], ["joined"], name="join", axis=1),
        helper.make_node("Slice", ["joined", "from", "to", "axis"], ["most"], name="slice"),
        helper.make_node("Conv", ["most", "w3"], ["c3"], name="third"),
        helper.make_node("Split", ["c3", "heads"], ["boxes", "logits"], name="heads", axis=1),
        helper.make_node("Sigmoid", ["logits"], ["y"], name="scores"),
    ]
    return float_graph(nodes, tensors, X.shape, (1, 4, 16, 16), opset=17)


def test_splits_and_slices_lie_inside_an_island_and_not_behind_it() -> None:
    model = split_block()
    choice = choose_fp16(model, ranges_of(model, SAMPLES))
    assert choice.narrow == {"first", "gate", "silu", "split", "second", "join", "slice", "third"}
    half = PassRunner(SAMPLES, ["y"]).run(fp16_pass(choice, tolerance=5e-3), model).model
    assert casts(half) == ["x_fp16/Cast", "c3/Cast"]
    types = element_types(half)
    assert {types[name] for name in ("left", "right", "joined", "most")} == {TensorProto.FLOAT16}


def test_a_part_that_reaches_too_far_keeps_its_split_wide() -> None:
    model = split_block()
    ranges = {**ranges_of(model, SAMPLES), "right": (-600.0, 1.0)}
    assert "split" not in choose_fp16(model, ranges).narrow


TINY, HUGE = np.float32(1e-12), np.float32(1e6)


@pytest.mark.parametrize(
    ("operator", "inputs", "constant"),
    [
        ("Clip", ["c1", "k"], TINY),
        ("Clip", ["c1", "", "k"], HUGE),
        ("Max", ["c1", "k"], TINY),
        ("Add", ["c1", "k"], TINY),
        ("Mul", ["c1", "k"], np.float32(3e-7)),
        ("Mul", ["c1", "k"], np.array([1, 1, 1, 1, 1, 1, 1, 1e5], np.float32).reshape(8, 1, 1)),
        ("PRelu", ["c1", "k"], TINY),
    ],
    ids=["least", "largest", "maximum", "sum", "subnormal", "one-channel", "slope"],
)
def test_a_constant_that_float16_loses_keeps_its_node_wide(
    operator: str, inputs: list[str], constant: np.ndarray
) -> None:
    model = residual_network(k=constant)
    model.graph.node[2].CopyFrom(helper.make_node(operator, inputs, ["r1"], name="relu1"))
    ranges = dict.fromkeys(ranges_of(model, SAMPLES), (-1.0, 1.0))
    choice = choose_fp16(model, ranges)
    assert {"first", "second", "third"} <= choice.narrow
    assert "relu1" not in choice.narrow
    half = fp16_pass(choice, tolerance=1.0).apply(model)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    np.testing.assert_array_equal(stored["k"], constant)


def test_a_bias_of_nothing_but_tiny_values_keeps_its_node_wide() -> None:
    """Simplifiers fold the sum with a guard against 0 into the bias."""
    model = residual_network(b3=np.full(4, 1e-12, np.float32))
    (kept,) = choose_fp16(model, ranges_of(model, SAMPLES)).kept
    assert (kept.node, "rounding b3 to float16 loses 1 of a value") == (kept.node, kept.reason)
    mixed = residual_network(b3=np.array([0.3, -0.2, 0.1, 1e-7], np.float32))
    assert choose_fp16(mixed, ranges_of(mixed, SAMPLES)).kept == ()


def test_a_constant_that_float16_holds_stays_in_its_island() -> None:
    for value in (0.0, 6.0, 1e-4, np.inf, -np.inf):
        model = residual_network(k=np.float32(value))
        model.graph.node[2].CopyFrom(helper.make_node("Clip", ["c1", "", "k"], ["r1"], name="relu1"))
        ranges = dict.fromkeys(ranges_of(model, SAMPLES), (-1.0, 1.0))
        assert "relu1" in choose_fp16(model, ranges).narrow, value


def test_a_final_sigmoid_stays_wide() -> None:
    model = residual_network()
    model.graph.node[8].CopyFrom(helper.make_node("Sigmoid", ["turned"], ["y"], name="scores"))
    assert "scores" not in choose_fp16(model, ranges_of(model, SAMPLES)).narrow


def test_nothing_to_narrow_changes_nothing() -> None:
    model = residual_network()
    choice = choose_fp16(model, {})
    assert choice.narrow == frozenset()
    assert not PassRunner(SAMPLES, ["y"]).run(fp16_pass(choice, tolerance=1e-3), model).changed


def test_more_error_than_allowed_is_refused() -> None:
    model = residual_network()
    choice = choose_fp16(model, ranges_of(model, SAMPLES))
    with pytest.raises(ExportError, match="'fp16' changed the numbers"):
        PassRunner(SAMPLES, ["y"]).run(fp16_pass(choice, tolerance=1e-7), model)


def test_weight_rounding_error_looks_at_single_channels() -> None:
    strong = weight(4, 8)
    assert weight_rounding_error(strong, 0) < 5e-4
    weak = strong.copy()
    weak[2] *= 3e-6
    assert weight_rounding_error(weak, 0) < 5e-4  # a thousandth of the strongest hides it
    weak = strong * np.float32(1e-5)
    assert weight_rounding_error(weak, 0) > 5e-3
    assert weight_rounding_error(np.zeros((2, 3), np.float32), 0) == 0.0


def test_the_typed_graph_compiles_without_a_gpu() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")
    model = residual_network()
    choice = choose_fp16(model, ranges_of(model, SAMPLES))
    half = PassRunner(SAMPLES, ["y"]).run(fp16_pass(choice, tolerance=5e-3), model).model
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(half.SerializeToString()), parser.get_error(0)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert builder.build_serialized_network(network, config) is not None

"""Codes inside float16 islands: opset 19, scales in float16, and what NVIDIA's compiler makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewise.calibration.placement import place
from edgewise.calibration.qdq import quantise_s8
from edgewise.calibration.table import CalibrationTable, TensorRange
from edgewise.exporter.graph.conditions import opset_of
from edgewise.exporter.graph.edit import constants, element_types
from edgewise.exporter.graph.numerics import run_graph
from edgewise.exporter.graph.passes import PassRunner
from edgewise.exporter.passes.fp16 import choose_fp16
from edgewise.exporter.passes.narrow_codes import narrow_codes
from edgewise.exporter.passes.raise_opset import raise_opset
from edgewise.exporter.targets.profiles import RELEASES, check_release
from edgewise.runtime.compare.tensors import difference
from edgewise.runtime.contract.manifest import CalibrationMethod
from edgewise.runtime.system.errors import ExportError

SHAPE = (1, 16, 8, 8)
X = np.random.default_rng(4).normal(size=SHAPE).astype(np.float32)
SAMPLES = [{"x": X}]
RANGE = 12.0


def weight(seed: int, size: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, (16, 16, 3, 3)).astype(np.float32)


def network(**changes: np.ndarray) -> onnx.ModelProto:
    """Two convolutions with a pre-activation unit behind a first one, and a softmax as decoding."""
    tensors = {
        "w0": weight(0),
        "w1": weight(1),
        "w2": weight(2),
        "gain": np.linspace(0.5, 1.5, 16, dtype=np.float32),
        "shift": np.full(16, 0.1, np.float32),
        "mean": np.zeros(16, np.float32),
        "variance": np.ones(16, np.float32),
        "bias": np.linspace(-1, 1, 16, dtype=np.float32),
        **changes,
    }
    pads = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["first_out"], name="first", pads=pads),
        helper.make_node(
            "BatchNormalization",
            ["first_out", "gain", "shift", "mean", "variance"],
            ["normal_out"],
            name="normal",
        ),
        helper.make_node("Relu", ["normal_out"], ["relu_out"], name="relu"),
        helper.make_node("Conv", ["relu_out", "w1", "bias"], ["second_out"], name="second", pads=pads),
        helper.make_node("Add", ["second_out", "first_out"], ["sum_out"], name="sum"),
        helper.make_node("Conv", ["sum_out", "w2"], ["third_out"], name="third", pads=pads),
        helper.make_node("Softmax", ["third_out"], ["y"], name="softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "edgewise",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def table_of(model: onnx.ModelProto, reach: dict[str, float] | None = None) -> CalibrationTable:
    reach = reach or {}
    names = ["x", *(name for node in model.graph.node for name in node.output)]
    tensors = {
        name: TensorRange(
            minimum=-reach.get(name, RANGE),
            maximum=reach.get(name, RANGE),
            amax=reach.get(name, RANGE),
            method=CalibrationMethod.MINMAX,
        )
        for name in names
    }
    return CalibrationTable(
        method=CalibrationMethod.MINMAX,
        sample_count=1,
        seed=0,
        samples_sha256="0" * 64,
        preprocess_sha256="0" * 64,
        tensors=tensors,
    )


def both_forms(
    model: onnx.ModelProto, reach: dict[str, float] | None = None
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The graph with codes for TensorRT 8.6, all floats in float32, and for newer ones."""
    table = table_of(model, reach)
    ranges = {name: (found.minimum, found.maximum) for name, found in table.tensors.items()}
    placement = place(model)
    single = quantise_s8(model, table, placement, half_scales=True)
    raised = PassRunner(SAMPLES, ["y"]).run(raise_opset(), model).model
    codes = quantise_s8(raised, table, placement, half_scales=True)
    return single, narrow_codes(codes, choose_fp16(model, ranges).narrow)


def readers_of(model: onnx.ModelProto) -> Sequence[str]:
    return [release.name for release in RELEASES if _reads(model, release.name)]


def _reads(model: onnx.ModelProto, name: str) -> bool:
    try:
        check_release(model, next(release for release in RELEASES if release.name == name))
    except ExportError:
        return False
    return True


def test_everything_between_codes_is_float16_and_decoding_is_not() -> None:
    _, half = both_forms(network())
    assert opset_of(half) == 19
    types = element_types(half)
    for node in half.graph.node:
        if node.op_type == "QuantizeLinear":
            assert types[node.input[0]] == types[node.input[1]] == TensorProto.FLOAT16, node.name
        elif node.op_type == "DequantizeLinear":
            assert types[node.input[1]] == types[node.output[0]] == TensorProto.FLOAT16, node.name
    assert {types[name] for name in ("normal_out", "relu_out", "sum_out")} == {TensorProto.FLOAT16}
    assert types["y"] == TensorProto.FLOAT
    # One Cast into the island and one in front of the decoding.
    assert [node.name for node in half.graph.node if node.op_type == "Cast"] == [
        "x_fp16/Cast", "third_out/Cast"
    ]  # fmt: skip


def test_both_forms_have_the_same_codes_and_scales_and_each_release_line_its_form() -> None:
    single, half = both_forms(network())
    ours, theirs = constants(single), constants(half)
    for name in ("w1_codes", "w2_codes"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    for name in ("w1_scale", "w2_scale", "relu_out_scale", "sum_out_scale"):
        np.testing.assert_array_equal(ours[name], theirs[f"{name}_fp16"].astype(np.float32))
    # Each scale reaches as far as its values.
    assert (ours["w1_scale"] * 127 >= np.abs(weight(1)).max(axis=(1, 2, 3))).all()
    taken = readers_of(half)
    assert "TensorRT 8.6" not in taken
    assert {"TensorRT 10.3", "TensorRT 10.13", "TensorRT 11", "TensorRT-RTX 1.7"} <= set(taken)
    assert {release.name for release in RELEASES} == set(readers_of(single))
    found, wanted, exact = (run_graph(model, SAMPLES)[0]["y"] for model in (half, single, network()))
    assert 0 < difference(wanted, exact).relative < 0.1
    assert difference(found, exact).relative < difference(wanted, exact).relative + 0.02


def test_a_node_that_float16_cannot_hold_computes_on_codes_and_gives_float32() -> None:
    """Its neighbours stay float16; every scale has the type of its values, or the graph would be refused."""
    _, half = both_forms(network(), {"second_out": 1e5})
    types = element_types(half)
    kinds = {
        node.name: {types[name] for name in (*node.input, *node.output)}
        for node in half.graph.node
        if node.op_type == "Conv"
    }
    assert kinds == {
        "first": {TensorProto.FLOAT16}, "second": {TensorProto.FLOAT}, "third": {TensorProto.FLOAT16}
    }  # fmt: skip
    assert "TensorRT 10.3" in readers_of(half)


def test_what_reads_more_than_float16_holds_stays_float32() -> None:
    model = network()
    ranges = dict.fromkeys(table_of(model).tensors, (-RANGE, RANGE)) | {"sum_out": (0.0, 7e4)}
    choice = choose_fp16(model, ranges)
    assert [(node.node, node.reason) for node in choice.kept] == [
        ("third", "what it reads reaches 7e+04, the limit is 8192")
    ]


def test_weak_channels_keep_a_positive_scale() -> None:
    weak = weight(1)
    weak[3] *= np.float32(1e-9)
    _, half = both_forms(network(w1=weak))
    scale = constants(half)["w1_scale_fp16"]
    assert (scale > 0).all()
    assert np.isfinite(run_graph(half, SAMPLES)[0]["y"]).all()


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_raising_the_opset_keeps_every_bit(opset: int) -> None:
    axes = {} if opset >= 18 else {"axes": [1, -1]}
    inputs = ["x", "axes"] if opset >= 18 else ["x"]
    parts = {"num_outputs": 2} if opset >= 18 else {}
    nodes = [
        helper.make_node("ReduceMax", inputs, ["most"], name="most", keepdims=1, **axes),
        helper.make_node("ReduceMean", ["x"], ["mean"], name="mean", keepdims=0),
        helper.make_node("Split", ["x"], ["left", "right"], name="split", axis=1, **parts),
        helper.make_node("Sub", ["left", "right"], ["part"], name="part"),
        helper.make_node("Mul", ["part", "most"], ["scaled"], name="scale"),
        helper.make_node("Add", ["scaled", "mean"], ["y"], name="add"),
    ]
    graph = helper.make_graph(
        nodes,
        "edgewise",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 8, 8))],
        [numpy_helper.from_array(np.array([1, -1]), "axes")] if opset >= 18 else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    raised = PassRunner(SAMPLES, ["y"]).run(raise_opset(), model).model
    assert (opset_of(raised), raised.ir_version) == (19, 9)
    again = PassRunner(SAMPLES, ["y"]).run(raise_opset(), raised)
    assert not again.changed

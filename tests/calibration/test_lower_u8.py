from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgewise.calibration.graph import index_graph
from edgewise.calibration.lower_u8 import lower_u8, never_negative, round_early, to_unsigned
from edgewise.calibration.placement import EVERYTHING, place
from edgewise.calibration.qdq import quantise_s8
from edgewise.calibration.table import CalibrationTable, TensorRange
from edgewise.calibration.unfold import unfold_float_convolutions
from edgewise.runtime.contract.manifest import CalibrationMethod, Target
from edgewise.runtime.system.errors import CalibrationError

Run = Callable[..., dict[str, np.ndarray]]
TARGETS = [Target.TENSORRT, Target.ONNXRUNTIME]


@pytest.fixture(scope="module", params=TARGETS, ids=lambda target: target.value)
def signed(
    request: pytest.FixtureRequest, residual: onnx.ModelProto, table: CalibrationTable
) -> onnx.ModelProto:
    return quantise_s8(residual, table, place(residual, target=request.param))


@pytest.mark.parametrize("lower", [to_unsigned, lambda model: round_early(to_unsigned(model))])
def test_unsigned_values_equal_signed_values_to_the_bit(
    signed: onnx.ModelProto, frames: list[np.ndarray], run: Run, lower: Callable[..., onnx.ModelProto]
) -> None:
    unsigned = lower(signed)
    onnx.checker.check_model(unsigned, full_check=True)
    for frame in frames:
        expected, found = run(signed, frame, fused=False), run(unsigned, frame, fused=False)
        for name, values in expected.items():
            np.testing.assert_array_equal(values, found[name])


def test_unfolded_convolutions_differ_by_the_order_of_sums_only(
    signed: onnx.ModelProto, frames: list[np.ndarray], run: Run
) -> None:
    lowered = lower_u8(signed)
    onnx.checker.check_model(lowered, full_check=True)
    for frame in frames:
        expected, found = run(signed, frame, fused=False), run(lowered, frame, fused=False)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5 * np.abs(values).max())


def test_fused_kernels_keep_the_accuracy(
    residual: onnx.ModelProto, signed: onnx.ModelProto, frames: list[np.ndarray], run: Run
) -> None:
    """A step at a rounding boundary spreads through later layers, up to the noise of all rounding."""
    lowered = lower_u8(signed)
    for frame in frames:
        exact = run(residual, frame)
        emulated, fused = run(signed, frame, fused=False), run(lowered, frame)
        for name, values in exact.items():
            noise = np.sqrt(np.mean((emulated[name] - values) ** 2))
            assert np.sqrt(np.mean((fused[name] - values) ** 2)) < 1.25 * noise


def test_codes_are_unsigned_and_seven_bits_behind_a_relu(signed: onnx.ModelProto) -> None:
    unsigned = to_unsigned(signed)
    constants = {t.name: numpy_helper.to_array(t) for t in unsigned.graph.initializer}
    index, before = index_graph(unsigned), index_graph(signed)
    for node in unsigned.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        zero = constants[node.input[2]]
        assert zero.dtype == np.uint8
        source = index.producers[node.input[0]]
        tensor = source.input[0] if source.op_type == "Clip" else node.input[0]
        assert zero == (0 if never_negative(before, tensor) else 128)
        if zero == 0:
            readers = [reader.op_type for reader in index.consumers[node.output[0]]]
            assert source.op_type == "Clip" or readers == ["Clip"]


def fused_operators(model: onnx.ModelProto, path: str) -> dict[str, list[onnx.NodeProto]]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = path
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in onnx.load(path).graph.node:
        found.setdefault(node.op_type, []).append(node)
    return found


def test_onnx_runtime_fuses_what_is_placed_for_it(
    residual: onnx.ModelProto, table: CalibrationTable, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lowered = lower_u8(quantise_s8(residual, table, place(residual, target=Target.ONNXRUNTIME)))
    found = fused_operators(lowered, str(tmp_path_factory.mktemp("fused") / "model.onnx"))
    # 15 weighted nodes: one ConvTranspose has no integer kernel, two end the network as products.
    assert len(found["QLinearConv"]) == 12
    assert len(found["QLinearAdd"]) == 3
    # With their biases: a Gemm of both would run on floats.
    assert len(found["MatMulIntegerToFloat"]) == 2
    assert not {"Gemm", "FusedGemm", "MatMul"}.intersection(found)
    # The stem and the box head stay wider.
    assert len(found.get("Conv", []) + found.get("FusedConv", [])) == 2


# ---------------------------------------------------------------- single layers, to one step


def one_layer(
    weight: np.ndarray, *, signed_input: bool, coded_output: bool, stride: int = 1
) -> tuple[onnx.ModelProto, CalibrationTable]:
    """[Relu ->] Conv [-> Conv that makes codes necessary]; ranges of 8 for inputs and results."""
    out, into, kernel, _ = weight.shape
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, into, 9, 9])
    nodes = [helper.make_node("Identity" if signed_input else "Relu", ["image"], ["x"], name="input")]
    attributes = {"pads": [kernel // 2] * 4, "strides": [stride] * 2}
    nodes.append(helper.make_node("Conv", ["x", "w"], ["y"], name="layer", **attributes))
    tensors = [numpy_helper.from_array(weight, "w")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    if coded_output:
        eye = np.eye(out, dtype=np.float32)[:, :, None, None]
        tensors.append(numpy_helper.from_array(eye, "eye"))
        nodes.append(helper.make_node("Conv", ["y", "eye"], ["z"], name="copy"))
        outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "layer", [image], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    found = TensorRange(minimum=-8.0, maximum=8.0, amax=8.0, method=CalibrationMethod.MINMAX)
    table = CalibrationTable(
        method=CalibrationMethod.MINMAX,
        sample_count=1,
        seed=0,
        samples_sha256="0" * 64,
        preprocess_sha256="0" * 64,
        tensors={"x": found, "y": found},
    )
    return onnx.shape_inference.infer_shapes(model), table


@given(
    seed=st.integers(0, 10**6),
    signed_input=st.booleans(),
    coded_output=st.booleans(),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    extreme=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_fused_kernels_are_within_one_step(
    run: Run, seed: int, signed_input: bool, coded_output: bool, kernel: int, stride: int, extreme: bool
) -> None:
    """`extreme`: all weights and codes at their largest, where AVX2's 16-bit sums would saturate."""
    rng = np.random.default_rng(seed)
    shape = (16, 24, kernel, kernel)
    weight = rng.normal(0, 0.02, shape).astype(np.float32)
    image = rng.normal(0, 4, (1, 24, 9, 9)).astype(np.float32)
    if extreme:
        weight = np.full(shape, 0.9 / (24 * kernel**2), np.float32)
        image = np.full_like(image, rng.choice([-9.0, 9.0]))
    model, table = one_layer(weight, signed_input=signed_input, coded_output=coded_output, stride=stride)
    signed = quantise_s8(model, table, place(model, rules=EVERYTHING, target=Target.ONNXRUNTIME))
    (expected,) = run(signed, image, fused=False).values()
    (found,) = run(lower_u8(signed), image).values()
    step = 8 / 127
    limit = 1.01 * step if coded_output else 1e-4
    assert np.abs(found - expected).max() <= limit
    assert np.mean(np.abs(found - expected) > 1e-4) < 0.02


# ---------------------------------------------------------------- parts


def test_sign_is_proved_or_assumed(residual: onnx.ModelProto) -> None:
    index = index_graph(residual)
    for tensor in ("stem_relu", "pooled", "a_out", "joined", "mask"):
        assert never_negative(index, tensor), tensor
    for tensor in ("planes", "a3", "a_sum", "merged", "top_up", "boxes"):
        assert not never_negative(index, tensor), tensor


def test_rounding_moves_in_front_of_concat_but_not_of_a_float_pool(signed: onnx.ModelProto) -> None:
    early = index_graph(round_early(to_unsigned(signed)))
    joined = early.producers[early.consumers["side_relu"][0].output[0]]
    assert joined.op_type == "QuantizeLinear"
    assert [node.op_type for node in early.consumers[joined.output[0]]] == ["Concat"]
    assert early.producers["pooled"].op_type == "MaxPool"


def test_unfolding_leaves_what_becomes_codes(signed: onnx.ModelProto) -> None:
    unfolded = unfold_float_convolutions(to_unsigned(signed))
    convolutions = {node.name for node in unfolded.graph.node if node.op_type == "Conv"}
    assert {"node_a1", "node_mix", "node_stem", "node_boxes"} <= convolutions
    assert not {"node_classes", "node_mask_logits"} & convolutions


def test_other_codes_are_refused(residual: onnx.ModelProto, signed: onnx.ModelProto) -> None:
    with pytest.raises(CalibrationError, match="not signed"):
        lower_u8(lower_u8(signed))
    assert lower_u8(residual).graph.node == residual.graph.node

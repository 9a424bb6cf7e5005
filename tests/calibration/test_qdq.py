from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, numpy_helper

from edgewise.calibration.collect import calibrate
from edgewise.calibration.lower_u8 import lower_u8
from edgewise.calibration.placement import EVERYTHING, place
from edgewise.calibration.qdq import quantise_s8, quantise_weight
from edgewise.calibration.samples import CalibrationSet
from edgewise.calibration.table import CalibrationTable
from edgewise.runtime.contract.manifest import CalibrationMethod, Target
from edgewise.runtime.contract.preprocessing import Stretch
from edgewise.runtime.system.errors import CalibrationError

Run = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def signed(residual: onnx.ModelProto, table: CalibrationTable) -> onnx.ModelProto:
    return quantise_s8(residual, table, place(residual))


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {tensor: node for node in model.graph.node for tensor in node.output}


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_codes_are_signed_and_symmetric(signed: onnx.ModelProto) -> None:
    onnx.checker.check_model(signed, full_check=True)
    constants = initializers(signed)
    quantisers = [node for node in signed.graph.node if node.op_type == "QuantizeLinear"]
    assert quantisers
    for node in quantisers:
        assert constants[node.input[2]].dtype == np.int8
        assert constants[node.input[2]] == 0
        assert constants[node.input[1]].shape == ()


def test_every_code_node_names_its_zero_point(signed: onnx.ModelProto) -> None:
    """TensorRT 8.x reads the third input of both operators without looking whether it is there."""
    constants, zeros = initializers(signed), dict[str, tuple[int, ...]]()
    for node in signed.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = (constants[name] for name in node.input[1:])
            assert (zero.dtype, zero.shape, zero.any()) == (np.int8, scale.shape, False)
            zeros[node.input[2]] = zero.shape
    assert len(set(zeros.values())) == len(zeros), "one tensor of zeros for each length"


def test_scales_come_from_the_table(signed: onnx.ModelProto, table: CalibrationTable) -> None:
    constants = initializers(signed)
    for node in signed.graph.node:
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[1]] == np.float32(table.scale_of(node.input[0]))


def test_one_quantiser_a_tensor_and_one_dequantiser_a_reader(signed: onnx.ModelProto) -> None:
    quantised = [node.input[0] for node in signed.graph.node if node.op_type == "QuantizeLinear"]
    assert len(set(quantised)) == len(quantised)
    reads = [tensor for node in signed.graph.node for tensor in node.input]
    for node in signed.graph.node:
        if node.op_type == "DequantizeLinear":
            assert reads.count(node.output[0]) == 1


def test_weights_are_int8_by_output_channel_and_biases_float(
    residual: onnx.ModelProto, signed: onnx.ModelProto
) -> None:
    made, constants, floats = producers(signed), initializers(signed), initializers(residual)
    axes = {"Conv": 0, "ConvTranspose": 1}
    coded = 0
    for node in signed.graph.node:
        if node.op_type in axes and node.input[1] in made:
            read = made[node.input[1]]
            axis = next(a.i for a in read.attribute if a.name == "axis")
            codes, scale = (constants[tensor] for tensor in read.input[:2])
            assert axis == axes[node.op_type]
            assert codes.dtype == np.int8
            assert codes.min() >= -127
            assert scale.shape == (codes.shape[axis],)
            original = floats[read.input[0].removesuffix("_codes")]
            step = scale.reshape([-1 if a == axis else 1 for a in range(codes.ndim)])
            assert np.abs(codes * step - original).max() <= step.max() / 2 * (1 + 1e-5)
            coded += 1
            if len(node.input) > 2:
                assert constants[node.input[2]].dtype == np.float32
    assert coded == len(place(residual).weighted) == 14
    assert "a2.weight" not in constants


def test_inputs_outputs_and_tensor_names_stay(residual: onnx.ModelProto, signed: onnx.ModelProto) -> None:
    assert signed.graph.input == residual.graph.input
    assert signed.graph.output == residual.graph.output
    assert set(producers(residual)) <= set(producers(signed))


def test_results_are_near_to_float(
    residual: onnx.ModelProto, signed: onnx.ModelProto, frames: list[np.ndarray], run: Run
) -> None:
    for frame in frames[:3]:
        expected, found = run(residual, frame), run(signed, frame, fused=False)
        for name, values in expected.items():
            noise = float(np.mean((values - found[name]) ** 2))
            decibels = 10 * np.log10(float(np.mean(values**2)) / noise)
            assert 20 < decibels < 40


@given(
    arrays.arrays(
        np.float32, (3, 4, 2), elements=st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False)
    ),
    st.integers(0, 2),
)
@settings(deadline=None)
def test_weight_rounding(values: np.ndarray, axis: int) -> None:
    codes, scale = quantise_weight(values, axis)
    step = scale.reshape([-1 if a == axis else 1 for a in range(3)])
    assert (scale > 0).all()
    assert np.abs(codes.astype(np.int64)).max() <= 127
    assert (np.abs(codes * step.astype(np.float64) - values) <= step / 2 * (1 + 1e-4)).all()


def test_shared_weights_are_stored_once(net: type, table: CalibrationTable) -> None:
    builder = net(0)
    builder.add("Cast", ["image"], "pixels", to=TensorProto.FLOAT)
    builder.add("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2])
    builder.relu(builder.conv("planes", "stem", (3, 16), 3), "a_out")
    builder.relu(builder.conv("a_out", "one", (16, 16)), "b_out")
    builder.add("Conv", ["b_out", "one.weight"], "two")
    model = builder.model({"two": (1, 16, 48, 48)})
    result = quantise_s8(model, table, place(model))
    names = [tensor.name for tensor in result.graph.initializer]
    assert names.count("one.weight_codes") == 1
    assert "one.weight" not in names
    assert sum(node.op_type == "DequantizeLinear" for node in result.graph.node) == 4


def dense_net(net: type) -> onnx.ModelProto:
    """Flattened pixels through MatMul, Gemm and a transposed Gemm."""
    builder = net(0)
    rng = np.random.default_rng(3)
    builder.add("Cast", ["image"], "pixels", to=TensorProto.FLOAT)
    builder.add("Mul", ["pixels", builder.constant("scale", np.float32(1 / 255))], "scaled")
    builder.add("Reshape", ["scaled", builder.constant("rows", np.array([432, 16], np.int64))], "flat")
    sizes = {"one.weight": (16, 32), "two.weight": (32, 24), "three.weight": (20, 24)}
    for name, shape in sizes.items():
        builder.constant(name, rng.normal(0, 0.3, shape).astype(np.float32))
    builder.constant("bias", rng.normal(0, 0.1, 24).astype(np.float32))
    builder.relu(builder.add("MatMul", ["flat", "one.weight"], "one"), "one_relu")
    builder.relu(builder.add("Gemm", ["one_relu", "two.weight", "bias"], "two"), "two_relu")
    builder.add("Gemm", ["two_relu", "three.weight"], "three", transB=1)
    return builder.model({"three": (432, 20)})


@pytest.fixture(scope="module")
def dense_signed(net: type, images: Path, spec: Stretch) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = dense_net(net)
    samples = CalibrationSet.from_folder(images, count=4)
    table = calibrate(model, samples, spec, method=CalibrationMethod.MINMAX)
    return model, quantise_s8(model, table, place(model, rules=EVERYTHING))


def test_products_have_one_scale_an_output_column(
    dense_signed: tuple[onnx.ModelProto, onnx.ModelProto], frames: list[np.ndarray], run: Run
) -> None:
    model, signed = dense_signed
    constants = initializers(signed)
    scales = {name: constants[f"{name}.weight_scale"].shape for name in ("one", "two", "three")}
    assert scales == {"one": (32,), "two": (24,), "three": (20,)}
    expected, found = run(model, frames[0])["three"], run(signed, frames[0], fused=False)["three"]
    assert np.mean((found - expected) ** 2) < 0.001 * np.mean(expected**2)
    unsigned = run(lower_u8(signed), frames[0], fused=False)["three"]
    np.testing.assert_array_equal(unsigned, found)
    fused = run(lower_u8(signed), frames[0])["three"]
    np.testing.assert_allclose(fused, found, rtol=0, atol=0.05 * np.abs(found).max())


def test_nvidias_compiler_takes_quantised_products(
    dense_signed: tuple[onnx.ModelProto, onnx.ModelProto],
) -> None:
    assert "Int8" in engine_log(dense_signed[1])


def test_a_tensor_without_a_range(residual: onnx.ModelProto, table: CalibrationTable) -> None:
    tensors = {name: found for name, found in table.tensors.items() if name != "b1_relu"}
    partial = CalibrationTable(
        method=table.method,
        sample_count=1,
        seed=0,
        samples_sha256=table.samples_sha256,
        preprocess_sha256=table.preprocess_sha256,
        tensors=tensors,
    )
    with pytest.raises(CalibrationError, match="no range") as caught:
        quantise_s8(residual, partial, place(residual))
    assert caught.value.where == "b1_relu"


def test_broken_weights_and_old_opsets(residual: onnx.ModelProto, table: CalibrationTable) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(residual)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "a2.weight")
    weight.CopyFrom(numpy_helper.from_array(np.full((16, 16, 3, 3), np.nan, np.float32), "a2.weight"))
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        quantise_s8(model, table, place(model))
    model.CopyFrom(residual)
    model.opset_import[0].version = 12
    with pytest.raises(CalibrationError, match="opset 12"):
        quantise_s8(model, table, place(model))


# ---------------------------------------------------------------- NVIDIA's parser and compiler


def engine_log(model: onnx.ModelProto) -> str:
    """Build for SM86 without a GPU; what the builder logged, its layers with their types among it."""
    import tensorrt_rtx_bindings as trt

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: object, message: str) -> None:
            self.lines.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(model.SerializeToString()), [
        str(parser.get_error(i)) for i in range(parser.num_errors)
    ]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, log.lines[-5:]
    return "\n".join(log.lines)


@dataclass(frozen=True)
class Kernel:
    """A layer of an engine: what it is, which ONNX nodes it computes, and its tensors' element types."""

    kind: str
    nodes: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def kernels(log: str) -> list[Kernel]:
    found: list[Kernel] = []
    for line in log.splitlines():
        kind = re.search(r"LayerType: (\w+)", line)
        if kind is None:
            continue
        parts = re.split(r", (?=Inputs: \[|Constants: \[|Outputs: \[|TacticName)", line)
        types = {part.split(":")[0]: tuple(re.findall(r"Datatype: (\w+)", part)) for part in parts[1:]}
        nodes = frozenset(re.findall(r"ONNX Layer: (\w+)\]", line))
        found.append(Kernel(kind[1], nodes, types["Inputs"], types["Outputs"]))
    return found


def test_nvidias_compiler_runs_every_placed_convolution_on_codes(
    residual: onnx.ModelProto, signed: onnx.ModelProto
) -> None:
    log = engine_log(signed)
    assert "Non-zero zero point" not in log
    assert "Defaulting to INT8 instead" not in log
    convolutions = [kernel for kernel in kernels(log) if kernel.kind == "correlation"]
    operators = {node.name: node.op_type for node in residual.graph.node}
    placed = {name for name in place(residual).weighted if operators[name] == "Conv"}
    on_codes = {node for kernel in convolutions if kernel.inputs == ("Int8",) for node in kernel.nodes}
    assert placed <= on_codes
    assert not {"node_stem", "node_boxes"} & on_codes


def test_nvidias_compiler_adds_the_skip_as_codes_and_writes_codes(signed: onnx.ModelProto) -> None:
    """Addition, activation and rounding are one kernel, which reads the skip's eight bits."""
    wanted = {"node_b_sum", "node_b_out", "b_out_quantize"}
    (kernel,) = [kernel for kernel in kernels(engine_log(signed)) if "node_b_sum" in kernel.nodes]
    assert wanted <= kernel.nodes
    assert sorted(kernel.inputs) == ["Float", "Int8"]
    assert kernel.outputs == ("Int8",)


def test_nvidias_compiler_takes_every_node_quantised(
    residual: onnx.ModelProto, table: CalibrationTable
) -> None:
    dense = place(residual, rules=EVERYTHING, target=Target.ONNXRUNTIME)
    assert "Non-zero zero point" not in engine_log(quantise_s8(residual, table, dense))

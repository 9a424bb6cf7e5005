"""The builder's pure parts: what is asked of each TensorRT, and how its answers are read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgewise.exporter.engines.check import check_realised
from edgewise.exporter.engines.compile import attach_timings, save_timings
from edgewise.exporter.engines.pins import apply_pins, pins_from_types
from edgewise.exporter.engines.realised import (
    EngineLayer,
    count_nodes,
    count_types,
    kernel_type,
    layers_from_inspector,
    layers_from_log,
    node_type,
)
from edgewise.exporter.engines.recipe import BuildRecipe, TensorRTFeatures, choose_recipe
from edgewise.exporter.engines.weighted import WeightedNode
from edgewise.exporter.passes.fp16 import narrow_nodes
from edgewise.runtime.contract.manifest import KeptNode, Precision
from edgewise.runtime.system.errors import BuildError

from .float_graph import float_graph

RTX = "rtx-1.7.1.116"
VERSIONS = ("8.6.1", "10.3.0", "10.13.0.35", "11.4.0.106", RTX)
NAMES: dict[str, list[str]] = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())
"""Name in TensorRT's Python module -> the versions of the real wheels that have it."""


def names_of(version: str) -> Any:
    """The names of one version as nested namespaces, as `hasattr` sees them."""
    root: dict[str, Any] = {}
    for name, versions in NAMES.items():
        if version in versions:
            owner, _, member = name.rpartition(".")
            root.setdefault(owner or member, {}).update({member: member} if owner else {})
    return SimpleNamespace(**{owner: SimpleNamespace(**members) for owner, members in root.items()})


# ---------------------------------------------------------------- versions and recipes


def test_recorded_names_are_those_of_the_installed_wheel() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")
    for name, versions in NAMES.items():
        owner, _, member = name.rpartition(".")
        holder = getattr(trt, owner, None) if owner else trt
        assert hasattr(holder, member) is (RTX in versions), name


@pytest.mark.parametrize(
    ("version", "strong", "weak", "cross"),
    [
        ("8.6.1", False, True, False),
        ("10.3.0", True, True, False),
        ("10.13.0.35", True, True, False),
        ("11.4.0.106", True, False, False),
        (RTX, True, False, True),
    ],
)
def test_features_are_detected(version: str, strong: bool, weak: bool, cross: bool) -> None:
    features = TensorRTFeatures.of(names_of(version))
    assert features == TensorRTFeatures(
        strong_typing=strong,
        explicit_batch_flag=weak,
        weak_precision=weak,
        cross_compilation=cross,
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", list(Precision))
def test_recipes_use_flags_that_the_version_has(version: str, precision: Precision) -> None:
    recipe = choose_recipe(TensorRTFeatures.of(names_of(version)), precision)
    for flag in recipe.network_flags:
        assert version in NAMES[f"NetworkDefinitionCreationFlag.{flag}"]
    for flag in (*recipe.set_flags, *recipe.clear_flags):
        assert version in NAMES[f"BuilderFlag.{flag}"]
    if version != "8.6.1":
        assert recipe.source is precision
        assert recipe.network_flags == ("STRONGLY_TYPED",)
        assert not recipe.set_flags


def test_weak_typing_compiles_the_fp32_file_with_the_fp16_flag() -> None:
    recipe = choose_recipe(TensorRTFeatures.of(names_of("8.6.1")), Precision.FP16)
    assert recipe == BuildRecipe(
        source=Precision.FP32,
        network_flags=("EXPLICIT_BATCH",),
        set_flags=("FP16", "PREFER_PRECISION_CONSTRAINTS"),
        clear_flags=("TF32",),
        pin_layers=True,
    )
    assert recipe.flags() == ("-TF32", "EXPLICIT_BATCH", "FP16", "PREFER_PRECISION_CONSTRAINTS")


def test_weak_typing_allows_fp16_beside_int8() -> None:
    recipe = choose_recipe(TensorRTFeatures.of(names_of("8.6.1")), Precision.INT8)
    assert recipe.source is Precision.INT8
    assert recipe.set_flags == ("FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS")
    assert recipe.pin_layers


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", list(Precision))
def test_tf32_is_cleared_and_the_key_says_so(version: str, precision: Precision) -> None:
    assert "-TF32" in choose_recipe(TensorRTFeatures.of(names_of(version)), precision).flags()


# ---------------------------------------------------------------- layer lists

INSPECTED_10 = {
    "Name": "conv1_myl0_1",
    "LayerType": "correlation",
    "Inputs": [{"Name": "x", "Dimensions": [1, 4, 8, 8], "Datatype": "Int8"}],
    "Constants": [
        {"Name": "w", "Dimensions": [32, 4, 3, 3], "Datatype": "Int8"},
        {"Name": "scale", "Dimensions": [1, 32, 1, 1], "Datatype": "Float"},
    ],
    "Outputs": [{"Name": "y", "Dimensions": [1, 32, 8, 8], "Datatype": "Half"}],
    "Metadata": "[ONNX Layer: conv1]\u001e[ONNX Layer: q1]\u001f[ONNX Layer: relu1]",
}
INSPECTED_86 = {
    "Name": "conv1 + relu1",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
    "Outputs": [
        {"Name": "y", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}
    ],
    "Weights": {"Type": "Half", "Count": 1152},
    "Bias": {"Type": "Float", "Count": 32},
}


def test_inspector_of_new_and_old_tensorrt() -> None:
    new, old = layers_from_inspector(json.dumps({"Layers": [INSPECTED_10, INSPECTED_86], "Bindings": []}))
    assert (new.kind, new.inputs, new.outputs, new.weights) == ("correlation", ("int8",), ("fp16",), "int8")
    assert (old.kind, old.inputs, old.outputs, old.weights) == (
        "caskconvolution",
        ("fp16",),
        ("int8",),
        "fp16",
    )
    assert (new.computes_in, old.computes_in) == ("int8", "fp16")
    for found in (new, old):
        assert found.holds("conv1")
        assert found.holds("relu1")
        assert not found.holds("conv")
        assert not found.holds("conv11")


INSPECTED_FREE = {
    **INSPECTED_86,
    "Inputs": [{"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}],
    "Outputs": [{"Name": "y", "Format/Datatype": "N/A due to dynamic shapes"}],
    "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8f16_i8i32_f32_nchw_vect_c_32kcrs_nchw",
    "Weights": {"Type": "Int8", "Count": 1152},
}
"""TensorRT 8.x with a free batch."""

INSPECTED_MYELIN = {
    "Name": "{ForeignNode[conv1...relu1]}",
    "LayerType": "Myelin",
    "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}],
    "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32"}],
    "TacticName": "",
    "Metadata": "[ONNX Layer: conv1]\u001e[ONNX Layer: relu1]",
}
"""A block of TensorRT 8.x: only the tensors at its rim are listed."""


def test_kernel_and_weights_tell_the_type_where_no_tensor_does() -> None:
    free, block = layers_from_inspector(json.dumps({"Layers": [INSPECTED_FREE, INSPECTED_MYELIN]}))
    assert (free.inputs, node_type("conv1", [free])) == (("unknown",), "int8")
    assert node_type("conv1", [dataclasses.replace(free, tactic="a new one")]) == "int8"
    assert node_type("conv1", [dataclasses.replace(free, tactic="a new one", weights=None)]) == "unknown"
    assert node_type("conv1", [block]) == "unknown"
    check_realised(Precision.INT8, [WeightedNode("conv1", True)], [], [block], where="m")
    half = dataclasses.replace(free, tactic="ampere_h16816cudnn_128x64_ldg8_relu_exp_large_nhwc_tn_v1")
    with pytest.raises(BuildError, match="conv1 computes in fp16"):
        check_realised(Precision.INT8, [WeightedNode("conv1", True)], [], [half], where="m")


@pytest.mark.parametrize(
    ("tactic", "told"),
    [
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs", "int8"),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32kcrs", "int8"),
        ("ampere_fp32_icudnn_int8x4_128x64_relu_medium_nn_v1", "int8"),
        ("sm80_xmma_fprop_implicit_gemm_indexed_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize64", "fp16"),
        ("ampere_h1688cudnn_128x128_ldg8_relu_exp_interior_nhwc_tn_v1", "fp16"),
        ("trt_turing_cutlass_image_network_first_layer_hmma_fprop_f16f16f32_nhwc", "fp16"),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128", "fp32"),
        ("ampere_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148t_nt_v1", "fp32"),
        ("__myl_bb0_5_ConAddRelu", None),
        ("", None),
    ],
)
def test_kernels_tell_the_type_of_their_factors(tactic: str, told: str | None) -> None:
    """Names as NVIDIA's published engine dumps have them."""
    assert kernel_type(tactic) == told


def test_nodes_with_weights_are_counted_apart_from_what_lies_around_them() -> None:
    layers = [layer("a", "int8"), layer("b", "int8"), layer("c", "fp16"), layer("rescale", "fp32", "kgen")]
    assert count_nodes(["a", "b", "c", "gone"], layers) == {"fp16": 1, "int8": 2, "unknown": 1}
    assert count_types(layers) == {"fp32": 1, "fp16": 1, "int8": 2}


def test_node_is_found_behind_any_suffix_of_the_metadata() -> None:
    """TensorRT-RTX marks a convolution that became a matrix product so."""
    turned = layer("lateral", "fp16", "gemm")
    turned = dataclasses.replace(
        turned, metadata="[ONNX Layer: lateral][ONNX Layer: a[0]]__gemm_from_conv1x1"
    )
    assert turned.holds("lateral")
    assert turned.holds("a[0]")


def test_the_inspector_says_what_a_layer_moves() -> None:
    first, second = layers_from_inspector(json.dumps({"Layers": [INSPECTED_10, INSPECTED_86]}))
    assert first.moved == 4 * 8 * 8 + 2 * 32 * 8 * 8
    assert second.moved == 0, "8.6 lists no sizes here"


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"Layers": ["conv1 + relu1"]}', json.dumps({"Layers": [{**INSPECTED_86, "Inputs": [{}]}]})],
)
def test_layer_list_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(BuildError, match="cannot be checked"):
        layers_from_inspector(text)


def log_line(kind: str, inputs: str, constants: str, outputs: str, metadata: str) -> str:
    def tensors(types: str) -> str:
        entries = [
            f"{{ Name: t{i}, Dimensions: [{size}], Strides: [1], StrideOrder: [0], Datatype: {name}, "
            "Format: (Linear) Row major linear format }"
            for i, (name, size) in enumerate(part.split("/") for part in types.split())
        ]
        return f" {', '.join(entries)}" if entries else ""

    return (
        f"Name: a_{kind}, LayerType: {kind}, Inputs: [{tensors(inputs)}], Constants: [{tensors(constants)}], "
        f"Outputs: [{tensors(outputs)}], TacticName: x, StreamId: 0, Metadata: {metadata}"
    )


def test_builder_log_is_read_and_counted() -> None:
    message = "\n".join(
        [
            "Layers:",
            log_line(
                "kgen", "UInt8/3,8,8 Half/1", "Half/1", "Half/4,8,8", "[ONNX Layer: cast][ONNX Layer: c]"
            ),
            log_line(
                "correlation", "Half/4,8,8", "Float/1 Half/8,4,3,3 Float/8", "Float/8,8,8", "[ONNX Layer: c]"
            ),
            log_line("signal", "", "", "", ""),
            log_line("kgen", "Int64/10", "", "Int32/10", ""),
            "",
            "I/O Tensors:",
            " Name: image, IOMode: Input",
        ]
    )
    layers = layers_from_log(message)
    assert [layer.computes_in for layer in layers] == ["fp16", "fp16", "integer"]
    assert count_types(layers) == {"fp16": 2, "integer": 1}
    assert [layer.moved for layer in layers] == [192 + 2 + 512, 512 + 2048, 80 + 40], "constants do not move"
    assert node_type("c", layers) == "fp16"
    assert node_type("elsewhere", layers) is None


def test_unknown_line_or_type_in_the_log_is_an_error() -> None:
    for line in ("Name: something new", log_line("kgen", "Int3/4", "", "Float/4", "")):
        with pytest.raises(BuildError, match="cannot be checked"):
            layers_from_log(f"Layers:\n{line}\n")


# ---------------------------------------------------------------- the promise


def layer(node: str, computes: str, kind: str = "correlation") -> EngineLayer:
    return EngineLayer(node, kind, f"[ONNX Layer: {node}]", (computes,), (computes,), computes)


def test_weights_wider_than_activations_are_the_type_computed_in() -> None:
    assert EngineLayer("x", "correlation", "", ("int8",), ("int8",), "fp16").computes_in == "fp16"
    assert EngineLayer("x", "correlation", "", ("fp16",), ("fp16",), "int8").computes_in == "fp16"


def test_outputs_of_a_weighted_layer_do_not_decide() -> None:
    """An INT8 convolution may hand on float values; what counts is what it multiplies."""
    int8 = EngineLayer("c", "caskconvolution", "[ONNX Layer: c]", ("int8", "fp16"), ("fp16",), None)
    assert node_type("c", [int8]) == "int8"
    assert count_types([int8]) == {"fp16": 1}


def test_node_that_is_in_no_layer_is_a_problem() -> None:
    with pytest.raises(BuildError, match="b is in no layer"):
        check_realised(
            Precision.FP32,
            [WeightedNode("a", False), WeightedNode("b", False)],
            [],
            [layer("a", "fp32")],
            where="m",
        )


def test_precision_of_a_network_without_weights_cannot_be_checked() -> None:
    check_realised(Precision.FP32, [], [], [], where="m")
    with pytest.raises(BuildError, match="no layer with weights"):
        check_realised(Precision.INT8, [], [], [], where="m")


def test_kept_node_may_be_wider_but_not_narrower() -> None:
    kept = [KeptNode(node="a", precision=Precision.FP16, reason="sensitive")]
    nodes = [WeightedNode("a", False)]
    for computes in ("fp16", "fp32"):
        check_realised(Precision.INT8, nodes, kept, [layer("a", computes)], where="m")
    with pytest.raises(BuildError, match="a was kept in fp16 and computes in int8"):
        check_realised(Precision.INT8, nodes, kept, [layer("a", "int8")], where="m")


def test_int8_node_that_is_not_quantised_in_the_graph_is_a_problem() -> None:
    with pytest.raises(BuildError, match="neither quantised"):
        check_realised(Precision.INT8, [WeightedNode("a", False)], [], [layer("a", "int8")], where="m")


# ---------------------------------------------------------------- pins for weak typing


def chain(quantised: bool, half: bool) -> onnx.ModelProto:
    """first -> relu -> second -> softmax, `second` quantised or both convolutions in float16."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    weight = np.ones((4, 4, 1, 1), np.float16 if half else np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["xk"], name="in", to=kind),
        helper.make_node("Conv", ["xk", "w"], ["c1"], name="first"),
        helper.make_node("Relu", ["c1"], ["r"], name="relu"),
    ]
    if quantised:
        nodes += [
            helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"], name="Q"),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"], name="DQ"),
        ]
    nodes += [
        helper.make_node("Conv", ["dq" if quantised else "r", "w"], ["c2"], name="second"),
        helper.make_node("Cast", ["c2"], ["f"], name="out", to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["f"], ["y"], name="softmax"),
    ]
    tensors = {"w": weight, "s": np.float32(0.1), "z": np.int8(0)}
    return float_graph(nodes, tensors, (1, 4, 2, 2), (1, 4, 2, 2))


def test_fp16_pins_weighted_nodes_and_what_stays_float32() -> None:
    """The Relu between two convolutions is the builder's choice."""
    pins = pins_from_types(chain(quantised=False, half=False), chain(quantised=False, half=True))
    assert pins == {"first": "HALF", "second": "HALF", "softmax": "FLOAT"}


def test_what_fuses_into_an_int8_kernel_is_not_pinned() -> None:
    """The first convolution is not quantised and keeps its own type; the Relu fuses with the Q behind."""
    model = chain(quantised=True, half=False)
    for typed in (model, chain(quantised=False, half=True)):
        assert pins_from_types(model, typed) == {"first": "FLOAT", "softmax": "FLOAT"}


def test_float16_node_before_a_quantiser_is_pinned() -> None:
    narrow = narrow_nodes(chain(quantised=True, half=False), {"first"})
    assert pins_from_types(narrow, narrow) == {"first": "HALF", "softmax": "FLOAT"}


def test_comparison_is_pinned_by_the_type_of_what_it_compares() -> None:
    """Box areas exceed 65,504: in float16 they would compare as infinite."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["area"], name="area"),
        helper.make_node("Greater", ["area", "least"], ["large"], name="large"),
        helper.make_node("And", ["large", "large"], ["both"], name="both"),
        helper.make_node("Cast", ["both"], ["y"], name="out", to=TensorProto.FLOAT),
    ]
    model = float_graph(nodes, {"least": np.float32(70000)}, (1, 4), (1, 4))
    assert pins_from_types(model, model) == {"area": "FLOAT", "large": "FLOAT"}


def test_node_that_the_typed_file_lacks_keeps_its_own_type() -> None:
    typed = chain(quantised=False, half=True)
    for node in typed.graph.node:
        node.name = f"renamed {node.name}"
    pins = pins_from_types(chain(quantised=False, half=False), typed)
    assert pins == dict.fromkeys(("first", "relu", "second", "softmax"), "FLOAT")


def sampled() -> onnx.ModelProto:
    """conv -> times -> grid of a GridSample over x -> codes -> conv."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["moves"], name="offsets"),
        helper.make_node("Mul", ["moves", "s"], ["scaled"], name="scale"),
        helper.make_node("Reshape", ["scaled", "shape"], ["grid"], name="grid"),
        helper.make_node("GridSample", ["x", "grid"], ["read"], name="sample"),
        helper.make_node("Relu", ["read"], ["r"], name="relu"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"], name="dequantise"),
        helper.make_node("Conv", ["dq", "w"], ["y"], name="last"),
    ]
    tensors = {
        "w": np.ones((4, 4, 1, 1), np.float32),
        "s": np.float32(0.1),
        "z": np.int8(0),
        "shape": np.array([1, 4, 2, 2]),
    }
    return float_graph(nodes, tensors, (1, 4, 2, 2), (1, 4, 4, 2))


def test_sampling_positions_are_pinned_though_codes_follow() -> None:
    assert pins_from_types(sampled(), sampled()) == {
        "offsets": "FLOAT",
        "scale": "FLOAT",
        "grid": "FLOAT",
        "sample": "FLOAT",
    }


class PinnableLayer:
    """Stands for an `ILayer` of TensorRT 8.6: no wheel that installs here has pinnable layers."""

    def __init__(
        self, name: str, kind: str, read: str, made: str, *, output: bool = False, known: bool = True
    ) -> None:
        self.name, self.type = name, kind
        self.metadata = f"[ONNX Layer: {name}]" if known else ""
        self.num_inputs = self.num_outputs = 1
        self.precision: str | None = None
        self.output_types: dict[int, str] = {}
        self._read = SimpleNamespace(dtype=read)
        self._made = SimpleNamespace(dtype=made, is_network_output=output)

    def get_input(self, index: int) -> Any:
        assert index == 0
        return self._read

    def get_output(self, index: int) -> Any:
        assert index == 0
        return self._made

    def set_output_type(self, index: int, dtype: str) -> None:
        self.output_types[index] = dtype


def pinned(layers: list[PinnableLayer], pins: dict[str, str]) -> list[tuple[str | None, dict[int, str]]]:
    names = ("CONVOLUTION", "CONSTANT", "ACTIVATION", "ELEMENTWISE")
    trt = SimpleNamespace(
        LayerType=SimpleNamespace(**{name: name for name in names}),
        DataType=SimpleNamespace(FLOAT="FLOAT", HALF="HALF", INT8="INT8", INT32="INT32"),
    )
    apply_pins(trt, SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__), pins)
    return [(entry.precision, entry.output_types) for entry in layers]


def test_pins_are_set_on_layers_that_carry_floats() -> None:
    layers = [
        PinnableLayer("conv", "CONVOLUTION", "FLOAT", "FLOAT"),
        PinnableLayer("relu", "ACTIVATION", "FLOAT", "FLOAT"),
        PinnableLayer("weights", "CONSTANT", "FLOAT", "FLOAT"),
        PinnableLayer("index", "ACTIVATION", "INT32", "INT32"),
        PinnableLayer("compare", "ELEMENTWISE", "FLOAT", "BOOL"),
        PinnableLayer("last", "ACTIVATION", "FLOAT", "FLOAT", output=True),
    ]
    pins = {"conv": "HALF", "weights": "HALF", "index": "FLOAT", "compare": "FLOAT", "last": "FLOAT"}
    assert pinned(layers, pins) == [
        ("HALF", {0: "HALF"}),
        (None, {}),
        (None, {}),
        (None, {}),
        ("FLOAT", {}),
        ("FLOAT", {}),
    ]


def test_layers_without_an_origin_follow_a_float32_neighbour() -> None:
    def unknown(name: str) -> PinnableLayer:
        return PinnableLayer(name, "ACTIVATION", "FLOAT", "FLOAT", known=False)

    layers = [
        PinnableLayer("conv", "CONVOLUTION", "FLOAT", "FLOAT"),
        unknown("between free layers"),
        PinnableLayer("relu", "ACTIVATION", "FLOAT", "FLOAT"),
        unknown("in front of the decoding"),
        unknown("as well"),
        PinnableLayer("decode", "ACTIVATION", "FLOAT", "FLOAT"),
        unknown("behind it"),
    ]
    found = pinned(layers, {"conv": "HALF", "decode": "FLOAT"})
    assert [precision for precision, _ in found] == ["HALF", None, None, *["FLOAT"] * 4]


# ---------------------------------------------------------------- timings


class PretendedConfig:
    """`IBuilderConfig` that takes only timings of its own device, as TensorRT does."""

    def __init__(self, own: bytes) -> None:
        self.own, self.taken = own, None

    def create_timing_cache(self, data: bytes) -> Any:
        return (
            None if data == b"broken" else SimpleNamespace(data=data, serialize=lambda: data + b" and more")
        )

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        fits = cache.data in (b"", self.own)
        self.taken = cache if fits else self.taken
        return fits

    def get_timing_cache(self) -> Any:
        return self.taken


@pytest.mark.parametrize(
    ("stored", "taken"), [(b"own", b"own"), (b"of another power mode", b""), (b"broken", b""), (None, b"")]
)
def test_timings_of_another_device_are_begun_anew(tmp_path: Path, stored: bytes | None, taken: bytes) -> None:
    path, config = tmp_path / "timings" / "a.cache", PretendedConfig(b"own")
    if stored is not None:
        path.parent.mkdir()
        path.write_bytes(stored)
    assert attach_timings(config, path) is config.taken
    assert config.taken.data == taken
    save_timings(config, path)
    assert path.read_bytes() == taken + b" and more"


def test_timings_that_tensorrt_does_not_hand_out_are_not_written(tmp_path: Path) -> None:
    save_timings(PretendedConfig(b"own"), tmp_path / "a.cache")
    assert not list(tmp_path.iterdir())

"""The release lines of every target: what each refuses, by the node, the rule and the release."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewise.exporter.targets.profiles import RELEASES, check_release, releases_of
from edgewise.exporter.way.export import CanonicalGraph
from edgewise.runtime.contract.manifest import Target
from edgewise.runtime.system.errors import ExportError

SHAPE = (1, 4, 6, 6)
LINES = {release.name: release for release in RELEASES}
NVIDIA = tuple(release.name for release in RELEASES if release.target is not Target.ONNXRUNTIME)
TENSORRT = tuple(name for name in NVIDIA if name.startswith("TensorRT 1"))
OLDEST = ("TensorRT 8.6",)


def model_of(
    nodes: list[onnx.NodeProto],
    constants: dict[str, object] | None = None,
    *,
    opset: int = 17,
    image: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A graph from `x` (1, 4, 6, 6) to `y`, whose last node is called `it`."""
    nodes[-1].name = "it"
    graph = helper.make_graph(
        nodes,
        "edgewise",
        [helper.make_tensor_value_info("x", image, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def one(
    kind: str, constants: dict[str, object] | None = None, *, opset: int = 17, **attributes: object
) -> onnx.ModelProto:
    """One node that reads `x` and then the constants in their order."""
    node = helper.make_node(kind, ["x", *(constants or {})], ["y"], **attributes)
    return model_of([node], constants, opset=opset)


def codes(scale: object = np.float32(0.1), zero: object = np.int8(0), *, opset: int = 17) -> onnx.ModelProto:
    return one("QuantizeLinear", {"scale": scale, "zero": zero}, opset=opset)


def weight_codes(*inputs: str, zero: object = None) -> onnx.ModelProto:
    """DequantizeLinear of int8 weights, as a convolution reads them."""
    fixed = {
        "codes": np.ones((4, 4, 1, 1), np.int8),
        "scale": np.full(4, 0.1, np.float32),
        "zero": np.zeros(4, np.int8) if zero is None else zero,
    }
    node = helper.make_node("DequantizeLinear", list(inputs), ["y"], axis=0)
    return model_of([node], {name: fixed[name] for name in inputs})


def halves(kind: str, scale: object, *, opset: int = 19) -> onnx.ModelProto:
    to_half = helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16)
    quantise = helper.make_node(kind, ["half", "scale", "zero"], ["y"])
    return model_of([to_half, quantise], {"scale": scale, "zero": np.int8(0)}, opset=opset)


def roi_align(**attributes: object) -> onnx.ModelProto:
    boxes = {"boxes": np.array([[0, 0, 3, 3]], np.float32), "batch": np.array([0])}
    return one("RoiAlign", boxes, **attributes)


def check_target(model: onnx.ModelProto, target: Target) -> None:
    """Hold a graph to every release line of a target."""
    for release in releases_of(target):
        check_release(model, release)


def refusal(model: onnx.ModelProto, line: str) -> str:
    """What a release line says of a graph, behind the node's name; nothing where it takes it."""
    try:
        check_release(model, LINES[line])
    except ExportError as error:
        return f"{error.where}: {error.what}"
    return ""


BROKEN: list[tuple[str, onnx.ModelProto, tuple[str, ...]]] = [
    (
        "small sorted TopK",
        model_of(
            [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("TopK", ["f", "k"], ["y", "i"])],
            {"k": np.array([4000])},
        ),
        NVIDIA,
    ),
    ("small sorted TopK", model_of([helper.make_node("TopK", ["x", "k"], ["y", "i"], sorted=0)],
                                   {"k": np.array([2])}), NVIDIA),
    ("plain Resize", model_of([helper.make_node("Resize", ["x", "", "s"], ["y"], antialias=1, mode="linear")],
                              {"s": np.ones(4, np.float32)}, opset=18), NVIDIA),
    (
        "fixed Range",
        model_of(
            [
                helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
                helper.make_node("Range", ["zero", "m", "step"], ["y"]),
            ],
            {"zero": np.float32(0), "step": np.float32(1)},
        ),
        NVIDIA,
    ),
    ("plain scatter", one("ScatterElements", {"i": np.zeros(SHAPE, np.int64),
                                              "u": np.ones(SHAPE, np.float32)}, reduction="add"), NVIDIA),
    ("plain MaxPool", one("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]), NVIDIA),
    (
        "four dimensions",
        model_of(
            [
                helper.make_node("Unsqueeze", ["x", "two"], ["five"]),
                helper.make_node("GridSample", ["five", "grid"], ["y"]),
            ],
            {"two": np.array([2]), "grid": np.zeros((1, 1, 6, 6, 3), np.float32)},
        ),
        NVIDIA,
    ),
    (
        "samples in one type",
        model_of(
            [
                helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
                helper.make_node("GridSample", ["half", "grid"], ["y"]),
            ],
            {"grid": np.zeros((1, 6, 6, 2), np.float32)},
        ),
        NVIDIA,
    ),
    ("signed codes", codes(zero=np.uint8(0)), NVIDIA),
    ("signed codes", codes(zero=np.int8(3)), NVIDIA),
    ("three inputs", weight_codes("codes", "scale"), NVIDIA),
    ("three inputs", weight_codes("codes", "scale", "zero", zero=np.int8(0)), NVIDIA),
    ("scale of its values' type", halves("QuantizeLinear", np.float32(0.1)), NVIDIA),
    (
        "scale of its operator set",
        halves("QuantizeLinear", np.float16(0.1), opset=17),
        NVIDIA,
    ),
    ("float32 scale", halves("QuantizeLinear", np.float16(0.1)), OLDEST),
    ("float32 scale", codes(np.float32(-0.1)), OLDEST),
    ("stated sampling_ratio", roi_align(), (*OLDEST, *TENSORRT)),
    ("plain Einsum", one("Einsum", {"w": np.ones((4, 6), np.float32)}, equation="...ij,ij->...j"), OLDEST),
    ("plain Einsum", one("Einsum", equation="abii->abi"), OLDEST),
    ("known types", model_of([helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
                              helper.make_node("Add", ["d", "d"], ["y"])]), NVIDIA),
    (
        "INT64 within INT32",
        model_of(
            [
                helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
                helper.make_node("Add", ["i", "far"], ["y"]),
            ],
            {"far": np.array(2**40)},
        ),
        OLDEST,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "model", "lines"), BROKEN, ids=[entry[0] for entry in BROKEN])
def test_broken_rule_is_named_with_its_node_and_every_release_that_has_it(
    rule: str, model: onnx.ModelProto, lines: tuple[str, ...]
) -> None:
    said = {name: refusal(model, name) for name in LINES}
    refusing = {name for name, error in said.items() if f"(rule `{rule}`)" in error}
    assert refusing == set(lines)
    for name in lines:
        assert said[name].startswith(f"it: {name} refuses ")


def test_every_rule_is_broken_here() -> None:
    used = {rule.name for release in RELEASES for found in release.rules.values() for rule in found}
    used |= {rule.name for release in RELEASES for rule in release.everywhere}
    assert used == {rule for rule, _, _ in BROKEN}


@pytest.mark.parametrize("line", NVIDIA)
def test_operators_without_a_fixed_shape_or_a_parser_are_refused(line: str) -> None:
    assert refusal(one("NonZero"), line).startswith(f"it: {line} refuses NonZero: its output shape depends")
    assert refusal(one("Det"), line) == f"it: {line} refuses Det: no parser knows it"
    assert bool(refusal(one("Hardmax"), line)) is (line in OLDEST)


def test_operator_sets_stop_where_the_oldest_parser_does() -> None:
    for release in RELEASES:
        check_release(one("Relu", opset=release.newest_opset), release)
        with pytest.raises(ExportError, match=f"{release.name} reads operator sets up to"):
            check_release(one("Relu", opset=release.newest_opset + 1), release)
    assert min(release.newest_opset for release in releases_of(Target.TENSORRT)) == 17


@pytest.mark.parametrize("line", NVIDIA)
def test_uint8_goes_into_a_cast(line: str) -> None:
    model = model_of(
        [helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1])], image=TensorProto.UINT8
    )
    with pytest.raises(ExportError, match="before a Cast") as caught:
        check_release(model, LINES[line])
    assert caught.value.where == line


@pytest.mark.parametrize("line", NVIDIA)
@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ("y = Cast <to = 2> (x)", ""),
        ("whole = Cast <to = 2> (x)  y = Identity(whole)", "made by Identity"),
        ("y = Cast <to = 2> (x)  z = Cast <to = 1> (y)", "read by Cast"),
    ],
)
def test_uint8_comes_out_of_a_cast(line: str, nodes: str, says: str) -> None:
    outputs = "uint8[2] y, float[2] z" if " z =" in nodes else "uint8[2] y"
    text = f'<ir_version: 8, opset_import: ["" : 17]> maps (float[2] x) => ({outputs}) {{ {nodes} }}'
    model = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    if not says:
        check_release(model, LINES[line])
        return
    with pytest.raises(ExportError, match=says):
        check_release(model, LINES[line])


def test_slices_may_reach_beyond_int32() -> None:
    bounds = {"from": np.array([0]), "to": np.array([2**63 - 1]), "axes": np.array([1])}
    check_target(one("Slice", bounds), Target.TENSORRT)


@pytest.mark.parametrize(
    "model", [codes(), weight_codes("codes", "scale", "zero"), roi_align(sampling_ratio=2)]
)
def test_what_keeps_every_rule_is_taken_by_all_of_tensorrt(model: onnx.ModelProto) -> None:
    check_target(model, Target.TENSORRT)
    check_target(model, Target.ONNXRUNTIME)


def test_roi_align_is_native_on_tensorrt_only() -> None:
    assert all("RoiAlign" in release.plugins for release in releases_of(Target.TENSORRT))
    with pytest.raises(ExportError, match=r"TensorRT-RTX 1.7 refuses RoiAlign"):
        check_target(roi_align(sampling_ratio=2), Target.TENSORRT_RTX)


@pytest.mark.parametrize("target", list(Target))
def test_the_example_runs_on_every_target(spots_canonical: CanonicalGraph, target: Target) -> None:
    check_target(spots_canonical.fp32, target)

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewise.exporter.graph.conditions import (
    gives_exactly,
    no_control_flow,
    only_standard_operators,
    opset_of,
)
from edgewise.exporter.graph.numerics import first_difference, run_graph
from edgewise.exporter.graph.passes import Pass, PassRunner, expose
from edgewise.exporter.passes.demote_probes import demote_probes
from edgewise.exporter.passes.lower_opset import lower_opset, obstacle
from edgewise.exporter.passes.plain_reshape import plain_reshape
from edgewise.exporter.way.export import CanonicalGraph
from edgewise.runtime.compare.tensors import difference
from edgewise.runtime.system.errors import ExportError

X = np.random.default_rng(1).normal(size=(1, 4, 6, 6)).astype(np.float32)
SAMPLES = [{"x": X}]


def model_of(
    nodes: list[onnx.NodeProto],
    outputs: dict[str, tuple[int, ...]],
    constants: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 18,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    for number, node in enumerate(nodes):
        node.name = node.name or f"n{number}"
    graph = helper.make_graph(
        nodes,
        "edgewise",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


# ---------------------------------------------------------------- the runner


def relu() -> onnx.ModelProto:
    return model_of([node("Relu", ["x"], ["y"])], {"y": X.shape})


def swap_relu(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.node[0].op_type = "Abs"
    return model


def test_a_pass_gets_a_copy_and_says_whether_it_changed_anything() -> None:
    model = relu()
    before = model.SerializeToString()
    runner = PassRunner(SAMPLES, ["y"])
    result = runner.run(Pass(name="nothing", apply=lambda draft: draft), model)
    assert not result.changed
    assert result.step.detail == "nothing to change"

    def rename(draft: onnx.ModelProto) -> onnx.ModelProto:
        draft.graph.node[0].name = "other"
        return draft

    result = runner.run(Pass(name="rename", apply=rename, detail="one name"), model)
    assert result.changed
    assert result.step.detail == "one name"
    assert model.SerializeToString() == before
    assert [step.step for step in runner.steps] == ["nothing", "rename"]


def test_a_pass_that_moves_numbers_is_refused() -> None:
    with pytest.raises(ExportError, match="'swap' changed the numbers on sample 0") as caught:
        PassRunner(SAMPLES, ["y"]).run(Pass(name="swap", apply=swap_relu), relu())
    assert caught.value.where == "y"


def test_a_lossy_pass_is_judged_by_the_compared_tensors() -> None:
    def round_off(draft: onnx.ModelProto) -> onnx.ModelProto:
        rounded = node("Mul", ["x", "scale"], ["scaled"], name="scale")
        draft.graph.node.insert(0, rounded)
        draft.graph.node[1].input[0] = "scaled"
        draft.graph.initializer.append(numpy_helper.from_array(np.float32(1.001), "scale"))
        return draft

    runner = PassRunner(SAMPLES, ["y"])
    assert runner.run(Pass(name="lossy", apply=round_off, tolerance=2e-3), relu()).changed
    with pytest.raises(ExportError, match=r"exceeds 0\.0005"):
        PassRunner(SAMPLES, ["y"]).run(Pass(name="lossy", apply=round_off, tolerance=5e-4), relu())


def test_conditions_are_verified_before_and_after() -> None:
    runner = PassRunner(SAMPLES, ["y"])
    with pytest.raises(ExportError, match="'early' requires that outputs are as declared"):
        runner.run(Pass(name="early", apply=lambda draft: draft, requires=(gives_exactly(["z"]),)), relu())
    with pytest.raises(ExportError, match="'late' ensures that outputs are as declared"):
        runner.run(Pass(name="late", apply=lambda draft: draft, ensures=(gives_exactly(["z"]),)), relu())


def test_an_invalid_result_is_refused() -> None:
    def break_graph(draft: onnx.ModelProto) -> onnx.ModelProto:
        draft.graph.node[0].input[0] = "missing"
        return draft

    with pytest.raises(ExportError, match="made an invalid graph"):
        PassRunner(SAMPLES, ["y"]).run(Pass(name="break", apply=break_graph), relu())


def test_foreign_domains_and_subgraphs_are_named() -> None:
    foreign = model_of([helper.make_node("Relu", ["x"], ["y"], name="odd", domain="my.own")], {"y": X.shape})
    assert "odd" in (only_standard_operators(foreign) or "")
    body = helper.make_graph([], "body", [], [])
    branching = model_of([helper.make_node("If", ["x"], ["y"], name="branch", then_branch=body)], {"y": (1,)})
    assert "branch" in (no_control_flow(branching) or "")


# ---------------------------------------------------------------- opset 18 and 19 to 17


@pytest.mark.parametrize(
    "model",
    [
        model_of(
            [
                node(
                    "Resize", ["x", "", "", "sizes"], ["y"], mode="linear", antialias=0,
                    keep_aspect_ratio_policy="stretch",
                )
            ],
            {"y": (1, 4, 9, 13)},
            {"sizes": np.array([1, 4, 9, 13])},
        ),
        model_of([node("ReduceMax", ["x", "axes"], ["y"])], {"y": (1, 1, 6, 1)}, {"axes": np.array([1, -1])}),
        model_of([node("ReduceMean", ["x"], ["y"], keepdims=0)], {"y": ()}),
        model_of(
            [node("Split", ["x"], ["a", "b"], axis=-1, num_outputs=2), node("Sub", ["a", "b"], ["y"])],
            {"y": (1, 4, 6, 3)},
        ),
        model_of(
            [node("Pad", ["x", "pads", "", "axes"], ["y"])],
            {"y": (1, 4, 9, 7)},
            {"pads": np.array([1, 0, 2, 1]), "axes": np.array([2, -1])},
        ),
        model_of([node("Softmax", ["x"], ["y"], axis=1)], {"y": X.shape}),
        model_of(
            [
                node("QuantizeLinear", ["x", "scale", "zero"], ["q"], saturate=1),
                node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
                node("AveragePool", ["d"], ["p"], kernel_shape=[2, 2], strides=[2, 2], dilations=[1, 1]),
                node("Cast", ["p"], ["c"], to=TensorProto.FLOAT16, saturate=1),
                node("Cast", ["c"], ["w"], to=TensorProto.FLOAT),
                node("Reshape", ["w", "flat"], ["y"]),
            ],
            {"y": (1, 36)},
            {"scale": np.float32(0.02), "zero": np.int8(0), "flat": np.array([1, -1])},
            opset=19,
        ),
    ],
    ids=["resize", "reduce-axes", "reduce-all", "split", "pad", "unchanged", "opset-19"],
)  # fmt: skip
def test_lowering_the_opset_keeps_every_bit(model: onnx.ModelProto) -> None:
    runner = PassRunner(SAMPLES, ["y"])
    result = runner.run(lower_opset(), model)
    assert opset_of(result.model) == 17
    assert result.model.ir_version == 8
    np.testing.assert_array_equal(run_graph(result.model, SAMPLES)[0]["y"], run_graph(model, SAMPLES)[0]["y"])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            model_of(
                [node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", antialias=1)],
                {"y": (1, 4, 3, 3)},
                {"sizes": np.array([1, 4, 3, 3])},
            ),
            "antialiased",
        ),
        (model_of([node("Mish", ["x"], ["y"])], {"y": X.shape}), "does not exist in opset 17"),
        (
            model_of([node("ReduceMax", ["x"], ["y"], noop_with_empty_axes=1)], {"y": X.shape}),
            "reduces nothing",
        ),
        (
            model_of(
                [node("AveragePool", ["x"], ["y"], name="mean", kernel_shape=[2, 2], dilations=[2, 2])],
                {"y": (1, 4, 4, 4)},
                opset=19,
            ),
            "AveragePool (mean) is dilated",
        ),
        (
            model_of([node("DequantizeLinear", ["q", "s"], ["y"], name="half")], {"y": (4,)},
                     {"q": np.ones(4, np.int8), "s": np.float16(0.5)}, opset=19, kind=TensorProto.FLOAT16),
            "has no constant float32 scale",
        ),
    ],
)  # fmt: skip
def test_what_opset_17_cannot_say_is_named(model: onnx.ModelProto, reason: str) -> None:
    assert reason in (obstacle(model) or "")


def test_a_model_of_opset_17_is_left_alone() -> None:
    model = model_of([node("Relu", ["x"], ["y"])], {"y": X.shape}, opset=17)
    model.ir_version = 8
    assert not PassRunner(SAMPLES, ["y"]).run(lower_opset(), model).changed


# ---------------------------------------------------------------- Reshape


def test_allowzero_goes_where_it_says_nothing() -> None:
    model = model_of(
        [
            node("Reshape", ["x", "flat"], ["a"], allowzero=1),
            node("Shape", ["x"], ["s"]),
            node("Reshape", ["a", "s"], ["y"], allowzero=1),
        ],
        {"y": X.shape},
        {"flat": np.array([1, -1])},
    )
    result = PassRunner(SAMPLES, ["y"]).run(plain_reshape(), model)
    assert result.changed
    assert [len(each.attribute) for each in result.model.graph.node] == [0, 0, 1]


# ---------------------------------------------------------------- probes


def test_probes_become_inner_tensors(
    spots_canonical: CanonicalGraph, spot_samples: list[dict[str, np.ndarray]]
) -> None:
    assert [value.name for value in spots_canonical.fp32.graph.output] == [
        "boxes",
        "scores",
        "classes",
        "masks",
    ]
    exposed = expose(spots_canonical.fp32, ["heat"])
    lowered, canonical = (run_graph(model, spot_samples)[0] for model in (exposed, spots_canonical.canonical))
    np.testing.assert_array_equal(lowered["heat"], canonical["heat"])


def test_a_probe_beside_the_way_is_refused(spots_canonical: CanonicalGraph) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(spots_canonical.canonical)
    model.graph.node.append(helper.make_node("Neg", ["heat"], ["aside"], name="aside"))
    model.graph.node.append(helper.make_node("Identity", ["aside"], ["probe"], name="probe"))
    copy = model.graph.output.add()
    copy.CopyFrom(next(value for value in model.graph.output if value.name == "heat"))
    copy.name = "probe"
    graph = spots_canonical.graph
    probe = type(graph.probes[0])(name="probe", dtype=graph.probes[0].dtype, shape=graph.probes[0].shape)
    graph = type(graph)(inputs=graph.inputs, outputs=graph.outputs, probes=(*graph.probes, probe))
    samples = [{"image": np.zeros((1, 128, 128, 3), np.uint8)}]
    with pytest.raises(ExportError, match="named tensors exist") as caught:
        PassRunner(samples, ["heat"]).run(demote_probes(graph), model)
    assert "probe" in caught.value.where


def test_exposing_an_unknown_tensor_is_an_error(spots_canonical: CanonicalGraph) -> None:
    with pytest.raises(ExportError, match="makes no tensor 'nothing'"):
        expose(spots_canonical.fp32, ["nothing"])


# ---------------------------------------------------------------- numbers


def test_relative_error_fails_closed() -> None:
    one = np.ones(3, np.float32)
    assert difference(one, one).relative == 0.0
    assert difference(one * 1.5, one).relative == 0.5
    assert difference(np.array([1, np.nan, 1]), one).relative == np.inf
    assert difference(one[:2], one).relative == np.inf
    assert difference(one, np.zeros(3)).relative == np.inf
    assert difference(np.array([np.inf, 1]), np.array([-np.inf, 1])).relative == np.inf
    assert difference(np.array([np.inf, 1]), np.array([np.inf, 1])).relative == 0.0


def test_a_missing_tensor_is_a_difference() -> None:
    one = {"a": np.ones(3)}
    found = first_difference({}, one, ["a"], 1.0)
    assert found is not None
    assert found.relative_error == np.inf
    assert first_difference(one, {}, ["a"], 1.0) is not None

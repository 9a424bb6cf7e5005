"""Which parts of two models are compared, and from where their inputs are computed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgewise.exporter.graph.passes import Pass, PassRunner
from edgewise.exporter.graph.regions import flow, rewritten
from edgewise.runtime.system.errors import ExportError

SHAPE = (2, 3)
SAMPLES = [{"x": np.arange(6, dtype=np.float32).reshape(SHAPE) - 2.5}]


def node(kind: str, inputs: Sequence[str], output: str) -> NodeProto:
    return helper.make_node(kind, list(inputs), [output], name=output)


def chain(*nodes: NodeProto, outputs: Sequence[str] = ("y",), factor: float = 2.0) -> onnx.ModelProto:
    """x -> nodes -> outputs; `f` is a constant."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)

    constant = numpy_helper.from_array(np.full(SHAPE, factor, np.float32), "f")
    graph = helper.make_graph(list(nodes), "g", [value("x")], [value(name) for name in outputs], [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def usual(factor: float = 2.0, middle: str = "Relu") -> onnx.ModelProto:
    return chain(
        node("Mul", ["x", "f"], "a"), node(middle, ["a"], "b"), node("Neg", ["b"], "y"), factor=factor
    )


def test_models_that_say_the_same_differ_nowhere() -> None:
    one = usual()
    fewer = chain(*one.graph.node[:2], outputs=("b",))
    assert rewritten(one, one) == []
    assert rewritten(one, fewer) == []


def test_a_rewritten_node_is_a_part_of_its_own() -> None:
    (region,) = rewritten(usual(), usual(middle="Abs")) or []
    assert (region.inputs, region.outputs, region.tolerance) == (("a",), ("b",), 0.0)


def test_nodes_that_share_new_tensors_are_one_part_and_others_are_not() -> None:
    def two(first: list[NodeProto], second: str) -> onnx.ModelProto:
        kept = node("Mul", ["b", "f"], "c")
        return chain(*first, kept, node(second, ["c"], "y"))

    before = two([node("Relu", ["x"], "b")], "Neg")
    after = two([node("Abs", ["x"], "n"), node("Relu", ["n"], "b")], "Abs")
    found = {(region.inputs, region.outputs) for region in rewritten(before, after) or []}
    assert found == {(("x",), ("b",)), (("c",), ("y",))}


def test_another_value_of_a_constant_is_a_change_of_its_readers() -> None:
    (region,) = rewritten(usual(), usual(factor=3.0)) or []
    assert (region.inputs, region.outputs) == (("x",), ("a",))


def test_a_part_whose_result_has_no_name_before_is_compared_with_the_rest() -> None:
    before = usual()
    renamed = chain(node("Mul", ["x", "f"], "new"), node("Relu", ["new"], "b"), node("Neg", ["b"], "y"))
    (region,) = rewritten(before, renamed) or []
    assert (region.inputs, region.outputs) == (("x",), ("b",))


def folded() -> onnx.ModelProto:
    """`b` was computed and is a constant now."""
    model = chain(node("Add", ["x", "b"], "y"))
    model.graph.initializer.append(numpy_helper.from_array(np.full(SHAPE, 2.0, np.float32), "b"))
    return model


@pytest.mark.parametrize(("operator", "equal"), [("Relu", True), ("Neg", False)])
def test_what_became_a_constant_is_compared_whole(operator: str, equal: bool) -> None:
    before = chain(node(operator, ["f"], "b"), node("Add", ["x", "b"], "y"))
    assert rewritten(before, folded()) is None
    fold = Pass(name="fold", apply=lambda model: folded())
    if equal:
        assert PassRunner(SAMPLES, ["y"]).run(fold, before).changed
        return
    with pytest.raises(ExportError, match="'fold' changed the numbers on sample 0"):
        PassRunner(SAMPLES, ["y"]).run(fold, before)


@pytest.mark.parametrize("broken", [usual(factor=2.5), usual(middle="Abs"), chain(node("Neg", ["x"], "y"))])
def test_a_change_anywhere_is_found(broken: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match="changed the numbers on sample 0"):
        PassRunner(SAMPLES, ["y"]).run(Pass(name="break", apply=lambda model: broken), usual())


def test_a_break_behind_an_equal_part_is_found_by_the_same_runner() -> None:
    runner = PassRunner(SAMPLES, ["y"])
    model = runner.run(Pass(name="equal", apply=lambda model: with_identity()), usual()).model
    with pytest.raises(ExportError, match="'break' changed the numbers"):
        runner.run(Pass(name="break", apply=lambda model: usual(middle="Abs")), model)


def test_what_flowed_in_one_model_is_not_taken_for_another() -> None:
    """Only with 3 for the constant is the middle ever above 10, where the two middles part."""
    samples = [{"x": np.full(SHAPE, 4.0, np.float32)}]
    runner = PassRunner(samples, ["y"])
    bounds = {"low": np.float32(-20.0), "high": np.float32(10.0)}

    def model(factor: float, kind: str) -> onnx.ModelProto:
        middle = helper.make_node(kind, ["a", *(bounds if kind == "Clip" else ())], ["b"], name="b")
        made = chain(node("Mul", ["x", "f"], "a"), middle, node("Neg", ["b"], "y"), factor=factor)
        made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in bounds.items())
        return made

    def clip(factor: float) -> None:
        first = model(factor, "Identity")
        swap = Pass(name="clip", apply=lambda draft: model(factor, "Clip"))
        runner.beginning_with(first).run(swap, first)

    clip(2.0)
    with pytest.raises(ExportError, match="'clip' changed the numbers"):
        clip(3.0)


def test_a_runner_that_is_let_go_leaves_memory_at_once() -> None:
    """Hundreds of megabytes, which Python's search for cycles would leave there for minutes."""
    sample = np.ones(SHAPE, np.float32)
    runner = PassRunner([{"x": sample}], ["y"])
    swap = Pass(name="swap", apply=lambda draft: with_identity())
    made = runner.beginning_with(usual()).run(swap, usual()).model
    runner.beginning_with(made).run(Pass(name="back", apply=lambda draft: usual()), made)
    held = weakref.ref(sample)
    gc.disable()
    try:
        del runner, sample
        assert held() is None
    finally:
        gc.enable()


def with_identity() -> onnx.ModelProto:
    mul, _, neg = usual().graph.node
    return chain(mul, node("Identity", ["a"], "i"), node("Relu", ["i"], "b"), neg)


def test_the_flow_begins_at_the_nearest_tensors_that_are_known() -> None:
    planted = np.full(SHAPE, 7.0, np.float32)
    (found,) = flow(usual(), [{**SAMPLES[0], "a": planted}], ["b"])
    np.testing.assert_array_equal(found["b"], planted)
    (found,) = flow(usual(), SAMPLES, ["b"])
    np.testing.assert_array_equal(found["b"], np.maximum(SAMPLES[0]["x"] * 2, 0))


def test_one_known_result_of_a_node_does_not_stop_it_from_running() -> None:
    halves = chain(helper.make_node("Split", ["x", "sizes"], ["p", "q"], axis=1), outputs=())
    halves.graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "sizes"))
    (found,) = flow(halves, [{**SAMPLES[0], "p": SAMPLES[0]["x"][:, :1]}], ["q"])
    np.testing.assert_array_equal(found["q"], SAMPLES[0]["x"][:, 1:])

"""Named conditions on a model; each gives None where it holds, else what contradicts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def uint8_is_cast_first(model: onnx.ModelProto) -> str | None:
    """Every consumer of a uint8 graph input is a Cast (TensorRT takes uint8 nowhere else)."""
    import onnx

    narrow = {
        value.name
        for value in model.graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    for node in model.graph.node:
        for name in node.input:
            if name in narrow and node.op_type != "Cast":
                return f"the uint8 input {name!r} goes into {node.op_type} ({node.name}) before a Cast"
    return None


def uint8_is_cast_last(model: onnx.ModelProto) -> str | None:
    """A uint8 output is made by a Cast and read by no node (TensorRT makes uint8 nowhere else)."""
    import onnx

    outputs = {
        value.name
        for value in model.graph.output
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    for node in model.graph.node:
        if node.op_type != "Cast":
            for name in outputs.intersection(node.output):
                return f"the uint8 output {name!r} is made by {node.op_type} ({node.name}), not by a Cast"
        for name in outputs.intersection(node.input):
            return f"the uint8 output {name!r} is read by {node.op_type} ({node.name})"
    return None


def only_standard_operators(model: onnx.ModelProto) -> str | None:
    """No node of another domain and no model-local function."""
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            return f"{node.op_type} ({node.name}) is from the domain {node.domain!r}"
    return f"function {model.functions[0].name}" if model.functions else None


def no_control_flow(model: onnx.ModelProto) -> str | None:
    """No node carries a subgraph; passes look at one flat graph."""
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            return f"{node.op_type} ({node.name}) holds a subgraph"
    return None


def has_no(operator: str) -> Callable[[onnx.ModelProto], str | None]:
    """No node is such an operator."""

    def the_operator_is_gone(model: onnx.ModelProto) -> str | None:
        found = (node for node in model.graph.node if node.op_type == operator)
        return next((f"{operator} ({node.name})" for node in found), None)

    return the_operator_is_gone


def opset_at_most(newest: int) -> Callable[[onnx.ModelProto], str | None]:
    """The default operator set is `newest` or older."""

    def opset_is_old_enough(model: onnx.ModelProto) -> str | None:
        version = opset_of(model)
        return None if version <= newest else f"opset {version}, expected at most {newest}"

    return opset_is_old_enough


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the default operator set."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def gives_exactly(names: Sequence[str]) -> Callable[[onnx.ModelProto], str | None]:
    """The graph's outputs are `names`, in this order."""

    def outputs_are_as_declared(model: onnx.ModelProto) -> str | None:
        found = [output.name for output in model.graph.output]
        return None if found == list(names) else f"outputs {found}, expected {list(names)}"

    return outputs_are_as_declared


def makes(names: Sequence[str]) -> Callable[[onnx.ModelProto], str | None]:
    """Some node of the graph makes every tensor of `names`."""

    def named_tensors_exist(model: onnx.ModelProto) -> str | None:
        made = {output for node in model.graph.node for output in node.output}
        return next((f"no node makes {name!r}" for name in names if name not in made), None)

    return named_tensors_exist

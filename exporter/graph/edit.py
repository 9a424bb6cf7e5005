"""Small questions and edits on a flat ONNX graph, shared by the passes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewise.calibration.graph import tensor_infos

if TYPE_CHECKING:
    import onnx


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute (strings as bytes), or `default`."""
    import onnx

    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def drop_attribute(node: onnx.NodeProto, name: str) -> None:
    """Remove an attribute where it is present."""
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Initialisers and Constant nodes by name; arrays are decoded on each call, so call once."""
    import onnx

    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = attribute(node, "value", None)
            if value is not None:
                values[node.output[0]] = onnx.numpy_helper.to_array(value)
    return values


def constant(model: onnx.ModelProto, name: str) -> np.ndarray | None:
    """One of `constants`; None where it is none."""
    import onnx

    for tensor in model.graph.initializer:
        if tensor.name == name:
            return onnx.numpy_helper.to_array(tensor)
    for node in model.graph.node:
        if node.op_type == "Constant" and name in node.output:
            value = attribute(node, "value", None)
            return None if value is None else onnx.numpy_helper.to_array(value)
    return None


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Fixed shapes of all tensors that shape inference knows."""
    known = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for name, value in tensor_infos(model).items():
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            known[name] = tuple(dim.dim_value for dim in dims)
    return known


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """onnx.TensorProto element type of every tensor that inference knows."""
    known = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return known | {name: value.type.tensor_type.elem_type for name, value in tensor_infos(model).items()}


def consumers(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """Tensor name -> the nodes that read it, in graph order."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in dict.fromkeys(node.input):
            if name:
                readers.setdefault(name, []).append(node)
    return readers


def producers(nodes: Iterable[onnx.NodeProto]) -> dict[str, onnx.NodeProto]:
    """Tensor name -> the node that makes it."""
    return {name: node for node in nodes for name in node.output if name}


def tensor_names(model: onnx.ModelProto) -> set[str]:
    """Every tensor name in use."""
    graph = model.graph
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    return names | {name for node in graph.node for name in (*node.input, *node.output)}


def unique_name(model: onnx.ModelProto, wish: str) -> str:
    """`wish`, or `wish_2`, `wish_3`, ... where it is taken."""
    taken = tensor_names(model)
    name, number = wish, 2
    while name in taken:
        name, number = f"{wish}_{number}", number + 1
    return name


def drop_unused_initialisers(model: onnx.ModelProto) -> None:
    """Remove initialisers that no node reads and that are no output."""
    used = {name for node in model.graph.node for name in node.input}
    used |= {output.name for output in model.graph.output}
    held = model.graph.initializer
    # One by one: what stays is most of the model's bytes, and is not copied.
    for place in reversed(range(len(held))):
        if held[place].name not in used:
            del held[place]


def drop_value_info(model: onnx.ModelProto, names: Iterable[str] | None = None) -> None:
    """Forget recorded inner types and shapes, of all tensors or of `names`."""
    gone = None if names is None else set(names)
    kept = [] if gone is None else [value for value in model.graph.value_info if value.name not in gone]
    copies = [type(value).FromString(value.SerializeToString()) for value in kept]
    del model.graph.value_info[:]
    model.graph.value_info.extend(copies)

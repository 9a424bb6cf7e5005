"""Questions about an ONNX graph: who makes a tensor, who reads it, what its type is, where the weights are.

Nothing here changes a graph, except `with_node_names`, which works on a copy.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, numpy_helper

from edgewise.runtime.system.errors import CalibrationError

_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}


@dataclass(frozen=True)
class WeightedOp:
    """A node that multiplies an activation by constant weights.

    `axis` is the weight's axis of output channels, counted from the front.
    """

    node: NodeProto
    activation: str
    weight: str
    axis: int
    in_channels: int
    out_channels: int
    groups: int


@dataclass(frozen=True)
class Edge:
    """The reading of `tensor` by a node's input number `position`."""

    tensor: str
    node: str
    position: int


@dataclass(frozen=True)
class GraphIndex:
    """The main graph of a model, by tensor name. Subgraphs of If and Loop are not looked into."""

    model: onnx.ModelProto
    producers: Mapping[str, NodeProto]
    consumers: Mapping[str, tuple[NodeProto, ...]]
    constants: Mapping[str, TensorProto]
    types: Mapping[str, ValueInfoProto]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def is_float(self, tensor: str) -> bool:
        """Whether an activation is float32."""
        info = self.types.get(tensor)
        return info is not None and info.type.tensor_type.elem_type == TensorProto.FLOAT

    def constant(self, tensor: str) -> NDArray[np.generic]:
        """The values of an initialiser or Constant node."""
        return numpy_helper.to_array(self.constants[tensor])


def load_model(model: onnx.ModelProto | Path | bytes, *, where: str = "") -> onnx.ModelProto:
    """The model itself, the file that a path names, or what its content says.

    Args:
        model: One of the three.
        where: What content is of, for the error.

    Raises:
        CalibrationError: It cannot be read.
    """
    if isinstance(model, onnx.ModelProto):
        return model
    try:
        return onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
    except Exception as error:  # protobuf and onnx raise families of types without a common base
        raise CalibrationError(
            f"not a readable ONNX model: {error}",
            where=where or ("" if isinstance(model, bytes) else str(model)),
            hint="export the model again",
        ) from None


def with_node_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy in which every node has a unique name (`<op>_<first output>`)."""
    names = [node.name for node in model.graph.node]
    if all(names) and len(set(names)) == len(names):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken: set[str] = set()
    for node in copy.graph.node:
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{node.output[0]}"
        taken.add(node.name)
    return copy


def index_graph(model: onnx.ModelProto) -> GraphIndex:
    """Index a model whose nodes have unique names.

    Raises:
        CalibrationError: Shape inference fails, or nodes share a name.
    """
    graph = model.graph
    names = {node.name for node in graph.node}
    if len(names) != len(graph.node) or "" in names:
        raise CalibrationError("nodes without a unique name", hint="pass the model through with_node_names")
    try:
        types = tensor_infos(model)
    except Exception as error:
        raise CalibrationError(f"the graph's types cannot be inferred: {error}") from None
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers: dict[str, NodeProto] = {}
    consumers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for tensor in node.output:
            producers[tensor] = node
        for tensor in dict.fromkeys(node.input):
            consumers.setdefault(tensor, []).append(node)
        if node.op_type == "Constant":
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return GraphIndex(
        model=model,
        producers=producers,
        consumers={tensor: tuple(nodes) for tensor, nodes in consumers.items()},
        constants=constants,
        types=types,
        inputs=tuple(info.name for info in graph.input if info.name not in constants),
        outputs=tuple(info.name for info in graph.output),
    )


def float_activations(index: GraphIndex) -> tuple[str, ...]:
    """Every float32 tensor that a node makes, in graph order, constants left out."""
    return tuple(
        tensor
        for node in index.model.graph.node
        for tensor in node.output
        if tensor and tensor not in index.constants and index.is_float(tensor)
    )


def weighted_op(index: GraphIndex, node: NodeProto) -> WeightedOp | None:
    """The node as a weighted operation, or None where it is none (both operands computed, not float)."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in _OUTPUT_AXIS or len(node.input) < 2:
        return None
    activation, weight = node.input[0], node.input[1]
    tensor = index.constants.get(weight)
    if tensor is None or tensor.data_type != TensorProto.FLOAT or activation in index.constants:
        return None
    shape = tuple(tensor.dims)
    groups = attribute_int(node, "group", 1)
    if node.op_type == "Conv":
        return WeightedOp(node, activation, weight, 0, shape[1] * groups, shape[0], groups)
    if node.op_type == "ConvTranspose":
        return WeightedOp(node, activation, weight, 1, shape[0], shape[1] * groups, groups)
    if len(shape) != 2:
        return None
    if node.op_type == "Gemm" and attribute_int(node, "transA", 0):
        return None
    transposed = node.op_type == "Gemm" and attribute_int(node, "transB", 0) == 1
    axis = 0 if transposed else 1
    return WeightedOp(node, activation, weight, axis, shape[1 - axis], shape[axis], 1)


def weighted_depth(index: GraphIndex) -> dict[str, int]:
    """For every computed tensor, the largest number of weighted nodes on a way from the inputs to it."""
    depth: dict[str, int] = {}
    for node in index.model.graph.node:
        here = max((depth.get(tensor, 0) for tensor in node.input), default=0)
        here += weighted_op(index, node) is not None
        depth.update(dict.fromkeys(node.output, here))
    return depth


def attribute_int(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    for attribute in node.attribute:
        if attribute.name == name:
            return attribute.i
    return default


def attribute_ints(node: NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """A list of integers, or its default."""
    for attribute in node.attribute:
        if attribute.name == name:
            return tuple(attribute.ints)
    return default


def attribute_text(node: NodeProto, name: str, default: str) -> str:
    """A string attribute, or its default."""
    for attribute in node.attribute:
        if attribute.name == name:
            return attribute.s.decode()
    return default


def static_shape(index: GraphIndex, tensor: str) -> tuple[int, ...] | None:
    """The shape of a tensor, or None where a dimension is not a fixed number."""
    info = index.types.get(tensor)
    if info is None or not info.type.tensor_type.HasField("shape"):
        return None
    dims = info.type.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.dim_value > 0 for dim in dims) else None


def with_nodes(
    model: onnx.ModelProto, nodes: Iterable[NodeProto], extra: Iterable[TensorProto] = ()
) -> onnx.ModelProto:
    """A copy of the model with other nodes, more initialisers, and no initialiser that nothing reads."""
    result = onnx.ModelProto()
    _copy_fields(model, result, without=("graph",))
    graph = result.graph
    _copy_fields(model.graph, graph, without=("node", "initializer"))
    graph.node.extend(nodes)
    used = {tensor for node in graph.node for tensor in node.input} | {out.name for out in graph.output}
    graph.initializer.extend(tensor for tensor in (*model.graph.initializer, *extra) if tensor.name in used)
    return result


def _copy_fields(source: Message, target: Message, *, without: Collection[str]) -> None:
    """Copy every field that is set, but for some: those that are replaced are most of a model's bytes."""
    for field, value in source.ListFields():
        if field.name in without:
            continue
        if isinstance(value, Message):
            getattr(target, field.name).CopyFrom(value)
        elif isinstance(value, str | bytes | int | float):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).extend(value)


def fresh_name(taken: set[str], wanted: str) -> str:
    """`wanted`, numbered where it is taken; the name is added to `taken`."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


def tensor_names(model: onnx.ModelProto) -> set[str]:
    """Every name that a tensor of the graph has."""
    graph = model.graph
    names = {tensor.name for tensor in (*graph.initializer, *graph.input, *graph.output)}
    return names.union(*(node.output for node in graph.node))


def tensor_infos(model: onnx.ModelProto) -> dict[str, ValueInfoProto]:
    """Type and shape of every input, output and inner tensor that shape inference knows."""
    inferred = onnx.shape_inference.infer_shapes(weights_as_inputs(model), data_prop=True).graph
    return {info.name: info for info in (*inferred.value_info, *inferred.input, *inferred.output)}


def multiplies_one_row(node: NodeProto, shape: Sequence[int] | None) -> bool:
    """Whether a node is a product with a single row, whose result has the shape (None: not known)."""
    return node.op_type in ("Gemm", "MatMul") and shape is not None and math.prod(shape[:-1]) == 1


def weights_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large initialisers are inputs: inference and checks copy what they are given, weights and
    all."""
    copy = without_weights(model)
    large = [tensor for tensor in copy.graph.initializer if _is_large(tensor)]
    given = {info.name for info in model.graph.input}
    copy.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims))
        for tensor in large
        if tensor.name not in given
    )
    small = [tensor for tensor in model.graph.initializer if not _is_large(tensor)]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(small)
    return copy


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for questions about the graph, whose large initialisers have their type and shape only."""
    copy = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    graph = copy.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    graph.initializer.extend(
        TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        if _is_large(tensor)
        else tensor
        for tensor in model.graph.initializer
    )
    return copy


def _is_large(tensor: TensorProto) -> bool:
    return math.prod(tensor.dims) > _SMALL


_SMALL = 64
"""Elements up to which a constant may be a shape, axes or pads, which inference reads."""

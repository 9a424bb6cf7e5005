"""Convolutions of codes with a float result, as one matrix product that ONNX Runtime runs on integers.

ONNX Runtime's integer convolution always ends in codes; a quantised convolution whose result stays float (a
network's last one, the branch of an addition) would run in float. A product of codes with a float result has
an integer kernel, and a convolution is the product of its unfolded patches with its weights: pad, take the
kernel's shifted views, put them side by side, multiply. All of it works on bytes in NHWC order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgewise.calibration.graph import (
    GraphIndex,
    attribute_int,
    attribute_ints,
    attribute_text,
    index_graph,
    static_shape,
    with_nodes,
)

_ACTIVATIONS = frozenset({"Relu", "Clip"})


def unfold_float_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite every 2-D convolution of codes, without groups, whose result is read as floats only.

    Equal up to the order of float sums when it is not run on integers.
    """
    index = index_graph(model)
    unfolding = _Unfolding(index)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if _unfolds(index, node):
            nodes.extend(unfolding.product(node))
        else:
            nodes.append(node)
    return _without_unread(with_nodes(model, nodes, unfolding.tensors))


def _unfolds(index: GraphIndex, node: NodeProto) -> bool:
    if node.op_type != "Conv" or attribute_int(node, "group", 1) != 1:
        return False
    sources = [index.producers.get(tensor) for tensor in node.input[:2]]
    if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
        return False
    if attribute_text(node, "auto_pad", "NOTSET") != "NOTSET":
        return False
    if any(step != 1 for step in attribute_ints(node, "dilations", (1, 1))):
        return False
    shapes = [static_shape(index, tensor) for tensor in (node.input[0], node.output[0])]
    return all(shape is not None and len(shape) == 4 for shape in shapes) and not _becomes_codes(index, node)


def _becomes_codes(index: GraphIndex, node: NodeProto) -> bool:
    """Whether codes are made of the result, at once or behind an activation."""
    readers = index.consumers.get(node.output[0], ())
    behind = [
        reader
        for activation in readers
        if activation.op_type in _ACTIVATIONS
        for reader in index.consumers.get(activation.output[0], ())
    ]
    return any(reader.op_type == "QuantizeLinear" for reader in (*readers, *behind))


class _Unfolding:
    """Writes the product form of convolutions; weight matrices that several share are stored once."""

    def __init__(self, index: GraphIndex) -> None:
        self._index = index
        self._matrices: dict[str, str] = {}
        self._biases: dict[str, str] = {}
        self.tensors: list[TensorProto] = []

    def product(self, node: NodeProto) -> list[NodeProto]:
        read_codes = self._index.producers[node.input[0]]
        read_weight = self._index.producers[node.input[1]]
        name = node.name
        codes = f"{name}_nhwc"
        nodes = [_node("Transpose", [read_codes.input[0]], codes, perm=[0, 2, 3, 1])]
        patches, codes = self._patches(node, codes, read_codes.input[2])
        nodes += patches
        nodes.append(_node("DequantizeLinear", [codes, *read_codes.input[1:]], f"{name}_patches"))
        matrix = [self._matrix(read_weight.input[0]), *read_weight.input[1:]]
        nodes.append(_node("DequantizeLinear", matrix, f"{name}_matrix", axis=1))
        result = f"{name}_product"
        nodes.append(_node("MatMul", [f"{name}_patches", f"{name}_matrix"], result))
        if len(node.input) > 2 and node.input[2]:
            nodes.append(_node("Add", [result, self._bias(node.input[2])], f"{name}_biased"))
            result = f"{name}_biased"
        nodes.append(_node("Transpose", [result], node.output[0], perm=[0, 3, 1, 2]))
        return nodes

    def _patches(self, node: NodeProto, codes: str, zero: str) -> tuple[list[NodeProto], str]:
        """Nodes from NHWC codes to the patches [N, H', W', kh * kw * C], and their name."""
        name = node.name
        kernel = self._index.constants[self._index.producers[node.input[1]].input[0]].dims[2:]
        top, left, bottom, right = attribute_ints(node, "pads", (0, 0, 0, 0))
        stride = attribute_ints(node, "strides", (1, 1))
        shape = static_shape(self._index, node.output[0])
        assert shape is not None
        nodes: list[NodeProto] = []
        if any((top, left, bottom, right)):
            pads = self._store(f"{name}_pads", np.array([0, top, left, 0, 0, bottom, right, 0]))
            nodes.append(_node("Pad", [codes, pads, zero], f"{name}_padded"))
            codes = f"{name}_padded"
        if tuple(kernel) == (1, 1) and tuple(stride) == (1, 1):
            return nodes, codes
        axes, steps = self._store(f"{name}_axes", np.array([1, 2])), self._store(f"{name}_steps", stride)
        views: list[str] = []
        for row in range(kernel[0]):
            for column in range(kernel[1]):
                view = f"{name}_view_{row}_{column}"
                first = np.array([row, column])
                last = first + np.array(stride) * (np.array(shape[2:]) - 1) + 1
                bounds = [self._store(f"{view}_first", first), self._store(f"{view}_last", last)]
                nodes.append(_node("Slice", [codes, *bounds, axes, steps], view))
                views.append(view)
        nodes.append(_node("Concat", views, f"{name}_unfolded", axis=3))
        return nodes, f"{name}_unfolded"

    def _matrix(self, weight: str) -> str:
        if weight not in self._matrices:
            values = self._index.constant(weight).transpose(2, 3, 1, 0)
            flat = np.ascontiguousarray(values.reshape(-1, values.shape[3]))
            self._matrices[weight] = f"{weight}_matrix"
            self.tensors.append(numpy_helper.from_array(flat, self._matrices[weight]))
        return self._matrices[weight]

    def _bias(self, bias: str) -> str:
        """A constant bias as [1, 1, 1, C]: of the product and a bias of one dimension ONNX Runtime would make
        a Gemm, which has no kernel for bytes and runs on floats."""
        if bias in self._index.constants and bias not in self._biases:
            self._biases[bias] = f"{bias}_row"
            values = self._index.constant(bias).reshape(1, 1, 1, -1)
            self.tensors.append(numpy_helper.from_array(values, self._biases[bias]))
        return self._biases.get(bias, bias)

    def _store(self, name: str, values: NDArray[np.generic] | tuple[int, ...]) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name


def _node(
    operator: str,
    inputs: list[str],
    output: str,
    *,
    perm: list[int] | None = None,
    axis: int | None = None,
) -> NodeProto:
    attributes: dict[str, Any] = {}
    if perm is not None:
        attributes["perm"] = perm
    if axis is not None:
        attributes["axis"] = axis
    return helper.make_node(operator, inputs, [output], name=f"{output}_{operator.lower()}", **attributes)


def _without_unread(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without nodes whose results nobody reads."""
    read = {out.name for out in model.graph.output}
    kept: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if read.intersection(node.output):
            read.update(node.input)
            kept.append(node)
    return with_nodes(model, reversed(kept))

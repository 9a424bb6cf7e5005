"""The unsigned form of a signed Q/DQ graph, with the same real values, that ONNX Runtime's CPU kernels fuse.

A signed code q becomes

* q itself, saturated at 127, where the tensor cannot be negative (behind Relu, Sigmoid and what keeps their
  sign): QuantizeLinear to uint8 with zero point 0, then Clip at 127. ONNX Runtime drops a Relu in front of
  such a QuantizeLinear, and codes of seven bits never overflow the 16-bit sums of AVX2's kernels. Where the
  tensor does not come from codes itself, the Clip stands in front of the rounding, on floats: ONNX Runtime
  would otherwise round in front of a MaxPool, which is many times slower on bytes in NCHW order;
* q + 128 elsewhere: uint8 with zero point 128. Those codes do overflow AVX2's sums of unsigned by signed
  bytes, so the weights that meet them become unsigned too (w + 128, zero point 128), for which AVX2 is exact.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgewise.calibration.graph import (
    GraphIndex,
    attribute_text,
    fresh_name,
    index_graph,
    tensor_names,
    with_nodes,
)
from edgewise.calibration.unfold import unfold_float_convolutions
from edgewise.runtime.system.errors import CalibrationError

_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "Abs"})
_KEEPS_SIGN = frozenset(
    {"MaxPool", "AveragePool", "GlobalAveragePool", "Transpose", "Reshape", "Slice", "Squeeze", "Unsqueeze"}
)
_KEEPS_SIGN_OF_ALL = frozenset({"Concat", "Add", "Mul", "Max"})
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_COMMUTES_WITH_ROUNDING = frozenset({"MaxPool", "Concat"})


def lower_u8(model: onnx.ModelProto) -> onnx.ModelProto:
    """The form of an S8 graph for ONNX Runtime on a CPU: `to_unsigned`, `round_early`, `unfold`.

    Real values stay the same; ONNX Runtime's fused kernels round from integer sums, which differs from the
    float emulation of the graph by at most one step where a value lies beside a rounding boundary.

    Raises:
        CalibrationError: The graph holds codes that are not signed with zero point 0.
    """
    return unfold_float_convolutions(round_early(to_unsigned(model)))


def to_unsigned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with uint8 codes; every real value is equal to the bit."""
    index = index_graph(model)
    signed: dict[str, bool] = {}
    taken = tensor_names(model)
    store = _Store(taken)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
        if node.op_type == "QuantizeLinear":
            _require_signed(index, node)
            codes = node.output[0]
            signed[codes] = not never_negative(index, node.input[0])
            copy.input[2] = store.zero_point(128 if signed[codes] else 0)
            if signed[codes]:
                continue
            if _comes_from_codes(index, node.input[0]):
                copy.output[0] = fresh_name(taken, f"{codes}_unclipped")
                clip = [copy.output[0], "", store.zero_point(127)]
                nodes.append(helper.make_node("Clip", clip, [codes], name=f"{codes}_clip"))
            else:
                copy.input[0] = fresh_name(taken, f"{node.input[0]}_clipped")
                clip = [node.input[0], "", store.limit(index, node.input[1])]
                nodes.insert(-1, helper.make_node("Clip", clip, [copy.input[0]], name=f"{codes}_clip"))
        elif node.op_type == "DequantizeLinear" and node.input[0] in signed:
            copy.input[2] = store.zero_point(128 if signed[node.input[0]] else 0)
        elif node.op_type == "DequantizeLinear" and _meets_signed_codes(index, node, signed):
            _make_weight_unsigned(index, copy, store)
    return with_nodes(model, nodes, store.tensors)


def round_early(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantise in front of MaxPool and Concat instead of behind, so that what is there ends in codes.

    Both commute with rounding to one scale; every real value is equal to the bit. A MaxPool of floats that
    do not come from codes stays where it is.
    """
    index = index_graph(model)
    swapped: dict[str, NodeProto] = {}
    for node in model.graph.node:
        mover = index.producers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if mover is None or mover.op_type not in _COMMUTES_WITH_ROUNDING or len(mover.output) != 1:
            continue
        alone = index.consumers[mover.output[0]] == (node,) and mover.output[0] not in index.outputs
        if alone and _comes_from_codes(index, mover.output[0]):
            swapped[mover.name] = node
    if not swapped:
        return model
    gone = {node.name for node in swapped.values()}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.name in swapped:
            nodes.extend(_mover_behind_rounding(node, swapped[node.name]))
        elif node.name not in gone:
            nodes.append(node)
    return round_early(with_nodes(model, nodes))


def never_negative(index: GraphIndex, tensor: str) -> bool:
    """Whether the graph's operations alone prove that a tensor holds no negative value."""
    node = index.producers.get(tensor)
    if node is None:
        return tensor in index.constants and float(index.constant(tensor).min(initial=0)) >= 0.0
    if node.op_type in _NEVER_NEGATIVE:
        return True
    if node.op_type in _KEEPS_SIGN or (
        node.op_type == "Resize" and attribute_text(node, "mode", "nearest") != "cubic"
    ):
        return never_negative(index, node.input[0])
    if node.op_type in _KEEPS_SIGN_OF_ALL:
        return all(never_negative(index, read) for read in node.input)
    if node.op_type == "Clip":
        least = node.input[1] if len(node.input) > 1 else ""
        return least in index.constants and float(index.constant(least)) >= 0.0
    if node.op_type == "DequantizeLinear":
        quantiser = index.producers.get(node.input[0])
        return quantiser is not None and never_negative(index, quantiser.input[0])
    return False


def _comes_from_codes(index: GraphIndex, tensor: str) -> bool:
    """Whether a node that reads codes makes the tensor, directly or behind nodes that move values."""
    node = index.producers.get(tensor)
    if node is None:
        return False
    if node.op_type in ("Relu", "Clip") or node.op_type in _COMMUTES_WITH_ROUNDING:
        return any(_comes_from_codes(index, read) for read in node.input)
    makers = (index.producers.get(read) for read in node.input)
    return any(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)


class _Store:
    """New initialisers, each stored once."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._zero_points: dict[int, str] = {}
        self._weights: dict[str, tuple[str, str]] = {}
        self.tensors: list[TensorProto] = []

    def zero_point(self, value: int) -> str:
        if value not in self._zero_points:
            self._zero_points[value] = fresh_name(self._taken, f"code_{value}")
            self.tensors.append(numpy_helper.from_array(np.array(value, np.uint8), self._zero_points[value]))
        return self._zero_points[value]

    def limit(self, index: GraphIndex, scale: str) -> str:
        """The real value of code 127 of a scale."""
        name = fresh_name(self._taken, f"{scale}_limit")
        value = np.float32(127) * index.constant(scale).astype(np.float32)
        self.tensors.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def unsigned_weight(self, index: GraphIndex, weight: str, scale: str) -> tuple[str, str]:
        if weight not in self._weights:
            codes = index.constant(weight).astype(np.int16) + 128
            zero = np.full(index.constant(scale).shape, 128, np.uint8)
            names = (fresh_name(self._taken, f"{weight}_u8"), fresh_name(self._taken, f"{weight}_zero"))
            self.tensors.append(numpy_helper.from_array(codes.astype(np.uint8), names[0]))
            self.tensors.append(numpy_helper.from_array(zero, names[1]))
            self._weights[weight] = names
        return self._weights[weight]


def _make_weight_unsigned(index: GraphIndex, dequantise: NodeProto, store: _Store) -> None:
    weight, scale = dequantise.input[0], dequantise.input[1]
    codes, zero = store.unsigned_weight(index, weight, scale)
    del dequantise.input[:]
    dequantise.input.extend([codes, scale, zero])


def _meets_signed_codes(index: GraphIndex, dequantise: NodeProto, signed: dict[str, bool]) -> bool:
    """Whether a weight is multiplied by codes with zero point 128."""
    readers = index.consumers.get(dequantise.output[0], ())
    if dequantise.input[0] not in index.constants or len(readers) != 1:
        return False
    reader = readers[0]
    if reader.op_type not in _WEIGHTED or reader.input[1] != dequantise.output[0]:
        return False
    activation = index.producers.get(reader.input[0])
    return (
        activation is not None
        and activation.op_type == "DequantizeLinear"
        and signed.get(activation.input[0], False)
    )


def _mover_behind_rounding(mover: NodeProto, quantise: NodeProto) -> list[NodeProto]:
    moved = NodeProto()
    moved.CopyFrom(mover)
    moved.output[0] = quantise.output[0]
    nodes: list[NodeProto] = []
    for slot, tensor in enumerate(mover.input):
        codes = f"{tensor}_codes_for_{mover.name}_{slot}"
        copy = NodeProto()
        copy.CopyFrom(quantise)
        copy.name, copy.input[0], copy.output[0] = f"{codes}_quantize", tensor, codes
        moved.input[slot] = codes
        nodes.append(copy)
    return [*nodes, moved]


def _require_signed(index: GraphIndex, node: NodeProto) -> None:
    zero = index.constant(node.input[2]) if len(node.input) > 2 and node.input[2] in index.constants else None
    if zero is None or zero.dtype != np.int8 or bool(zero.any()):
        raise CalibrationError(
            "codes that are not signed with zero point 0 have no unsigned form here",
            where=node.name,
            hint="pass a graph that quantise_s8 wrote",
        )

"""The signed eight-bit form of a graph: QuantizeLinear and DequantizeLinear pairs that TensorRT fuses.

Codes are signed and symmetric, and every node names its zero point 0, because TensorRT 8.x reads all three
inputs of both operators. Activations have one scale a tensor, amax / 127; weights one a output channel,
stored as int8 behind a DequantizeLinear; biases stay float. Rounding is half to even and codes saturate at
-128 and 127, as both ONNX and TensorRT define them.
"""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgewise.calibration.graph import (
    GraphIndex,
    WeightedOp,
    fresh_name,
    index_graph,
    tensor_names,
    weighted_op,
    with_node_names,
    with_nodes,
)
from edgewise.calibration.placement import Placement
from edgewise.calibration.table import CalibrationTable
from edgewise.runtime.system.errors import CalibrationError

LEAST_OPSET = 13
"""The first opset whose DequantizeLinear takes an axis."""


def quantise_s8(
    model: onnx.ModelProto, table: CalibrationTable, placement: Placement, *, half_scales: bool = False
) -> onnx.ModelProto:
    """Write a placement into a graph.

    Args:
        model: The float32 graph that the placement was made for; it is not changed.
        table: Ranges of (at least) `placement.tensors`.
        placement: From `place`.
        half_scales: Round every scale up to a number that float16 holds too, so that the graph means the same
            whichever type its scales are stored in.

    Returns:
        A model with the same inputs and outputs. Every tensor keeps its name; codes are called
        `<tensor>_codes`, and int8 weights `<weight>_codes`.

    Raises:
        CalibrationError: A tensor without a range, an opset below 13, or weights that are not finite.
    """
    index = index_graph(with_node_names(model))
    _require_opset(model)
    taken = tensor_names(model)
    shared = {tensor: table.range_of(source) for tensor, source in placement.scales.items()}
    table = msgspec.structs.replace(table, tensors={**table.tensors, **shared})
    writer = CodeWriter(index, table, taken, half_scales=half_scales)
    rewired = {(edge.node, edge.position): edge.tensor for edge in placement.edges}
    weighted = frozenset(placement.weighted)
    for tensor in placement.tensors:
        if tensor in index.inputs:
            writer.quantise_activation(tensor)
    for node in index.model.graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        for position, tensor in enumerate(node.input):
            if rewired.get((node.name, position)) == tensor:
                copy.input[position] = writer.read_codes(tensor, node.name)
        if node.name in weighted:
            op = weighted_op(index, node)
            assert op is not None
            copy.input[1] = writer.quantise_weight(op)
        writer.nodes.append(copy)
        for tensor in node.output:
            if tensor in placement.tensors:
                writer.quantise_activation(tensor)
    return with_nodes(index.model, writer.nodes, writer.initializers)


def quantise_weight(
    values: NDArray[np.float32], axis: int, *, half_scales: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes and scales of a weight, one scale a slice along `axis`; codes lie in -127..127.

    A slice of zeros gets scale 1. `half_scales` as in `quantise_s8`.
    """
    others = tuple(a for a in range(values.ndim) if a != axis)
    amax = np.abs(values).max(axis=others).astype(np.float64)
    scale = np.where(amax > 0, np.maximum(amax / 127, np.finfo(np.float32).tiny), 1.0).astype(np.float32)
    scale = half_scale(scale) if half_scales else scale
    shape = tuple(-1 if a == axis else 1 for a in range(values.ndim))
    codes = np.clip(np.rint(values / scale.reshape(shape)), -127, 127).astype(np.int8)
    return codes, scale


def half_scale(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The least float16 that is no smaller than a scale, as float32; what lies beyond float16 stays.

    Rounded up, so that the largest value still has a code.
    """
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16)
    half = np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half).astype(np.float32)
    return np.where(np.isfinite(half), half, scale)


class CodeWriter:
    """Collects the nodes and initialisers of a graph with codes."""

    def __init__(
        self, index: GraphIndex, table: CalibrationTable, taken: set[str], *, half_scales: bool = False
    ) -> None:
        self._half_scales = half_scales
        self._index = index
        self._table = table
        self._taken = taken
        self._codes: dict[str, tuple[str, str, str]] = {}
        self._weights: dict[tuple[str, int], tuple[str, str, str]] = {}
        self._zeros: dict[tuple[int, ...], str] = {}
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def has_codes(self, tensor: str) -> bool:
        """Whether `quantise_activation` was called for a tensor."""
        return tensor in self._codes

    def quantise_activation(self, tensor: str) -> None:
        """Round a tensor to the scale that the table gives it."""
        value = np.array(self._table.scale_of(tensor), np.float32)
        scale = self._store(f"{tensor}_scale", half_scale(value) if self._half_scales else value)
        zero = self._zero(())
        codes = fresh_name(self._taken, f"{tensor}_codes")
        self._codes[tensor] = (codes, scale, zero)
        self.nodes.append(
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [codes], name=f"{tensor}_quantize")
        )

    def read_codes(self, tensor: str, reader: str) -> str:
        """The name of the real values of a tensor's codes, for one reader."""
        real = fresh_name(self._taken, f"{tensor}_for_{reader}")
        self.nodes.append(
            helper.make_node("DequantizeLinear", list(self._codes[tensor]), [real], name=f"{real}_dequantize")
        )
        return real

    def quantise_weight(self, op: WeightedOp) -> str:
        """The name of the real values of a node's int8 weights, for this node; weights are stored once."""
        if (op.weight, op.axis) not in self._weights:
            values = self._index.constant(op.weight).astype(np.float32)
            if not np.isfinite(values).all():
                raise CalibrationError("the weights hold NaN or infinity", where=op.weight)
            codes, scale = quantise_weight(values, op.axis, half_scales=self._half_scales)
            self._weights[op.weight, op.axis] = (
                self._store(f"{op.weight}_codes", codes),
                self._store(f"{op.weight}_scale", scale),
                self._zero(scale.shape),
            )
        real = fresh_name(self._taken, f"{op.weight}_for_{op.node.name}")
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear",
                list(self._weights[op.weight, op.axis]),
                [real],
                name=f"{real}_dequantize",
                axis=op.axis,
            )
        )
        return real

    def _zero(self, shape: tuple[int, ...]) -> str:
        """The zero points of scales of this shape, stored once."""
        if shape not in self._zeros:
            wanted = "_".join(("code_zero", *map(str, shape)))
            self._zeros[shape] = self._store(wanted, np.zeros(shape, np.int8))
        return self._zeros[shape]

    def _store(self, wanted: str, values: NDArray[np.generic] | np.generic) -> str:
        name = fresh_name(self._taken, wanted)
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name


def _require_opset(model: onnx.ModelProto) -> None:
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < LEAST_OPSET:
        raise CalibrationError(
            f"the graph has opset {opset}; codes with one scale a channel need {LEAST_OPSET}",
            hint="export the model again with a newer opset",
        )

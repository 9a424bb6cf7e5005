"""How much every weighted node's result suffers from its own rounding, in one pass over a few samples.

Beside each node stands its twin, which reads the same float input through codes and has int8 weights, or both
rounded to float16. The graph itself adds up the squares of the results and of the differences; no tensor
leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgewise.calibration.collect import Feeds, frugal_options
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
from edgewise.calibration.placement import Placement, weighted_nodes
from edgewise.calibration.qdq import CodeWriter
from edgewise.calibration.table import CalibrationTable
from edgewise.runtime.system.errors import CalibrationError


@dataclass(frozen=True)
class Sensitivity:
    """A node and its error: mean squared difference over mean square of its result, 0 where both are 0."""

    node: str
    error: float

    @property
    def decibels(self) -> float:
        """The signal to quantisation noise ratio in dB."""
        return -10 * math.log10(self.error) if self.error > 0 else math.inf


def rank_by_error(
    model: onnx.ModelProto,
    table: CalibrationTable,
    placement: Placement,
    feeds: Feeds,
    *,
    threads: int | None = None,
) -> tuple[Sensitivity, ...]:
    """The placement's weighted nodes by what codes do to them, the worst error first; equal errors keep graph
    order.

    Raises:
        CalibrationError: No sample, or a tensor without a range.
    """
    index = index_graph(with_node_names(model))
    writer = CodeWriter(index, table, tensor_names(index.model))
    return _ranked(index, placement.weighted, writer, feeds, threads)


def rank_by_half(
    model: onnx.ModelProto, nodes: Sequence[str], feeds: Feeds, *, threads: int | None = None
) -> tuple[Sensitivity, ...]:
    """Weighted nodes by what float16 inputs and weights do to them, as `rank_by_error` orders them.

    Sums are float32 here: what a narrower one adds only the evaluation of the whole shows. A node that is no
    product of an activation by constant weights has the error 0.

    Raises:
        CalibrationError: No sample.
    """
    index = index_graph(with_node_names(model))
    known = weighted_nodes(index)
    measured = [name for name in nodes if name in known]
    ranked = _ranked(index, measured, _HalfWriter(index, tensor_names(index.model)), feeds, threads)
    return (*ranked, *(Sensitivity(name, 0.0) for name in nodes if name not in known))


class _Writer(Protocol):
    """Writes what a twin reads in place of its input and its weight."""

    nodes: list[NodeProto]
    initializers: list[TensorProto]

    def has_codes(self, tensor: str) -> bool: ...
    def quantise_activation(self, tensor: str) -> None: ...
    def read_codes(self, tensor: str, reader: str) -> str: ...
    def quantise_weight(self, op: WeightedOp) -> str: ...


class _HalfWriter:
    """Rounds to float16 what `CodeWriter` rounds to codes."""

    def __init__(self, index: GraphIndex, taken: set[str]) -> None:
        self._index = index
        self._taken = taken
        self._rounded: dict[str, str] = {}
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def has_codes(self, tensor: str) -> bool:
        return tensor in self._rounded

    def quantise_activation(self, tensor: str) -> None:
        half, self._rounded[tensor] = (fresh_name(self._taken, f"{tensor}_{end}") for end in ("half", "wide"))
        self.nodes += [
            helper.make_node("Cast", [tensor], [half], name=half, to=TensorProto.FLOAT16),
            helper.make_node(
                "Cast", [half], [self._rounded[tensor]], name=f"{half}_wide", to=TensorProto.FLOAT
            ),
        ]

    def read_codes(self, tensor: str, reader: str) -> str:
        del reader
        return self._rounded[tensor]

    def quantise_weight(self, op: WeightedOp) -> str:
        name = fresh_name(self._taken, f"{op.weight}_half")
        rounded = self._index.constant(op.weight).astype(np.float16).astype(np.float32)
        self.initializers.append(numpy_helper.from_array(rounded, name))
        return name


def _ranked(
    index: GraphIndex, weighted: Sequence[str], writer: _Writer, feeds: Feeds, threads: int | None
) -> tuple[Sensitivity, ...]:
    import onnxruntime as ort

    twins = _with_twins(index, weighted, writer)
    options = frugal_options(threads)
    # The twins are float emulations; fused integer kernels would only add their own rounding.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(twins.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    sums = np.zeros(len(names), np.float64)
    done = 0
    for _, feed in feeds:
        sums += np.array(session.run(names, dict(feed)), np.float64).reshape(-1)
        done += 1
    if done == 0:
        raise CalibrationError("no sample to rank nodes by was given", hint="pass at least one image")
    signal, noise = sums[0::2], sums[1::2]
    errors = np.divide(noise, signal, out=np.where(noise > 0, np.inf, 0.0), where=signal > 0)
    ranked = (Sensitivity(node, float(error)) for node, error in zip(weighted, errors, strict=True))
    return tuple(sorted(ranked, key=lambda found: -found.error))


def _with_twins(index: GraphIndex, weighted: Sequence[str], writer: _Writer) -> onnx.ModelProto:
    chosen = frozenset(weighted)
    outputs: list[str] = []
    for node in index.model.graph.node:
        writer.nodes.append(node)
        op = weighted_op(index, node) if node.name in chosen else None
        if op is None:
            continue
        if not writer.has_codes(op.activation):
            writer.quantise_activation(op.activation)
        twin = NodeProto()
        twin.CopyFrom(node)
        twin.name = f"{node.name}__twin"
        twin.input[0] = writer.read_codes(op.activation, twin.name)
        twin.input[1] = writer.quantise_weight(op)
        twin.output[0] = f"{twin.name}_result"
        writer.nodes.append(twin)
        names = (f"{node.name}__signal", f"{node.name}__noise")
        difference = f"{twin.name}_difference"
        writer.nodes.append(helper.make_node("Sub", [node.output[0], twin.output[0]], [difference]))
        for tensor, name in zip((node.output[0], difference), names, strict=True):
            writer.nodes.append(helper.make_node("ReduceSumSquare", [tensor], [name], keepdims=0))
        outputs.extend(names)
    result = with_nodes(index.model, writer.nodes, writer.initializers)
    del result.graph.output[:]
    result.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in outputs)
    return result

"""How much every weighted node's result suffers from its own rounding, in one pass over a few samples.

Beside each node stands its twin, which reads the same float input through codes and has int8 weights. The
graph itself adds up the squares of the results and of the differences; no tensor leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from edgewise.calibration.collect import Feeds
from edgewise.calibration.graph import index_graph, tensor_names, weighted_op, with_node_names, with_nodes
from edgewise.calibration.placement import Placement
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
    """The placement's weighted nodes, the worst error first; equal errors keep graph order.

    Raises:
        CalibrationError: No sample, or a tensor without a range.
    """
    import onnxruntime as ort

    twins = _with_twins(model, table, placement.weighted)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # The twins are float emulations; fused integer kernels would only add their own rounding.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
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
    ranked = (Sensitivity(node, float(error)) for node, error in zip(placement.weighted, errors, strict=True))
    return tuple(sorted(ranked, key=lambda found: -found.error))


def _with_twins(model: onnx.ModelProto, table: CalibrationTable, weighted: Sequence[str]) -> onnx.ModelProto:
    index = index_graph(with_node_names(model))
    taken = tensor_names(index.model)
    writer = CodeWriter(index, table, taken)
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

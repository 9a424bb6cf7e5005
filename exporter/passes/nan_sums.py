"""Sums of large float outputs, so that a device looks for NaN where the numbers are made.

A sum is NaN where an element is. The file gives one float32 tensor [looks, outputs] of such sums beside the
outputs, and the runtime searches only what a sum calls unsure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgewise.calibration.graph import weights_as_inputs
from edgewise.exporter.graph.node_writer import NodeWriter
from edgewise.runtime.contract.manifest import DType, Graph, NanSums

if TYPE_CHECKING:
    import onnx

LARGE = 4096
"""Values of an output that are worth a sum; fewer are searched at once."""


def with_nan_sums(graph: Graph) -> Graph:
    """The graph of a draft with the sums that its lowered files will give, where it has large outputs."""
    large = tuple(
        spec.name
        for spec in graph.outputs
        if spec.dtype is DType.FLOAT32 and math.prod(spec.shape) >= LARGE and len(spec.shape) > 1
    )
    taken = {spec.name for spec in (*graph.inputs, *graph.outputs, *graph.probes)}
    name = next(name for name in ("nan_sums", *(f"nan_sums_{n}" for n in range(2, 99))) if name not in taken)
    return msgspec.structs.replace(graph, nan_sums=NanSums(name=name, of=large) if large else None)


def sum_outputs(model: onnx.ModelProto, sums: NanSums) -> onnx.ModelProto:
    """A copy of a lowered graph that gives the sums too, of fixed or of free batch; opset 13 or later."""
    import onnx

    draft = type(model)()
    draft.CopyFrom(model)
    infos = {value.name: value for value in draft.graph.output}
    writer = NodeWriter(draft)
    columns = []
    for name in sums.of:
        rank = len(infos[name].type.tensor_type.shape.dim)
        axes = writer.constant("nan_sums_axes", np.arange(1, rank, dtype=np.int64))
        total = writer.node("ReduceSum", [name, axes], f"{sums.name}/{name}", keepdims=1)
        columns.append(writer.node("Flatten", [total], f"{sums.name}/{name}_column", axis=1))
    writer.node("Concat", columns, f"{sums.name}/all", output=sums.name, axis=1)
    summed = writer.finish(draft, [*draft.graph.node, *writer.take()])
    looks = onnx.TensorShapeProto.Dimension()
    looks.CopyFrom(infos[sums.of[0]].type.tensor_type.shape.dim[0])
    value = onnx.helper.make_tensor_value_info(sums.name, onnx.TensorProto.FLOAT, [None, len(sums.of)])
    value.type.tensor_type.shape.dim[0].CopyFrom(looks)
    summed.graph.output.append(value)
    onnx.checker.check_model(weights_as_inputs(summed), full_check=True)
    return summed

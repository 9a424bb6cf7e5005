"""Bring a graph from opset 13 to 18 up to 19, the first whose codes have scales in float16.

Only two things changed on the way that a graph of opset 13 and later states otherwise: the axes of a
reduction became an input, and a Split into equal parts must say into how many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgewise.exporter.graph.conditions import no_control_flow, only_standard_operators, opset_of
from edgewise.exporter.graph.edit import attribute, drop_attribute, unique_name
from edgewise.exporter.graph.passes import Pass
from edgewise.exporter.passes.lower_opset import AXES_BECAME_AN_INPUT

if TYPE_CHECKING:
    import onnx

HALF_SCALES_OPSET = 19
HALF_SCALES_IR_VERSION = 9
"""The file format's version that came with opset 19."""


def raise_opset() -> Pass:
    """The pass; a graph of opset 19 and later stays as it is."""
    return Pass(
        name="opset-19",
        apply=_raise,
        requires=(no_control_flow, only_standard_operators),
        detail="opset 19, for scales in float16",
    )


def _raise(model: onnx.ModelProto) -> onnx.ModelProto:
    before = opset_of(model)
    if before >= HALF_SCALES_OPSET:
        return model
    for node in model.graph.node:
        if before < 18 and node.op_type in AXES_BECAME_AN_INPUT:
            _axes_as_input(node, model)
        elif before < 18 and node.op_type == "Split" and len(node.input) < 2:
            _count_parts(node)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = HALF_SCALES_OPSET
    model.ir_version = max(model.ir_version, HALF_SCALES_IR_VERSION)
    return model


def _axes_as_input(node: onnx.NodeProto, model: onnx.ModelProto) -> None:
    import onnx

    axes = attribute(node, "axes", None)
    if axes is None:
        return
    drop_attribute(node, "axes")
    name = unique_name(model, f"{node.output[0]}_axes")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(axes, np.int64), name))
    node.input.append(name)


def _count_parts(node: onnx.NodeProto) -> None:
    import onnx

    node.attribute.append(onnx.helper.make_attribute("num_outputs", len(node.output)))

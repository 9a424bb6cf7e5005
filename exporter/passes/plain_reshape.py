"""Drop `allowzero` from Reshape nodes whose constant shape has no zero: older parsers do not know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgewise.exporter.graph.conditions import no_control_flow
from edgewise.exporter.graph.edit import attribute, constants, drop_attribute
from edgewise.exporter.graph.passes import Pass

if TYPE_CHECKING:
    import onnx


def plain_reshape() -> Pass:
    """The pass; a Reshape whose shape is computed or holds a zero keeps the attribute."""
    return Pass(
        name="plain-reshape",
        apply=_drop_allowzero,
        requires=(no_control_flow,),
        ensures=(allowzero_only_where_it_matters,),
        detail="allowzero dropped where the shape has no zero",
    )


def allowzero_only_where_it_matters(model: onnx.ModelProto) -> str | None:
    """No Reshape with `allowzero` has a constant shape without a zero."""
    return next((f"Reshape ({node.name})" for node in _needless(model)), None)


def _drop_allowzero(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in _needless(model):
        drop_attribute(node, "allowzero")
    return model


def _needless(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    values = constants(model)
    return [
        node
        for node in model.graph.node
        if node.op_type == "Reshape"
        and attribute(node, "allowzero", None) is not None
        and (not attribute(node, "allowzero", 0) or (node.input[1] in values and values[node.input[1]].all()))
    ]

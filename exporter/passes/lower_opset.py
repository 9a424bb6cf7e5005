"""Bring a graph from opset 18 or 19 to 17, the newest that TensorRT 8.6 parses, where nothing is lost.

Between the two sets most operators kept their definition. For those that did not, the new form has an exact
old one if the new feature is not used: reduction axes and pad axes become attributes or full pads, equal
splits get their sizes, antialiasing must be off, scales of codes must be float32. Anything else stops the
lowering: the graph then keeps its operator set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgewise.calibration.graph import without_weights
from edgewise.exporter.graph.conditions import (
    no_control_flow,
    only_standard_operators,
    opset_at_most,
    opset_of,
)
from edgewise.exporter.graph.edit import (
    attribute,
    constant,
    drop_attribute,
    drop_unused_initialisers,
    shapes,
    unique_name,
)
from edgewise.exporter.graph.passes import Pass

if TYPE_CHECKING:
    import onnx

OLD_OPSET = 17
OLD_IR_VERSION = 8
"""The file format's version that came with opset 17."""


AXES_BECAME_AN_INPUT = tuple(
    f"Reduce{kind}" for kind in ("Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
)
"""Reductions that name their axes in an attribute up to opset 17, and in an input from 18 on."""


class NotLossless(Exception):
    """A node uses a feature that opset 17 does not have; `args[0]` says which."""


def lower_opset() -> Pass:
    """The pass; leaves the model as it is where `obstacle` names one."""
    return Pass(
        name="opset-17",
        apply=_lower,
        requires=(no_control_flow, only_standard_operators),
        ensures=(opset_at_most(OLD_OPSET),),
        detail="opset 17, attribute forms only",
    )


def obstacle(model: onnx.ModelProto) -> str | None:
    """Why the model cannot be written in opset 17 without loss; None where it can."""
    draft = without_weights(model)
    try:
        _lower(draft)
    except NotLossless as reason:
        return str(reason)
    return None


def _lower(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    version = opset_of(model)
    if version > OLD_OPSET:
        known = shapes(model)
        for node in model.graph.node:
            new, old = onnx.defs.get_schema(node.op_type, version), _old_schema(node)
            if new.since_version == old.since_version:
                continue
            rewrite = _REWRITES.get(node.op_type)
            if rewrite is None:
                raise NotLossless(f"{node.op_type} ({node.name}) changed in opset {new.since_version}")
            rewrite(node, model, known)
        for entry in model.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = OLD_OPSET
        drop_unused_initialisers(model)
    model.ir_version = min(model.ir_version, OLD_IR_VERSION)
    return model


def _old_schema(node: onnx.NodeProto) -> onnx.defs.OpSchema:
    import onnx

    try:
        return onnx.defs.get_schema(node.op_type, OLD_OPSET)
    except onnx.defs.SchemaError:
        raise NotLossless(f"{node.op_type} ({node.name}) does not exist in opset {OLD_OPSET}") from None


Rewrite = Callable[["onnx.NodeProto", "onnx.ModelProto", "dict[str, tuple[int, ...]]"], None]


def _same(node: onnx.NodeProto, model: onnx.ModelProto, known: dict[str, tuple[int, ...]]) -> None:
    """Only types were added, that the graph's other nodes and targets do not have."""


def _saturate(node: onnx.NodeProto, model: onnx.ModelProto, known: dict[str, tuple[int, ...]]) -> None:
    # It concerns eight-bit floats alone, which no operator of set 17 makes.
    drop_attribute(node, "saturate")


def _codes(node: onnx.NodeProto, model: onnx.ModelProto, known: dict[str, tuple[int, ...]]) -> None:
    import onnx

    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    if kinds.get(node.input[1]) != onnx.TensorProto.FLOAT:
        raise NotLossless(f"{node.op_type} ({node.name}) has no constant float32 scale")
    drop_attribute(node, "saturate")


def _average(node: onnx.NodeProto, model: onnx.ModelProto, known: dict[str, tuple[int, ...]]) -> None:
    if any(step != 1 for step in attribute(node, "dilations", [])):
        raise NotLossless(f"AveragePool ({node.name}) is dilated")
    if attribute(node, "ceil_mode", 0):
        raise NotLossless(f"AveragePool ({node.name}) rounds its size up")
    drop_attribute(node, "dilations")


def _resize(node: onnx.NodeProto, model: onnx.ModelProto, known: dict[str, tuple[int, ...]]) -> None:
    if attribute(node, "antialias", 0) != 0:
        raise NotLossless(f"Resize ({node.name}) is antialiased")
    if attribute(node, "axes", None) is not None:
        raise NotLossless(f"Resize ({node.name}) names its axes")
    if attribute(node, "keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise NotLossless(f"Resize ({node.name}) keeps the aspect ratio")
    if attribute(node, "coordinate_transformation_mode", b"half_pixel") == b"half_pixel_symmetric":
        raise NotLossless(f"Resize ({node.name}) is half_pixel_symmetric")
    for name in ("antialias", "keep_aspect_ratio_policy"):
        drop_attribute(node, name)


def _reduce(node: onnx.NodeProto, model: onnx.ModelProto, known: dict[str, tuple[int, ...]]) -> None:
    import onnx

    if len(node.input) > 1 and node.input[1]:
        axes = constant(model, node.input[1])
        if axes is None:
            raise NotLossless(f"{node.op_type} ({node.name}) computes its axes")
        if axes.size == 0 and attribute(node, "noop_with_empty_axes", 0):
            raise NotLossless(f"{node.op_type} ({node.name}) reduces nothing")
        if axes.size:
            node.attribute.append(onnx.helper.make_attribute("axes", [int(axis) for axis in axes.ravel()]))
        del node.input[1:]
    elif attribute(node, "noop_with_empty_axes", 0):
        raise NotLossless(f"{node.op_type} ({node.name}) reduces nothing")
    drop_attribute(node, "noop_with_empty_axes")


def _split(node: onnx.NodeProto, model: onnx.ModelProto, known: dict[str, tuple[int, ...]]) -> None:
    import onnx

    if attribute(node, "num_outputs", None) is None:
        return
    axis = attribute(node, "axis", 0)
    sizes = [known[output][axis] for output in node.output if output in known]
    if len(sizes) != len(node.output):
        raise NotLossless(f"Split ({node.name}) has outputs of unknown size")
    drop_attribute(node, "num_outputs")
    name = unique_name(model, f"{node.output[0]}_sizes")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(sizes, np.int64), name))
    del node.input[1:]
    node.input.append(name)


def _pad(node: onnx.NodeProto, model: onnx.ModelProto, known: dict[str, tuple[int, ...]]) -> None:
    import onnx

    if attribute(node, "mode", b"constant") == b"wrap":
        raise NotLossless(f"Pad ({node.name}) wraps around")
    if len(node.input) < 4 or not node.input[3]:
        return
    pads, axes = constant(model, node.input[1]), constant(model, node.input[3])
    shape = known.get(node.input[0])
    if pads is None or axes is None or shape is None:
        raise NotLossless(f"Pad ({node.name}) computes its axes")
    full = np.zeros((2, len(shape)), np.int64)
    full[:, [int(axis) for axis in axes]] = pads.reshape(2, -1)
    name = unique_name(model, f"{node.output[0]}_pads")
    model.graph.initializer.append(onnx.numpy_helper.from_array(full.ravel(), name))
    node.input[1] = name
    del node.input[3:]
    if len(node.input) == 3 and not node.input[2]:
        del node.input[2:]


def _scatter(node: onnx.NodeProto, model: onnx.ModelProto, known: dict[str, tuple[int, ...]]) -> None:
    if attribute(node, "reduction", b"none") in (b"min", b"max"):
        raise NotLossless(f"{node.op_type} ({node.name}) reduces by {attribute(node, 'reduction', b'')!r}")


_REWRITES: dict[str, Rewrite] = {
    **dict.fromkeys(("Constant", "Equal", "Identity", "Reshape", "Shape", "Size"), _same),
    "Cast": _saturate,
    "QuantizeLinear": _codes,
    "DequantizeLinear": _codes,
    "AveragePool": _average,
    "Resize": _resize,
    "Split": _split,
    "Pad": _pad,
    "ScatterND": _scatter,
    "ScatterElements": _scatter,
    **dict.fromkeys(AXES_BECAME_AN_INPUT, _reduce),
}

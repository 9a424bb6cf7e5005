"""DeformConv as one GridSample and a 1x1 Conv, for targets that run it with a plugin only.

A deformable convolution (Dai et al., 2017; with a mask Zhu et al., 2019; ONNX DeformConv) reads its input at
K = kh * kw moved positions a result and multiplies what it read by its weights. Here the K readings become
one GridSample whose rows are K maps one below another, [N, C, K * H, W]; in memory that is [N, C * K, H, W],
the input of a 1x1 Conv with the same weights. Positions are computed in float32: base rows [K, 1, H, 1] and
base columns [K, 1, 1, W] are added by broadcasting, so no full grid is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgewise.exporter.passes.conditions import has_no, no_control_flow
from edgewise.exporter.passes.graph_edit import attribute, constants, element_types, shapes
from edgewise.exporter.passes.infrastructure import Pass
from edgewise.exporter.passes.node_writer import NodeWriter
from edgewise.exporter.passes.regions import Region
from edgewise.runtime.errors import ExportError

if TYPE_CHECKING:
    import onnx

LOWERING_TOLERANCE = 1e-4
"""Largest relative error of a lowered node: positions are rounded once more on their way into the grid."""


def lower_deform_conv() -> Pass:
    """The pass; the 1x1 Conv keeps the node's type, float32."""
    return Pass(
        name="lower-deform-conv",
        apply=_lower,
        requires=(no_control_flow,),
        ensures=(has_no("DeformConv"),),
        tolerance=LOWERING_TOLERANCE,
        regions=_regions,
        detail="DeformConv as GridSample and a 1x1 Conv, in float32",
    )


def _regions(model: onnx.ModelProto) -> list[Region]:
    fixed = set(constants(model))
    return [
        Region(tuple(name for name in node.input if name and name not in fixed), (node.output[0],))
        for node in model.graph.node
        if node.op_type == "DeformConv"
    ]


def _lower(model: onnx.ModelProto) -> onnx.ModelProto:
    found = [node for node in model.graph.node if node.op_type == "DeformConv"]
    if not found:
        return model
    known, fixed, types = shapes(model), constants(model), element_types(model)
    writer = NodeWriter(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "DeformConv":
            nodes.append(node)
            continue
        _refuse_unusual(node, known, fixed, types)
        _write(node, writer, known, fixed)
        nodes += writer.take()
    return writer.finish(model, nodes)


def _refuse_unusual(
    node: onnx.NodeProto,
    known: Mapping[str, tuple[int, ...]],
    fixed: Mapping[str, np.ndarray],
    types: Mapping[str, int],
) -> None:
    import onnx

    problem = None
    if any(name not in known for name in (node.input[0], node.input[2], node.output[0])):
        problem = "its shapes are not fixed"
    elif len(known[node.input[0]]) != 4:
        problem = f"its input has {len(known[node.input[0]])} dimensions, not 4"
    elif types.get(node.input[0]) != onnx.TensorProto.FLOAT:
        problem = "it is not float32: positions would lose their resolution"
    elif attribute(node, "offset_group", 1) != 1:
        problem = f"it has {attribute(node, 'offset_group', 1)} offset groups, one is supported"
    elif node.input[1] not in fixed:
        problem = "its weights are computed"
    if problem is not None:
        raise ExportError(
            f"DeformConv cannot be written as GridSample: {problem}",
            where=node.name,
            hint="use one offset group, fixed shapes and constant weights in the deploy module",
        )


def _write(
    node: onnx.NodeProto,
    writer: NodeWriter,
    known: Mapping[str, tuple[int, ...]],
    fixed: Mapping[str, np.ndarray],
) -> None:
    features, weight_name, offset, bias, mask = (*node.input, "", "")[:5]
    batch, channels, height, width = known[features]
    weight = fixed[weight_name]
    taps = math.prod(weight.shape[2:])
    rows, columns = known[node.output[0]][2:]
    scope = node.name or node.output[0]

    def named(part: str) -> str:
        return f"{scope}/{part}"

    moves = writer.node(
        "Reshape",
        [offset, writer.integers("deform_moves_shape", (batch, taps, 2, rows, columns))],
        named("moves"),
    )
    down, right = writer.split(moves, (1, 1), named("moves_of_axis"), axis=2)
    base_rows, base_columns = _base(node, weight.shape[2:], (height, width), (rows, columns))
    axes = []
    for part, moved, base, size in (("x", right, base_columns, width), ("y", down, base_rows, height)):
        step = writer.constant("deform_step", np.float32(2.0 / size))
        scaled = writer.node("Mul", [moved, step], named(f"{part}_moved"))
        placed = writer.node("Add", [scaled, writer.constant(f"deform_base_{part}", base)], named(part))
        shape = writer.integers("deform_axis_shape", (batch, taps * rows, columns, 1))
        axes.append(writer.node("Reshape", [placed, shape], named(f"{part}_stacked")))
    grid = writer.node("Concat", axes, named("grid"), axis=3)
    # Opset 19's name of the mode; 20 calls it linear.
    read = writer.node(
        "GridSample",
        [features, grid],
        named("samples"),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=0,
    )
    if mask:
        shape = writer.integers("deform_mask_shape", (batch, 1, taps * rows, columns))
        read = writer.node(
            "Mul", [read, writer.node("Reshape", [mask, shape], named("mask"))], named("masked")
        )
    stacked = writer.node(
        "Reshape",
        [read, writer.integers("deform_stacked_shape", (batch, channels * taps, rows, columns))],
        named("stacked"),
    )
    flat = weight.reshape(weight.shape[0], -1, 1, 1)
    inputs = [stacked, writer.constant(f"{weight_name}_flat", flat), *([bias] if bias else [])]
    writer.node(
        "Conv",
        inputs,
        named("Conv"),
        output=node.output[0],
        kernel_shape=[1, 1],
        group=attribute(node, "group", 1),
    )


def _base(
    node: onnx.NodeProto, kernel: tuple[int, ...], size: tuple[int, int], result: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Where each tap reads when nothing moves, in GridSample's coordinates (align_corners 0).

    Returns:
        rows float32 [K, 1, H', 1] and columns float32 [K, 1, 1, W'].
    """
    strides, pads = attribute(node, "strides", [1, 1]), attribute(node, "pads", [0, 0, 0, 0])
    dilations = attribute(node, "dilations", [1, 1])
    taps = np.stack(np.mgrid[: kernel[0], : kernel[1]], axis=-1).reshape(-1, 2)

    def along(axis: int) -> np.ndarray:
        pixels = taps[:, axis, None] * dilations[axis] + np.arange(result[axis]) * strides[axis] - pads[axis]
        return ((2.0 * pixels + 1.0) / size[axis] - 1.0).astype(np.float32)

    return along(0)[:, None, :, None], along(1)[:, None, None, :]

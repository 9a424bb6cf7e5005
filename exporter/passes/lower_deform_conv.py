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
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgewise.exporter.graph.conditions import has_no, no_control_flow
from edgewise.exporter.graph.edit import attribute, constants, element_types, producers, shapes
from edgewise.exporter.graph.node_writer import NodeWriter
from edgewise.exporter.graph.passes import Pass
from edgewise.exporter.graph.regions import Region
from edgewise.exporter.passes.demote_probes import drop_dead_nodes
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx

LOWERING_TOLERANCE = 1e-4
"""Largest relative error of a lowered node: positions are rounded once more on their way into the grid."""

HALF_TOLERANCE = 2e-3
"""The same where the product runs in float16: what was sampled is rounded to 11 bits."""


def lower_deform_conv() -> Pass:
    """The pass; the 1x1 Conv takes the node's name.

    Sampling is always float32: TensorRT takes values and positions in one type only, and positions in float16
    would be off by up to 1/8192 of the map's width, which is 1/32 of a cell on 256 columns. The product runs
    in float16 where the weights are a Cast of float16 constants, which is how `fp16.narrow_nodes` marks a
    DeformConv.
    """
    return Pass(
        name="lower-deform-conv",
        apply=_lower,
        requires=(no_control_flow,),
        ensures=(has_no("DeformConv"),),
        regions=_regions,
        detail="DeformConv as GridSample in float32 and a 1x1 Conv",
    )


@dataclass(frozen=True)
class _Facts:
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, np.ndarray]
    types: Mapping[str, int]
    makers: Mapping[str, onnx.NodeProto]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Facts:
        return cls(shapes(model), constants(model), element_types(model), producers(model.graph.node))

    def stored(self, name: str) -> np.ndarray | None:
        """The constant behind a tensor, or behind the Cast that makes it; None where it is computed."""
        maker = self.makers.get(name)
        source = maker.input[0] if maker is not None and maker.op_type == "Cast" else name
        return self.constants.get(source)


def _regions(model: onnx.ModelProto) -> list[Region]:
    facts = _Facts.of(model)
    regions = []
    for node in model.graph.node:
        if node.op_type == "DeformConv":
            read = (node.input[0], *node.input[2:3], *node.input[4:5])
            names = tuple(dict.fromkeys(name for name in read if name and name not in facts.constants))
            weight = facts.stored(node.input[1])
            half = weight is not None and weight.dtype == np.float16
            tolerance = HALF_TOLERANCE if half else LOWERING_TOLERANCE
            regions.append(Region(names, (node.output[0],), tolerance))
    return regions


def _lower(model: onnx.ModelProto) -> onnx.ModelProto:
    if not any(node.op_type == "DeformConv" for node in model.graph.node):
        return model
    facts, writer = _Facts.of(model), NodeWriter(model, ("DeformConv",))
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "DeformConv":
            nodes.append(node)
            continue
        _refuse_unusual(node, facts)
        _write(node, writer, facts)
        nodes += writer.take()
    return drop_dead_nodes(writer.finish(model, nodes))


def _refuse_unusual(node: onnx.NodeProto, facts: _Facts) -> None:
    import onnx

    problem = None
    if any(name not in facts.shapes for name in (node.input[0], node.input[2], node.output[0])):
        problem = "its shapes are not fixed"
    elif len(facts.shapes[node.input[0]]) != 4:
        problem = f"its input has {len(facts.shapes[node.input[0]])} dimensions, not 4"
    elif facts.types.get(node.input[0]) != onnx.TensorProto.FLOAT:
        problem = "it is not float32: positions would lose their resolution"
    elif attribute(node, "offset_group", 1) != 1:
        problem = f"it has {attribute(node, 'offset_group', 1)} offset groups, one is supported"
    elif facts.stored(node.input[1]) is None:
        problem = "its weights are computed"
    if problem is not None:
        raise ExportError(
            f"DeformConv cannot be written as GridSample: {problem}",
            where=node.name,
            hint="use one offset group, fixed shapes and constant weights in the deploy module",
        )


def _write(node: onnx.NodeProto, writer: NodeWriter, facts: _Facts) -> None:
    features, weight_name, _, bias, mask = (*node.input, "", "")[:5]
    batch, channels, _, _ = facts.shapes[features]
    weight = facts.stored(weight_name)
    assert weight is not None
    taps = math.prod(weight.shape[2:])
    rows, columns = facts.shapes[node.output[0]][2:]
    scope = node.name or node.output[0]
    grid = _grid(node, writer, facts, scope, weight.shape[2:])
    # Opset 19's name of the mode; 20 calls it linear.
    value = writer.node(
        "GridSample",
        [features, grid],
        f"{scope}/samples",
        mode="bilinear",
        padding_mode="zeros",
        align_corners=0,
    )
    if mask:
        shape = writer.integers("deform_mask_shape", (batch, 1, taps * rows, columns))
        factor = writer.node("Reshape", [mask, shape], f"{scope}/mask")
        value = writer.node("Mul", [value, factor], f"{scope}/masked")
    stacked = writer.integers("deform_stacked_shape", (batch, channels * taps, rows, columns))
    value = writer.node("Reshape", [value, stacked], f"{scope}/stacked")
    flat = writer.constant(f"{weight_name}_flat", weight.reshape(weight.shape[0], -1, 1, 1))
    added = facts.stored(bias) if bias else None
    offsets = [] if not bias else [bias if added is None else writer.constant(f"{bias}_stored", added)]
    product = {"kernel_shape": [1, 1], "group": attribute(node, "group", 1)}
    if weight.dtype != np.float16:
        writer.node("Conv", [value, flat, *offsets], scope, output=node.output[0], **product)
        return
    value = writer.node("Cast", [value], f"{scope}/half", to=_FLOAT16)
    value = writer.node("Conv", [value, flat, *offsets], scope, **product)
    writer.node("Cast", [value], f"{scope}/single", output=node.output[0], to=_FLOAT)


_FLOAT, _FLOAT16 = 1, 10
"""onnx.TensorProto element types."""


def _grid(
    node: onnx.NodeProto, writer: NodeWriter, facts: _Facts, scope: str, kernel: tuple[int, ...]
) -> str:
    """Sampling positions float32 [N, K * H', W', 2] in GridSample's coordinates."""
    batch, _, height, width = facts.shapes[node.input[0]]
    rows, columns = facts.shapes[node.output[0]][2:]
    taps = math.prod(kernel)
    per_tap = writer.integers("deform_moves_shape", (batch, taps, 2, rows, columns))
    moves = writer.node("Reshape", [node.input[2], per_tap], f"{scope}/moves")
    down, right = writer.split(moves, (1, 1), f"{scope}/moves_of_axis", axis=2)
    base_rows, base_columns = _base(node, kernel, (height, width), (rows, columns))
    axes = []
    for part, moved, base, size in (("x", right, base_columns, width), ("y", down, base_rows, height)):
        step = writer.constant("deform_step", np.float32(2.0 / size))
        scaled = writer.node("Mul", [moved, step], f"{scope}/{part}_moved")
        placed = writer.node("Add", [scaled, writer.constant(f"deform_base_{part}", base)], f"{scope}/{part}")
        shape = writer.integers("deform_axis_shape", (batch, taps * rows, columns, 1))
        axes.append(writer.node("Reshape", [placed, shape], f"{scope}/{part}_stacked"))
    return writer.node("Concat", axes, f"{scope}/grid", axis=3)


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

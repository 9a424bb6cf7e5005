"""RoiAlign as GridSample and AveragePool, for targets that run it with a plugin only.

Over a feature pyramid every level aligns all boxes and a chain of Where picks each box's level. Such a chain
becomes one pass over a *feature atlas*: the levels lie in one plane, the largest at the left, the others
stacked at its right; the same chain of Where picks each box's row of a small table (scale, place and size of
its level) instead of its features. A RoiAlign that stands alone is the same with one level.

ONNX RoiAlign reads `sampling_ratio` points a bin and axis, bilinear; a point more than one pixel outside the
level counts as 0, others are moved to the level's border. Points are moved before they get their place in
the atlas, so a neighbouring level is never read with a weight beyond rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgewise.exporter.graph.conditions import has_no, no_control_flow
from edgewise.exporter.graph.edit import attribute, constants, consumers, element_types, producers, shapes
from edgewise.exporter.graph.node_writer import NodeWriter
from edgewise.exporter.graph.passes import Pass
from edgewise.exporter.graph.regions import Region
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx

LOWERING_TOLERANCE = 1e-4
"""Largest relative error of a lowered group: positions are rounded once more on their way into the grid."""


def lower_roi_align() -> Pass:
    """The pass; everything that it writes is float32."""
    return Pass(
        name="lower-roi-align",
        apply=_lower,
        requires=(no_control_flow,),
        ensures=(has_no("RoiAlign"),),
        regions=_regions,
        detail="RoiAlign over a feature atlas: GridSample and AveragePool, in float32",
    )


@dataclass(frozen=True)
class Facts:
    """What the pass looks up in a model."""

    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, np.ndarray]
    types: Mapping[str, int]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Facts:
        return cls(shapes(model), constants(model), element_types(model))


@dataclass(frozen=True)
class Group:
    """RoiAlign nodes over the same boxes, and the Where nodes that pick one of them for each box.

    Attributes:
        aligns: One a level, in graph order.
        choices: In graph order; empty where a RoiAlign stands alone.
    """

    aligns: tuple[onnx.NodeProto, ...]
    choices: tuple[onnx.NodeProto, ...]

    @property
    def output(self) -> str:
        last = self.choices[-1] if self.choices else self.aligns[0]
        return last.output[0]

    @property
    def rois(self) -> str:
        return self.aligns[0].input[1]


def find_groups(model: onnx.ModelProto, facts: Facts) -> list[Group]:
    """Every RoiAlign of the graph, each in one group."""
    nodes = list(model.graph.node)
    makers, readers = producers(nodes), consumers(nodes)
    outputs = {value.name for value in model.graph.output}
    position = {id(node): number for number, node in enumerate(nodes)}
    grouped: set[int] = set()
    groups: list[Group] = []
    for node in reversed(nodes):
        if node.op_type != "Where" or id(node) in grouped:
            continue
        members = _chain(node, makers, readers, outputs, facts)
        if members is None:
            continue
        members.sort(key=lambda member: position[id(member)])
        aligns = tuple(member for member in members if member.op_type == "RoiAlign")
        if len({_form(align, facts) for align in aligns}) == 1:
            grouped.update(id(member) for member in members)
            groups.append(Group(aligns, tuple(member for member in members if member.op_type == "Where")))
    groups += [Group((node,), ()) for node in nodes if node.op_type == "RoiAlign" and id(node) not in grouped]
    return groups


def _chain(
    top: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, list[onnx.NodeProto]],
    outputs: set[str],
    facts: Facts,
) -> list[onnx.NodeProto] | None:
    """The Where nodes from `top` down and the RoiAlign nodes at their ends; None where anything else is."""
    boxes = facts.shapes.get(top.output[0], ())[:1]
    if not boxes or facts.shapes.get(top.input[0]) != (*boxes, 1, 1, 1):
        return None
    members = [top]
    for name in top.input[1:]:
        maker = makers.get(name)
        if maker is None or len(readers[name]) != 1 or name in outputs:
            return None
        if maker.op_type == "RoiAlign":
            members.append(maker)
            continue
        inner = _chain(maker, makers, readers, outputs, facts) if maker.op_type == "Where" else None
        if inner is None:
            return None
        members += inner
    return members


def _form(node: onnx.NodeProto, facts: Facts) -> tuple[object, ...]:
    """What RoiAlign nodes of one group share."""
    return (
        node.input[1],
        facts.shapes.get(node.input[0], ())[:2],
        attribute(node, "output_height", 1),
        attribute(node, "output_width", 1),
        attribute(node, "sampling_ratio", 0),
        attribute(node, "coordinate_transformation_mode", b"half_pixel"),
    )


def _regions(model: onnx.ModelProto) -> list[Region]:
    facts = Facts.of(model)
    regions = []
    for group in find_groups(model, facts):
        read = [*(align.input[0] for align in group.aligns), group.rois]
        read += [choice.input[0] for choice in group.choices]
        names = dict.fromkeys(name for name in read if name not in facts.constants)
        regions.append(Region(tuple(names), (group.output,), LOWERING_TOLERANCE))
    return regions


# ---------------------------------------------------------------- rewriting


def _lower(model: onnx.ModelProto) -> onnx.ModelProto:
    facts = Facts.of(model)
    groups = find_groups(model, facts)
    if not groups:
        return model
    gone = {id(node) for group in groups for node in (*group.aligns, *group.choices)}
    written_at = {id((*group.aligns, *group.choices)[-1]): group for group in groups}
    writer = NodeWriter(model)
    rewriting = _Rewriting(writer, facts)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if id(node) in written_at:
            rewriting.write(written_at[id(node)])
            nodes += writer.take()
        elif id(node) not in gone:
            nodes.append(node)
    return writer.finish(model, nodes)


@dataclass(frozen=True)
class Atlas:
    """Levels in one plane of `size` (height, width); `corners` are (x, y) of each level's first pixel."""

    tensor: str
    size: tuple[int, int]
    corners: tuple[tuple[int, int], ...]


class _Rewriting:
    """Writes groups; groups over the same levels share an atlas."""

    def __init__(self, writer: NodeWriter, facts: Facts) -> None:
        self._writer = writer
        self._facts = facts
        self._atlases: dict[tuple[str, ...], Atlas] = {}

    def write(self, group: Group) -> None:
        for align in group.aligns:
            _refuse_unusual(align, self._facts)
        writer, facts = self._writer, self._facts
        first = group.aligns[0]
        scope = first.name or first.output[0]
        atlas = self._atlas(tuple(align.input[0] for align in group.aligns), scope)
        count, channels = facts.shapes[group.rois][0], facts.shapes[first.input[0]][1]
        bins, sampling = attribute(first, "output_height", 1), attribute(first, "sampling_ratio", 0)
        table = self._table(group, atlas, scope)
        grid, inside = self._points(group, atlas, table, scope)
        read = writer.node(
            "GridSample",
            [atlas.tensor, grid],
            f"{scope}/samples",
            mode="bilinear",
            padding_mode="border",
            align_corners=0,
        )
        value = writer.node("Mul", [read, inside], f"{scope}/samples_inside")
        if sampling > 1:
            value = writer.node(
                "AveragePool",
                [value],
                f"{scope}/bins",
                kernel_shape=[sampling, sampling],
                strides=[sampling, sampling],
            )
        shape = writer.integers("roi_bins_shape", (channels, count, bins, bins))
        value = writer.node("Reshape", [value, shape], f"{scope}/bins_of_boxes")
        writer.node("Transpose", [value], f"{scope}/aligned", output=group.output, perm=[1, 0, 2, 3])

    def _table(self, group: Group, atlas: Atlas, scope: str) -> str:
        """float32 [boxes or 1, 5]: scale, last pixel (x, y) and corner in the atlas (x, y) of its level."""
        writer, facts = self._writer, self._facts
        rows: dict[str, str] = {}
        for align, (left, top) in zip(group.aligns, atlas.corners, strict=True):
            height, width = facts.shapes[align.input[0]][2:]
            scale = attribute(align, "spatial_scale", 1.0)
            row = np.array([[scale, width - 1, height - 1, left, top]], np.float32)
            rows[align.output[0]] = writer.constant("roi_level", row)
        for choice in group.choices:
            shape = writer.integers("roi_choice_shape", (facts.shapes[choice.input[0]][0], 1))
            chosen = writer.node("Reshape", [choice.input[0], shape], f"{scope}/is_level")
            inputs = [chosen, rows[choice.input[1]], rows[choice.input[2]]]
            rows[choice.output[0]] = writer.node("Where", inputs, f"{scope}/level")
        return rows[group.output]

    def _points(self, group: Group, atlas: Atlas, table: str, scope: str) -> tuple[str, str]:
        """The grid float32 [1, boxes * side, side, 2], and float32 [1, 1, boxes * side, side]: 1 inside."""
        writer, facts = self._writer, self._facts
        first = group.aligns[0]
        count = facts.shapes[group.rois][0]
        side = attribute(first, "output_height", 1) * attribute(first, "sampling_ratio", 0)
        half_pixel = attribute(first, "coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
        scale, last, corner = writer.split(table, (1, 2, 2), f"{scope}/level_of_box", axis=1)

        def number(wish: str, value: float) -> str:
            return writer.constant(wish, np.float32(value))

        scaled = writer.node("Mul", [group.rois, scale], f"{scope}/boxes")
        if half_pixel:
            scaled = writer.node("Sub", [scaled, number("roi_half_pixel", 0.5)], f"{scope}/boxes_shifted")
        start, end = writer.split(scaled, (2, 2), f"{scope}/corners", axis=1)
        size = writer.node("Sub", [end, start], f"{scope}/size")
        if not half_pixel:
            size = writer.node("Max", [size, number("roi_least_size", 1.0)], f"{scope}/least_size")
        per_axis = writer.integers("roi_axes_shape", (count, 1, 2))
        level_axes = writer.integers("roi_level_axes_shape", (-1, 1, 2))
        start, size, last, corner = (
            writer.node("Reshape", [value, shape], f"{scope}/{name}_of_axis")
            for name, value, shape in (
                ("start", start, per_axis),
                ("size", size, per_axis),
                ("last", last, level_axes),
                ("corner", corner, level_axes),
            )
        )
        shares = ((np.arange(side) + 0.5) / side).astype(np.float32).reshape(1, side, 1)
        along = writer.node("Mul", [size, writer.constant("roi_shares", shares)], f"{scope}/along")
        points = writer.node("Add", [start, along], f"{scope}/points")
        limit = writer.node("Add", [last, number("roi_one", 1.0)], f"{scope}/limit")
        low = writer.node("GreaterOrEqual", [points, number("roi_lowest", -1.0)], f"{scope}/above")
        high = writer.node("LessOrEqual", [points, limit], f"{scope}/below")
        inside = writer.node("And", [low, high], f"{scope}/inside")
        flags = writer.node("Cast", [inside], f"{scope}/inside_as_number", to=1)
        floor = writer.node("Max", [points, number("roi_zero", 0.0)], f"{scope}/points_from_zero")
        moved = writer.node("Min", [floor, last], f"{scope}/points_in_level")
        placed = writer.node("Add", [moved, corner], f"{scope}/points_in_atlas")
        height, width = atlas.size
        step = writer.constant("atlas_step", np.array([2.0 / width, 2.0 / height], np.float32))
        offset = writer.constant(
            "atlas_offset", np.array([1.0 / width - 1.0, 1.0 / height - 1.0], np.float64).astype(np.float32)
        )
        stepped = writer.node("Mul", [placed, step], f"{scope}/points_stepped")
        grid_points = writer.node("Add", [stepped, offset], f"{scope}/points_in_grid")
        return self._cross(grid_points, count, side, scope), self._both(flags, count, side, scope)

    def _axes(self, value: str, count: int, side: int, wish: str) -> tuple[str, str]:
        """x [boxes, 1, side, 1] and y [boxes, side, 1, 1] of a tensor [boxes, side, 2]."""
        writer = self._writer
        x, y = writer.split(value, (1, 1), wish, axis=2)
        across = writer.integers("roi_x_shape", (count, 1, side, 1))
        down = writer.integers("roi_y_shape", (count, side, 1, 1))
        return (
            writer.node("Reshape", [x, across], f"{wish}_x"),
            writer.node("Reshape", [y, down], f"{wish}_y"),
        )

    def _cross(self, points: str, count: int, side: int, scope: str) -> str:
        writer = self._writer
        full = writer.integers("roi_full_shape", (count, side, side, 1))
        axes = [
            writer.node("Expand", [axis, full], f"{scope}/grid_axis")
            for axis in self._axes(points, count, side, f"{scope}/grid")
        ]
        both = writer.node("Concat", axes, f"{scope}/grid_of_boxes", axis=3)
        shape = writer.integers("roi_grid_shape", (1, count * side, side, 2))
        return writer.node("Reshape", [both, shape], f"{scope}/grid")

    def _both(self, flags: str, count: int, side: int, scope: str) -> str:
        writer = self._writer
        x, y = self._axes(flags, count, side, f"{scope}/inside_axis")
        both = writer.node("Mul", [x, y], f"{scope}/inside_both")
        shape = writer.integers("roi_mask_shape", (1, 1, count * side, side))
        return writer.node("Reshape", [both, shape], f"{scope}/inside_mask")

    def _atlas(self, levels: tuple[str, ...], scope: str) -> Atlas:
        if levels not in self._atlases:
            self._atlases[levels] = self._write_atlas(levels, scope)
        return self._atlases[levels]

    def _write_atlas(self, levels: tuple[str, ...], scope: str) -> Atlas:
        writer = self._writer
        sizes = [self._facts.shapes[level][2:] for level in levels]
        if len(levels) == 1:
            return Atlas(levels[0], (sizes[0][0], sizes[0][1]), ((0, 0),))
        first = max(range(len(levels)), key=lambda number: sizes[number][0] * sizes[number][1])
        others = [number for number in range(len(levels)) if number != first]
        width = max(sizes[number][1] for number in others)
        height = max(sizes[first][0], sum(sizes[number][0] for number in others))
        corners = [(0, 0)] * len(levels)
        row, column = 0, []
        for number in others:
            corners[number] = (sizes[first][1], row)
            row += sizes[number][0]
            column.append(self._padded(levels[number], 0, width - sizes[number][1], f"{scope}/atlas_level"))
        stack = writer.node("Concat", column, f"{scope}/atlas_column", axis=2)
        halves = [
            self._padded(levels[first], height - sizes[first][0], 0, f"{scope}/atlas_first"),
            self._padded(stack, height - row, 0, f"{scope}/atlas_others"),
        ]
        tensor = writer.node("Concat", halves, f"{scope}/atlas", axis=3)
        return Atlas(tensor, (height, sizes[first][1] + width), tuple(corners))

    def _padded(self, value: str, below: int, right: int, wish: str) -> str:
        if not below and not right:
            return value
        pads = self._writer.integers("atlas_pads", (0, 0, 0, 0, 0, 0, below, right))
        return self._writer.node("Pad", [value, pads], wish)


def _refuse_unusual(node: onnx.NodeProto, facts: Facts) -> None:
    import onnx

    batch = facts.constants.get(node.input[2])
    bins = attribute(node, "output_height", 1), attribute(node, "output_width", 1)
    problem = hint = None
    if attribute(node, "mode", b"avg") != b"avg":
        problem, hint = "it takes the maximum of its points", "use mode avg"
    elif attribute(node, "sampling_ratio", 0) < 1:
        problem = "sampling_ratio 0 takes as many points as the box is large, which has no fixed shape"
        hint = "state sampling_ratio, e.g. 2"
    elif any(name not in facts.shapes for name in (node.input[0], node.input[1])):
        problem, hint = "its shapes are not fixed", "export with fixed shapes"
    elif facts.shapes[node.input[0]][0] != 1 or batch is None or batch.any():
        problem = "its boxes are not all of the first of one image"
        hint = "export with batch 1 and constant batch indices 0"
    elif bins[0] != bins[1]:
        problem, hint = f"its result is {bins[0]}x{bins[1]}", "use a square result"
    elif facts.types.get(node.input[0]) != onnx.TensorProto.FLOAT:
        problem, hint = "it is not float32", "leave it float32: positions would lose their resolution"
    if problem is not None:
        raise ExportError(
            f"RoiAlign cannot be written as GridSample: {problem}", where=node.name, hint=hint or ""
        )

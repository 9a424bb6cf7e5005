"""Counting in float16 where it is exact: whole numbers up to 2048 have no rounding there.

Decoding in fixed shapes counts with tensors of 0 and 1: which box suppresses which, which pixel lies under
which mask. They are the largest tensors of such a graph, and float16 halves what they move without changing a
value. What becomes float16 follows from the graph alone: a Cast from bool is 0 or 1, sums and products of
whole numbers are whole, and every tensor has a bound. Comparisons of such numbers with a constant that
float16 holds exactly give the same bools. ONNX Runtime's CPU kernels gain nothing, so this is for compilers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgewise.exporter.graph.conditions import no_control_flow
from edgewise.exporter.graph.edit import attribute, constants, consumers, element_types, shapes
from edgewise.exporter.graph.passes import Pass
from edgewise.exporter.passes.fp16 import CHOOSERS, MOVERS, float32_at_the_border, narrow_nodes

if TYPE_CHECKING:
    import onnx

MOST_EXACT = 2048
"""Whole numbers up to here are exact in float16."""

LARGE = 16384
"""Values of a tensor from which it is worth the Casts around its counting."""


def exact_halves() -> Pass:
    """The pass; it demands equal bits of every output."""
    return Pass(
        name="exact-halves",
        apply=lambda model: narrow_nodes(model, counting_nodes(model)),
        requires=(no_control_flow,),
        ensures=(float32_at_the_border,),
        detail="counting of 0 and 1 in float16, which is exact",
    )


def counting_nodes(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the float32 nodes that count exactly in float16, in groups with a large tensor."""
    facts, nodes = _Facts.of(model), list(model.graph.node)
    narrow = {node.name for node in nodes if _counts_exactly(node, facts)}
    readers = consumers(nodes)
    for node in reversed(nodes):
        read = [reader for name in node.output for reader in readers.get(name, ())]
        # What only moves values for wider nodes stays with them: the Cast belongs before it, not behind.
        if node.op_type in (*MOVERS, *CHOOSERS) and all(reader.name not in narrow for reader in read):
            narrow.discard(node.name)
    return _worthwhile([node for node in nodes if node.name in narrow], facts)


@dataclass(frozen=True)
class _Facts:
    """What is known of a graph; `bounds` says of float32 tensors of whole numbers how large they get."""

    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, int]
    constants: Mapping[str, np.ndarray]
    bounds: dict[str, float]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Facts:
        values = constants(model)
        bounds = {
            name: float(np.abs(value).max(initial=0.0))
            for name, value in values.items()
            if value.dtype == np.float32 and np.isfinite(value).all() and (value == np.rint(value)).all()
        }
        facts = cls(shapes(model), element_types(model), values, bounds)
        for node in model.graph.node:
            bound = _bound(node, facts)
            if bound is not None:
                facts.bounds.update(dict.fromkeys(node.output, bound))
        return facts

    def is_float(self, name: str) -> bool:
        return self.types.get(name) == _FLOAT

    def size(self, name: str) -> int:
        return int(np.prod(self.shapes.get(name, (0,))))

    def exact(self, name: str) -> bool:
        """Whether float16 holds the tensor without rounding."""
        value = self.constants.get(name)
        if value is not None:
            return bool((value.astype(np.float16).astype(np.float32) == value).all())
        return self.bounds.get(name, np.inf) <= MOST_EXACT


_FLOAT, _BOOL = 1, 9
"""onnx.TensorProto element types."""


def _counts_exactly(node: onnx.NodeProto, facts: _Facts) -> bool:
    if node.op_type in _COMPARISONS:
        computed = [name for name in node.input if name not in facts.constants]
        return bool(computed) and all(facts.is_float(name) and facts.exact(name) for name in node.input)
    if node.op_type not in _BOUNDS or not all(facts.is_float(name) for name in node.output):
        return False
    floats = [name for name in node.input if facts.is_float(name)]
    return all(name in facts.bounds and facts.exact(name) for name in (*floats, *node.output))


def _worthwhile(narrow: list[onnx.NodeProto], facts: _Facts) -> frozenset[str]:
    """Of the nodes that count, those in a group joined by float32 tensors with a large one and work."""
    groups: dict[str, int] = {}
    members: list[list[onnx.NodeProto]] = []
    for node in narrow:
        tensors = [
            name
            for name in (*node.input, *node.output)
            if facts.is_float(name) and name not in facts.constants
        ]
        joined = {groups[name] for name in tensors if name in groups}
        own = [node, *(member for number in joined for member in members[number])]
        for number in joined:
            members[number] = []
        members.append(own)
        groups.update(dict.fromkeys(tensors, len(members) - 1))
        for name, number in list(groups.items()):
            if number in joined:
                groups[name] = len(members) - 1
    return frozenset(
        node.name
        for group in members
        for node in group
        if any(member.op_type != "Cast" for member in group)
        and any(facts.is_float(name) and facts.size(name) >= LARGE for each in group for name in each.output)
    )


# ---------------------------------------------------------------- bounds of whole numbers


def _bound(node: onnx.NodeProto, facts: _Facts) -> float | None:
    """The largest |value| of what a node makes of whole numbers; None where that is not known."""
    rule = _BOUNDS.get(node.op_type)
    return None if rule is None else rule(node, facts)


def _of(node: onnx.NodeProto, facts: _Facts) -> list[float] | None:
    """The bounds of its float32 inputs; None where one has none."""
    bounds = [facts.bounds.get(name) for name in node.input if facts.is_float(name)]
    return None if not bounds or None in bounds else [bound for bound in bounds if bound is not None]


def _combined(combine: Callable[[list[float]], float]) -> Callable[[onnx.NodeProto, _Facts], float | None]:
    def rule(node: onnx.NodeProto, facts: _Facts) -> float | None:
        bounds = _of(node, facts)
        return None if bounds is None else combine(bounds)

    return rule


def _from_bool(node: onnx.NodeProto, facts: _Facts) -> float | None:
    return 1.0 if facts.types.get(node.input[0]) == _BOOL and attribute(node, "to", 0) == _FLOAT else None


def _product(node: onnx.NodeProto, facts: _Facts) -> float | None:
    bounds, shape = _of(node, facts), facts.shapes.get(node.input[0])
    return None if bounds is None or not shape else bounds[0] * bounds[1] * shape[-1]


def _total(node: onnx.NodeProto, facts: _Facts) -> float | None:
    bounds = _of(node, facts)
    before, after = facts.size(node.input[0]), facts.size(node.output[0])
    return None if bounds is None or not before or not after else bounds[0] * (before // after)


_COMPARISONS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")

_BOUNDS: dict[str, Callable[[onnx.NodeProto, _Facts], float | None]] = {
    "Cast": _from_bool,
    "MatMul": _product,
    "ReduceSum": _total,
    **dict.fromkeys(("Add", "Sub"), _combined(sum)),
    "Mul": _combined(lambda bounds: float(np.prod(bounds))),
    **dict.fromkeys(
        (
            *("Abs", "Neg", "Relu", "Max", "Min", "ReduceMax", "ReduceMin", "Where"),
            *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"),
            *("Slice", "Split", "Gather", "Expand", "Tile", "Concat"),
        ),
        _combined(max),
    ),
}

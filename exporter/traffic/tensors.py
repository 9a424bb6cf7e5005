"""A graph as a compiler sees it: its operators that compute, and from which tensors they really read.

Constants are folded, rounding to codes moves in front of what only moves values, and a tensor that is another
one's bytes under another name (a Reshape, a slice of whole planes, planes put behind each other) is that
other one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from edgewise.calibration.graph import tensor_infos
from edgewise.exporter.graph.edit import attribute, constants
from edgewise.exporter.traffic.operators import (
    PICKS,
    RETYPES,
    VIEWS,
    Role,
    commutes_with_rounding,
    role_of,
)
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Tensor:
    """An activation: its fixed shape, the bytes of an element, and whether those are codes of reals."""

    shape: tuple[int, ...]
    width: float
    codes: bool = False

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(eq=False)
class Operator:
    """One node that computes; `reads` are (tensor, elements read of it), `weights` constants by bytes."""

    node: onnx.NodeProto
    role: Role
    inputs: list[str]
    outputs: list[str]
    reads: list[tuple[str, int]] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Computed:
    """What is left of a graph.

    Attributes:
        operators: In graph order.
        tensors: Every activation by name.
        outputs: Tensors that the graph gives.
    """

    operators: tuple[Operator, ...]
    tensors: Mapping[str, Tensor]
    outputs: frozenset[str]


def computed(model: onnx.ModelProto) -> Computed:
    """What of a graph of fixed shapes is left to compute and to move.

    Raises:
        ExportError: A tensor's type or rank is unknown.
    """
    graph = _Graph(model)
    graph.fold()
    graph.round_early()
    return graph.resolve()


class _Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.values: dict[str, np.ndarray] = constants(model)
        self.tensors = {name: _tensor(info) for name, info in tensor_infos(model).items()}
        self.outputs = {value.name for value in model.graph.output}
        self.weights: dict[str, float] = {name: float(value.nbytes) for name, value in self.values.items()}
        self.operators = [
            Operator(node, role_of(node.op_type), [n for n in node.input if n], [n for n in node.output if n])
            for node in model.graph.node
        ]
        for node in model.graph.node:
            for name in node.output:
                known = name in self.values or (name in self.tensors and self.tensors[name].elements > 0)
                if name and not known:
                    raise ExportError(
                        "the traffic of a tensor of unknown type or shape cannot be counted",
                        where=f"{name} of {node.name or node.op_type}",
                        hint="export it with fixed shapes",
                    )

    def fold(self) -> None:
        """Take out what needs no activation; its result weighs no more than the constants behind it."""
        kept: list[Operator] = []
        for each in self.operators:
            fixed = each.node.op_type in ("Shape", "Size") or all(n in self.weights for n in each.inputs)
            if not fixed:
                kept.append(each)
                continue
            behind = sum(self.weights.get(name, 0.0) for name in each.inputs)
            for name in each.outputs:
                self.weights.setdefault(name, min(behind, self._bytes(name)))
        self.operators = kept

    def round_early(self) -> None:
        """Move every QuantizeLinear in front of nodes that commute with it and that it alone reads."""
        pending = [each for each in self.operators if each.node.op_type == "QuantizeLinear"]
        while pending:
            rounding = pending.pop()
            readers = _readers(self.operators)
            source = rounding.inputs[0]
            mover = next((each for each in self.operators if source in each.outputs), None)
            if mover is not None and self._undoes(mover, rounding):
                self.operators.remove(rounding)
                for each in self.operators:
                    each.inputs = [mover.inputs[0] if n == rounding.outputs[0] else n for n in each.inputs]
                continue
            if mover is None or not commutes_with_rounding(mover.node) or len(mover.outputs) > 1:
                continue
            moved = [name for name in mover.inputs if name not in self.weights]
            if any(len(readers[n]) > 1 or n in self.outputs for n in (source, *moved)):
                continue
            place = self.operators.index(mover)
            before: list[Operator] = []
            for name in dict.fromkeys(moved):
                codes = f"{name}/codes before {mover.node.name}"
                self.tensors[codes] = replace(
                    self.tensors[rounding.outputs[0]], shape=self.tensors[name].shape
                )
                inputs = [name, *rounding.inputs[1:]]
                before.append(Operator(rounding.node, Role.ELEMENTWISE, inputs, [codes]))
                mover.inputs = [codes if read == name else read for read in mover.inputs]
            mover.outputs = list(rounding.outputs)
            self.operators.remove(rounding)
            self.operators[place:place] = before
            pending += before

    def _undoes(self, widening: Operator, rounding: Operator) -> bool:
        """Whether a QuantizeLinear gives back the codes that a DequantizeLinear of its scale read."""
        if widening.node.op_type != "DequantizeLinear" or rounding.outputs[0] in self.outputs:
            return False
        read, written = (self.values.get(each.inputs[1]) for each in (widening, rounding))
        return read is not None and written is not None and np.array_equal(read, written)

    def resolve(self) -> Computed:
        """Find where every operator really reads."""
        readers = _readers(self.operators)
        sources: dict[str, list[tuple[str, int]]] = {}
        kept: list[Operator] = []
        makers = {name: each for each in self.operators for name in each.outputs}

        def reads(name: str) -> list[tuple[str, int]]:
            return sources.get(name, [(name, self.tensors[name].elements)])

        for each in self.operators:
            data = [name for name in each.inputs if name not in self.weights]
            behind = [read for name in data for read in reads(name)]
            if self._is_joined(each, behind, makers):
                sources[each.outputs[0]] = behind
            elif self._is_view(each) or self._is_retyped(each, readers):
                for name in each.outputs:
                    size = self.tensors[name].elements
                    sources[name] = [(root, min(elements, size)) for root, elements in reads(data[0])]
            else:
                if each.node.op_type in PICKS:
                    size = sum(self.tensors[name].elements for name in each.outputs)
                    first = [(root, min(elements, size)) for root, elements in reads(data[0])]
                    behind = first + [read for name in data[1:] for read in reads(name)]
                each.reads = behind
                each.weights = {name: self.weights[name] for name in each.inputs if name in self.weights}
                kept.append(each)
        given = frozenset(root for name in self.outputs if name in self.tensors for root, _ in reads(name))
        return Computed(tuple(kept), self.tensors, given)

    def _is_joined(
        self, each: Operator, behind: list[tuple[str, int]], makers: Mapping[str, Operator]
    ) -> bool:
        """Whether a Concat costs nothing: each of its makers writes whole planes into their place."""
        if each.node.op_type != "Concat" or any(name in self.weights for name in each.inputs):
            return False
        roots = [root for root, _ in behind]
        whole = all(self.tensors[root].elements == elements for root, elements in behind)
        fresh = len(set(roots)) == len(roots) and all(root in makers for root in roots)
        return whole and fresh and self._outermost(each)

    def _is_view(self, each: Operator) -> bool:
        """Whether the result is a run of the first input's bytes."""
        kind, source = each.node.op_type, each.inputs[0]
        if source in self.weights:
            return False
        if kind in VIEWS:
            return True
        before, after = self.tensors[source].shape, self.tensors[each.outputs[0]].shape
        if kind == "Transpose":
            order = attribute(each.node, "perm", list(range(len(before)))[::-1])
            moved = [axis for axis in order if before[axis] != 1]
            return moved == sorted(moved)
        if kind == "Gather":
            index = self.values.get(each.inputs[1])
            return index is not None and index.size == 1 and self._outermost(each)
        if kind == "Split":
            return self._outermost(each)
        if kind == "Slice" and len(before) == len(after):
            steps = self.values.get(each.inputs[4]) if len(each.inputs) > 4 else None
            changed = [
                axis for axis, sizes in enumerate(zip(before, after, strict=True)) if len(set(sizes)) > 1
            ]
            plain = steps is None or bool((steps == 1).all())
            return plain and all(math.prod(before[:axis]) == 1 for axis in changed)
        return False

    def _is_retyped(self, each: Operator, readers: Mapping[str, list[Operator]]) -> bool:
        """Whether all readers of a Cast or DequantizeLinear do its work themselves."""
        if each.node.op_type not in RETYPES or each.inputs[0] in self.weights:
            return False
        codes = each.node.op_type == "DequantizeLinear"
        if self.tensors[each.inputs[0]].width > self.tensors[each.outputs[0]].width:
            return False
        pending, seen = [each.outputs[0]], []
        while pending:
            name = pending.pop()
            if name in self.outputs:
                return False
            for reader in readers.get(name, []):
                if self._is_view(reader):
                    pending += reader.outputs
                else:
                    seen.append(reader.role)
        takes = {Role.ELEMENTWISE, Role.MOVING, Role.REDUCING} | (
            {Role.WEIGHTED, Role.WINDOW} if codes else set()
        )
        return all(role in takes for role in seen)

    def _outermost(self, each: Operator) -> bool:
        """Whether nothing but single dimensions lies before the node's axis."""
        shape = self.tensors[each.inputs[0]].shape
        axis = attribute(each.node, "axis", 0)
        return math.prod(shape[: axis % max(1, len(shape))]) == 1

    def _bytes(self, name: str) -> float:
        tensor = self.tensors[name]
        return tensor.elements * tensor.width


def _readers(operators: Iterable[Operator]) -> dict[str, list[Operator]]:
    found: dict[str, list[Operator]] = {}
    for each in operators:
        for name in dict.fromkeys(each.inputs):
            found.setdefault(name, []).append(each)
    return found


def _tensor(info: onnx.ValueInfoProto) -> Tensor:
    from onnx import TensorProto, helper

    kind = info.type.tensor_type
    width = {TensorProto.INT4: 0.5, TensorProto.UINT4: 0.5}.get(kind.elem_type)
    width = width or float(helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize)
    codes = kind.elem_type in (TensorProto.INT8, TensorProto.INT4)
    return Tensor(tuple(dim.dim_value for dim in kind.shape.dim), width, codes)

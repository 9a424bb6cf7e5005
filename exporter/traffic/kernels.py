"""Which operators of a graph one kernel computes, as a compiler could at best, and the bytes that it moves.

A kernel has one result. An operator joins the kernel of its readers where it has no other readers:

* elementwise operators and those that move values join each other and stand before a reduction;
* a product (Conv, Gemm, MatMul) takes elementwise operators of its own size behind it, with one more
  operand: bias, activation, an addition, BatchNormalization, and if it multiplies codes, rounding to codes;
* a reduction takes elementwise operators on both sides;
* pooling and resizing take rounding behind them; whatever else is a kernel alone.

Every kernel reads each of its operands once and writes its result once; what lies inside it is free.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgewise.exporter.graph.batch_axis import fix_batch
from edgewise.exporter.traffic.operators import CHANGE_TYPE, Role
from edgewise.exporter.traffic.tensors import Computed, Operator, computed

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        nodes: The names of its nodes in graph order.
        main: The node that it is named after: its product, reduction or the like, else its first; that of the
            kernel before it where it does nothing but change types.
        reads, writes: Bytes of activations.
        weights: Bytes of constants.
    """

    nodes: tuple[str, ...]
    main: str
    reads: int
    writes: int
    weights: int

    @property
    def activations(self) -> int:
        """Bytes of activations, both ways."""
        return self.reads + self.writes


def kernels_of(model: onnx.ModelProto) -> tuple[Kernel, ...]:
    """The kernels of a graph, in the order of their results.

    Args:
        model: Of any precision; types count as they stand. Of a free batch one look is counted.

    Raises:
        ExportError: A tensor's type or shape is unknown.
    """
    graph = computed(fix_batch(model, 1))
    read = {root for each in graph.operators for root, _ in each.reads} | graph.outputs
    named: dict[str, str] = {}
    kernels: list[Kernel] = []
    for fused in _fused(graph):
        kernel = _measured(fused, graph, read, named)
        named |= dict.fromkeys(fused.operators[-1].outputs, kernel.main)
        kernels.append(kernel)
    return tuple(kernels)


@dataclass(eq=False)
class _Fused:
    """A kernel while it grows from its result backwards."""

    operators: list[Operator]
    anchor: Operator | None = None
    made: set[str] = field(default_factory=set)

    def add(self, operator: Operator) -> None:
        self.operators.insert(0, operator)
        self.made.update(operator.outputs)
        if not _joins_freely(operator):
            self.anchor = operator


def _fused(graph: Computed) -> list[_Fused]:
    readers: dict[str, list[Operator]] = {}
    for operator in graph.operators:
        for root, _ in operator.reads:
            readers.setdefault(root, []).append(operator)
    makers = {name: operator for operator in graph.operators for name in operator.outputs}
    kernel_of: dict[int, _Fused] = {}
    kernels: list[_Fused] = []
    for operator in reversed(graph.operators):
        behind = {
            id(kernel_of[id(r)]): kernel_of[id(r)] for out in operator.outputs for r in readers.get(out, [])
        }
        given = any(name in graph.outputs for name in operator.outputs)
        kernel = next(iter(behind.values())) if len(behind) == 1 and not given else None
        ends = operator.node.op_type == "QuantizeLinear" and _rounds_at_once(operator, makers, readers, graph)
        if kernel is None or ends or not _fits(operator, kernel, graph):
            kernel = _Fused([])
            kernels.append(kernel)
        kernel.add(operator)
        kernel_of[id(operator)] = kernel
    return kernels[::-1]


def _joins_freely(operator: Operator) -> bool:
    return operator.role in (Role.ELEMENTWISE, Role.MOVING)


def _fits(operator: Operator, kernel: _Fused, graph: Computed) -> bool:
    """Whether an operator that only this kernel reads can be computed in it."""
    if _joins_freely(operator):
        return kernel.anchor is None or kernel.anchor.role is Role.REDUCING
    if kernel.anchor is not None or not _all_behind(operator, kernel):
        return False
    if operator.role is Role.WINDOW:
        return [each.node.op_type for each in kernel.operators] == ["QuantizeLinear"]
    if operator.role is Role.WEIGHTED:
        size = graph.tensors[operator.outputs[0]].elements
        made = {*kernel.made, *operator.outputs}
        others = {root for each in kernel.operators for root, _ in each.reads if root not in made}
        around = [*others, *kernel.operators[-1].outputs]
        if any(graph.tensors[name].codes for name in around) and not _on_integers(operator, graph):
            return False
        return len(others) <= 1 and all(
            each.role is Role.ELEMENTWISE and graph.tensors[each.outputs[0]].elements == size
            for each in kernel.operators
        )
    return operator.role is Role.REDUCING


def _rounds_at_once(
    rounding: Operator,
    makers: Mapping[str, Operator],
    readers: Mapping[str, Sequence[Operator]],
    graph: Computed,
) -> bool:
    """Whether the kernel that makes a tensor can end in its codes, and nobody else reads the tensor."""
    source = rounding.reads[0][0]
    maker = makers.get(source)
    if maker is None or len(readers[source]) > 1 or source in graph.outputs or maker.role is Role.ALONE:
        return False
    return maker.role is not Role.WEIGHTED or _on_integers(maker, graph)


def _on_integers(operator: Operator, graph: Computed) -> bool:
    """Whether a product multiplies codes."""
    return any(graph.tensors[root].codes for root, _ in operator.reads)


def _all_behind(operator: Operator, kernel: _Fused) -> bool:
    """Whether everything in the kernel depends on the operator."""
    reached = set(operator.outputs)
    for each in kernel.operators:
        if not any(root in reached for root, _ in each.reads):
            return False
        reached.update(each.outputs)
    return True


def _measured(fused: _Fused, graph: Computed, read: Collection[str], named: Mapping[str, str]) -> Kernel:
    """The kernel's bytes and name.

    Args:
        read: All tensors that anybody reads.
        named: Result -> main node of the kernels before.
    """
    reads: dict[str, int] = {}
    for operator in fused.operators:
        for root, elements in operator.reads:
            if root not in fused.made:
                reads[root] = min(reads.get(root, 0) + elements, graph.tensors[root].elements)
    result = fused.operators[-1]
    writes = {name: graph.tensors[name].elements for name in result.outputs if name in read}
    weights = {name: size for each in fused.operators for name, size in each.weights.items()}
    computing = [each.node.name for each in fused.operators if each.node.op_type not in CHANGE_TYPE]
    if fused.anchor is not None:
        main = fused.anchor.node.name
    elif computing:
        main = computing[0]
    else:
        main = next((named[root] for root in reads if root in named), result.node.name)

    def moved(counts: Mapping[str, int]) -> int:
        return round(sum(count * graph.tensors[name].width for name, count in counts.items()))

    return Kernel(
        nodes=tuple(each.node.name for each in fused.operators),
        main=main,
        reads=moved(reads),
        writes=moved(writes),
        weights=round(sum(weights.values())),
    )

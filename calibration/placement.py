"""Which edges of a graph carry eight-bit codes, and which weighted nodes stay wider and why.

Every weighted node (Conv, ConvTranspose, Gemm, MatMul by constant weights) reads codes; its output stays
float, because the kernel writes codes by itself when the next reader wants them. Which other nodes read codes
depends on what a target's kernels fuse: `tensorrt_codes.py`, `onnxruntime_codes.py`. One tensor has one scale
and one QuantizeLinear, however many readers it has.

Sampling (RoiAlign, DeformConv, GridSample) has no integer kernel and makes no codes; a node whose result
moves sampling points (the offsets and masks of a DeformConv) stays wider, because its error is a shift.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx

from edgewise.calibration.graph import (
    Edge,
    GraphIndex,
    WeightedOp,
    index_graph,
    multiplies_one_row,
    static_shape,
    weighted_depth,
    weighted_op,
    with_node_names,
)
from edgewise.calibration.onnxruntime_codes import is_branch, onnxruntime_edges
from edgewise.calibration.tensorrt_codes import UNARY, WINDOWS, moves_values, shared_scales, tensorrt_edges
from edgewise.runtime.contract.manifest import KeptNode, Precision, Target
from edgewise.runtime.system.errors import CalibrationError

_MOVES_POINTS = {"DeformConv": (2, 4)}
"""Inputs that say where, or how strongly, an operator samples."""

_BETWEEN_WEIGHTS_AND_POINTS = frozenset(
    {"Sigmoid", "Tanh", "Clip", "Mul", "Add", "Slice", "Split", "Concat", "Reshape", "Transpose", "Identity"}
)


@dataclass(frozen=True)
class PlacementRules:
    """What stays wider without being asked for.

    Attributes:
        keep_first: Nodes that read the image with no weights before them: few channels, full range.
        keep_last: Nodes with no weights behind them, whose error reaches the decoding undiminished. Off,
            because their results stay float and the precision search keeps those that need it.
        keep_transposed: Transposed convolutions. Neither TensorRT-RTX nor ONNX Runtime has an integer kernel
            for them: they would compute in float32 between codes, wider than float16.
        keep_vectors: Products with a single row: compilers fold them into the float kernels around them.
        least_channels: A node with fewer input or output channels gains nothing from eight bits.
    """

    keep_first: bool = True
    keep_last: bool = False
    keep_transposed: bool = True
    keep_vectors: bool = True
    least_channels: int = 16


@dataclass(frozen=True)
class Placement:
    """The decision for one graph.

    Attributes:
        edges: Readings that see codes, in graph order of the reader.
        weighted: Weighted nodes whose weights become int8.
        kept: Weighted nodes that stay wider, with the reason of each.
        scales: Tensor -> the tensor whose scale its codes have, where that is not its own.
    """

    edges: tuple[Edge, ...]
    weighted: tuple[str, ...]
    kept: tuple[KeptNode, ...]
    scales: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors that get a QuantizeLinear, each once."""
        return tuple(dict.fromkeys(edge.tensor for edge in self.edges))


EVERYTHING = PlacementRules(
    keep_first=False, keep_last=False, keep_transposed=False, keep_vectors=False, least_channels=0
)
"""No node stays wider by rule."""


def place(
    model: onnx.ModelProto,
    *,
    rules: PlacementRules | None = None,
    keep: Mapping[str, str] | None = None,
    wider: Precision = Precision.FP16,
    target: Target = Target.TENSORRT,
    unbounded: Collection[str] = (),
) -> Placement:
    """Decide where codes go.

    Args:
        model: A float32 graph.
        rules: What stays wider by rule; `PlacementRules()` where it is None.
        keep: Weighted nodes to keep wider, each with its reason.
        wider: The precision that kept nodes are recorded with.
        target: Whose fusions the codes are placed for.
        unbounded: Tensors that hold infinities, which no code stands for.

    Raises:
        CalibrationError: `keep` names a node that has no weights or is not there, or nothing is left.
    """
    index = index_graph(with_node_names(model))
    candidates = weighted_nodes(index)
    reasons = _reasons(index, candidates, rules or PlacementRules(), keep or {})
    for name, op in candidates.items():
        if op.activation in unbounded:
            reasons.setdefault(name, "reads infinities: no code stands for one")
    sampling = dict.fromkeys(_sampling(index), "samples at computed positions: no integer kernel does")
    chosen = {name: op for name, op in candidates.items() if name not in reasons}
    if not chosen:
        raise CalibrationError(
            "no node is left to quantise: " + _why_none(reasons),
            where=index.model.graph.name,
            hint="ask for FP16 instead of INT8",
        )
    edges = {Edge(op.activation, name, 0) for name, op in chosen.items()}
    further = onnxruntime_edges if target is Target.ONNXRUNTIME else tensorrt_edges
    edges |= further(index, edges, chosen)
    edges = {edge for edge in edges if edge.tensor not in unbounded}
    position = {node.name: number for number, node in enumerate(index.model.graph.node)}
    return Placement(
        edges=tuple(sorted(edges, key=lambda edge: (position[edge.node], edge.position))),
        weighted=tuple(chosen),
        kept=tuple(
            KeptNode(node=name, precision=wider, reason=reason)
            for name, reason in {**reasons, **sampling}.items()
        ),
        scales={} if target is Target.ONNXRUNTIME else shared_scales(index, edges),
    )


def _why_none(reasons: Mapping[str, str]) -> str:
    """The reasons by which every node with weights stays wider, each once, with how many it keeps."""
    if not reasons:
        return "no node has weights"
    return ", ".join(f"{count} {reason}" for reason, count in Counter(reasons.values()).most_common())


def candidate_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """Every tensor that some placement of this graph, or its ONNX Runtime form, may turn into codes."""
    index = index_graph(with_node_names(model))
    candidates = weighted_nodes(index)
    tensors = {op.activation for op in candidates.values()}
    leading = _tensors_read_by_weights(index, candidates)
    for node in index.model.graph.node:
        leads_on = not leading.isdisjoint(node.output)
        if node.op_type in WINDOWS or (node.op_type in UNARY and leads_on and _is_read(index, node.input[0])):
            tensors.add(node.input[0])
        elif node.op_type == "Add" and (
            leads_on or any(is_branch(index, t, node, candidates) for t in node.input)
        ):
            tensors.update(node.input)
    return tuple(
        tensor
        for node in index.model.graph.node
        for tensor in node.output
        if tensor in tensors and tensor not in index.constants and index.is_float(tensor)
    )


def carried_sums(model: onnx.ModelProto) -> frozenset[str]:
    """The candidates that hold sums and that no weights read: the trunk of a network that normalises behind
    its additions. What is lost of them is lost for everything that is added later."""
    index = index_graph(with_node_names(model))
    read_by_weights = {op.activation for op in weighted_nodes(index).values()}
    sums: set[str] = set()
    for node in index.model.graph.node:
        if node.op_type == "Add" or (moves_values(node) and node.input[0] in sums):
            sums.update(node.output)
    return frozenset(sums.intersection(candidate_tensors(model)) - read_by_weights)


def _is_read(index: GraphIndex, tensor: str) -> bool:
    """Whether a unary node may have to read a tensor from memory: others do, or no kernel ends in it."""
    maker = index.producers.get(tensor)
    ends_there = maker is not None and (maker.op_type == "Add" or weighted_op(index, maker) is not None)
    return len(index.consumers.get(tensor, ())) > 1 or not ends_there


def weighted_nodes(index: GraphIndex) -> dict[str, WeightedOp]:
    """The weighted operations of a graph by node name, in graph order."""
    found = ((node.name, weighted_op(index, node)) for node in index.model.graph.node)
    return {name: op for name, op in found if op is not None and index.is_float(op.activation)}


def _reasons(
    index: GraphIndex, candidates: Mapping[str, WeightedOp], rules: PlacementRules, keep: Mapping[str, str]
) -> dict[str, str]:
    for name in keep:
        if name not in candidates:
            raise CalibrationError(
                f"the node to keep wider, {name!r}, is not a node with weights",
                where=index.model.graph.name,
                hint="name a Conv, ConvTranspose, Gemm or MatMul of the canonical graph",
            )
    depth = weighted_depth(index)
    steering = _steering(index, candidates)
    above_weights = _tensors_read_by_weights(index, candidates)
    reasons: dict[str, str] = {}
    for name, op in candidates.items():
        channels = min(op.in_channels, op.out_channels)
        if name in keep:
            reasons[name] = keep[name]
        elif name in steering:
            reasons[name] = "moves sampling points: its rounding would shift what is read"
        elif rules.keep_first and depth.get(op.activation, 0) == 0:
            reasons[name] = "reads the image: no weights before it"
        elif rules.keep_last and not above_weights.intersection(op.node.output):
            reasons[name] = "feeds the decoding: no weights behind it"
        elif channels < rules.least_channels:
            reasons[name] = f"has {channels} channels, fewer than {rules.least_channels}"
        elif rules.keep_vectors and multiplies_one_row(op.node, static_shape(index, op.node.output[0])):
            reasons[name] = "multiplies a single row: it has no kernel of its own"
        elif rules.keep_transposed and op.node.op_type == "ConvTranspose":
            reasons[name] = "is a transposed convolution: no integer kernel does it"
        elif op.node.op_type == "ConvTranspose" and op.groups > 1:
            reasons[name] = "is a transposed convolution with groups: one scale would serve several channels"
    return reasons


def _sampling(index: GraphIndex) -> list[str]:
    """The nodes that multiply what they sample by constant weights."""
    return [
        node.name
        for node in index.model.graph.node
        if node.op_type in _MOVES_POINTS and node.input[1] in index.constants
    ]


def _steering(index: GraphIndex, candidates: Mapping[str, WeightedOp]) -> set[str]:
    """The weighted nodes whose results become sampling positions or the weights of samples."""
    tensors = {
        node.input[position]
        for node in index.model.graph.node
        for position in _MOVES_POINTS.get(node.op_type, ())
        if position < len(node.input)
    }
    found: set[str] = set()
    for node in reversed(index.model.graph.node):
        if not tensors.intersection(node.output):
            continue
        if node.name in candidates:
            found.add(node.name)
        elif node.op_type in _BETWEEN_WEIGHTS_AND_POINTS:
            tensors.update(node.input)
    return found


def _tensors_read_by_weights(index: GraphIndex, candidates: Mapping[str, WeightedOp]) -> set[str]:
    """Tensors from which a way leads into a weighted node."""
    reached: set[str] = set()
    for node in reversed(index.model.graph.node):
        if node.name in candidates or reached.intersection(node.output):
            reached.update(node.input)
    return reached

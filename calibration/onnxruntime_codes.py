"""Where ONNX Runtime's CPU kernels read codes besides the weighted nodes, so that they run on integers.

They know no fusion of a convolution with an addition: an addition runs on codes only when both of its inputs
are codes, and a node's result becomes codes only when nobody reads it as a float. So skips and branches of
additions whose result becomes codes are codes, what a resize or an average reads for such a result too, and
all readers of a tensor with codes read the codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from onnx import NodeProto

from edgewise.calibration.graph import Edge, GraphIndex, WeightedOp, weighted_depth

WINDOWS = frozenset({"Resize", "AveragePool", "GlobalAveragePool"})


def onnxruntime_edges(index: GraphIndex, edges: Set[Edge], chosen: Mapping[str, WeightedOp]) -> set[Edge]:
    """The further readings of codes, beside those of the weighted nodes; arguments as `tensorrt_edges`."""
    found = set(edges) | _weightless_edges(index, {edge.tensor for edge in edges}, chosen)
    found |= _branch_edges(index, found, chosen)
    return found | _remaining_readers(index, {edge.tensor for edge in found})


def _weightless_edges(index: GraphIndex, coded: Set[str], chosen: Mapping[str, WeightedOp]) -> set[Edge]:
    """Edges into additions and resizes whose results become codes, found from the outputs backwards."""
    coded = set(coded)
    depth = weighted_depth(index)
    edges: set[Edge] = set()
    for node in reversed(index.model.graph.node):
        if not _becomes_codes(index, node, coded):
            continue
        if node.op_type in WINDOWS and index.is_float(node.input[0]):
            edges.add(Edge(node.input[0], node.name, 0))
        elif node.op_type == "Add":
            skip = _skip_input(index, node, chosen, depth)
            if skip is not None:
                edges.add(Edge(node.input[skip], node.name, skip))
        coded.update(edge.tensor for edge in edges)
    return edges


def _branch_edges(index: GraphIndex, edges: Set[Edge], chosen: Mapping[str, WeightedOp]) -> set[Edge]:
    """For every addition that reads codes on one side, the other side, where weights made it."""
    found: set[Edge] = set()
    for edge in edges:
        reader = next(node for node in index.consumers[edge.tensor] if node.name == edge.node)
        other = 1 - edge.position
        if reader.op_type == "Add" and is_branch(index, reader.input[other], reader, chosen):
            found.add(Edge(reader.input[other], edge.node, other))
    return found


def _remaining_readers(index: GraphIndex, coded: Set[str]) -> set[Edge]:
    return {
        Edge(tensor, node.name, position)
        for tensor in coded
        for node in index.consumers[tensor]
        for position, read in enumerate(node.input)
        if read == tensor
    }


def _becomes_codes(index: GraphIndex, node: NodeProto, coded: Set[str]) -> bool:
    """Whether the result is quantised, directly or behind an activation that reads nothing else."""
    if len(node.output) != 1:
        return False
    tensor = node.output[0]
    if tensor in coded:
        return True
    readers = index.consumers.get(tensor, ())
    return len(readers) == 1 and readers[0].op_type in ("Relu", "Clip") and readers[0].output[0] in coded


def _skip_input(
    index: GraphIndex, node: NodeProto, chosen: Mapping[str, WeightedOp], depth: Mapping[str, int]
) -> int | None:
    """Which input of an addition is the skip connection beside a quantised convolution's output."""
    first, second = (is_branch(index, tensor, node, chosen) for tensor in node.input)
    if first and second:
        # Both are convolutions: the shorter way is the projection of the skip.
        skip = 1 if depth[node.input[0]] >= depth[node.input[1]] else 0
    elif first or second:
        skip = 1 if first else 0
    else:
        return None
    tensor = node.input[skip]
    return skip if index.is_float(tensor) and tensor not in index.constants else None


def is_branch(index: GraphIndex, tensor: str, reader: NodeProto, chosen: Mapping[str, WeightedOp]) -> bool:
    """Whether a tensor is a weighted node's output that only `reader` reads."""
    producer = index.producers.get(tensor)
    return (
        producer is not None
        and producer.name in chosen
        and index.consumers[tensor] == (reader,)
        and tensor not in index.outputs
    )

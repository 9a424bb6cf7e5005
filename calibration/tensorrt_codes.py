"""Where TensorRT's kernels read codes besides the weighted nodes, so that fewer bytes move.

One kernel computes a convolution with what stands behind it: an addition, BatchNormalization, activation and
rounding. What such a kernel, or one of elementwise nodes alone, still reads from memory are skips, and the
trunk of a residual network. They become codes

* where a kernel that ends in codes reads them, and nobody needs them as floats: a tensor that exists in both
  forms is written, read and rounded once more;
* where they have codes anyway, for a skip that ends in codes.

A tensor that weights do not read becomes codes only behind a kernel that can end in codes, which one with
float weights cannot. What MaxPool and its like make of codes keeps their scale, so that they run on codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from onnx import NodeProto

from edgewise.calibration.graph import (
    Edge,
    GraphIndex,
    WeightedOp,
    attribute_text,
    weighted_depth,
    weighted_op,
)

UNARY = frozenset({"BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip"})
"""Computed in the kernel of what they read; of their inputs only the first is computed."""

WINDOWS = frozenset({"Resize", "AveragePool", "GlobalAveragePool"})
"""Kernels of their own that make new values without weights, and have integer forms."""

MOVERS = frozenset(
    {
        *("MaxPool", "Concat", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
        *("DepthToSpace", "SpaceToDepth"),
    }
)
"""Codes pass through them."""


def tensorrt_edges(index: GraphIndex, edges: Set[Edge], chosen: Mapping[str, WeightedOp]) -> set[Edge]:
    """The further readings of codes, beside those of the weighted nodes.

    Args:
        edges: What weighted nodes read.
        chosen: The weighted nodes whose weights become codes, by name.
    """
    search = _Search(index, set(edges), chosen)
    before = -1
    while len(search.edges) != before:  # each round only adds, and what it adds may allow more
        before = len(search.edges)
        search.go_through()
    search.complete()
    return search.edges - edges


def shared_scales(index: GraphIndex, edges: Set[Edge]) -> dict[str, str]:
    """Tensor with codes -> the one whose scale it has, where its maker moves values of that one's codes."""
    coded = {edge.tensor for edge in edges}
    found: dict[str, str] = {}
    for node in index.model.graph.node:
        if moves_values(node) and node.output[0] in coded and Edge(node.input[0], node.name, 0) in edges:
            found[node.output[0]] = found.get(node.input[0], node.input[0])
    return found


def moves_values(node: NodeProto) -> bool:
    """Whether a node's result holds nothing but values of its first input."""
    nearest = node.op_type == "Resize" and attribute_text(node, "mode", "nearest") == "nearest"
    return nearest or node.op_type in MOVERS - {"Concat"}


class _Search:
    def __init__(self, index: GraphIndex, edges: set[Edge], chosen: Mapping[str, WeightedOp]) -> None:
        self._index = index
        self._chosen = chosen
        self._depth = weighted_depth(index)
        self.edges = edges
        self.coded = {edge.tensor for edge in edges}

    def go_through(self) -> None:
        """One round over the graph, from the outputs backwards."""
        for node in reversed(self._index.model.graph.node):
            if node.op_type not in (*UNARY, *WINDOWS, "Add") or not self._becomes_codes(node.output[0]):
                continue
            for position in self._from_memory(node):
                tensor = node.input[position]
                free = self._ends_in_codes(tensor) and self._all_take_codes(tensor)
                if free or (tensor in self.coded and node.op_type in ("Add", *WINDOWS)):
                    self._add(tensor, node, position)

    def complete(self) -> None:
        """Let every reader of a tensor read its codes, where that spares the floats."""
        for tensor in sorted(self.coded):
            if not self._all_take_codes(tensor):
                continue
            for node in self._index.consumers[tensor]:
                if node.name not in self._chosen:
                    for position, read in enumerate(node.input):
                        if read == tensor:
                            self._add(tensor, node, position)

    def _add(self, tensor: str, node: NodeProto, position: int) -> None:
        self.edges.add(Edge(tensor, node.name, position))
        self.coded.add(tensor)

    def _from_memory(self, node: NodeProto) -> list[int]:
        """Which inputs of a node its kernel reads, for it does not compute them itself."""
        count = 2 if node.op_type == "Add" else 1
        read = [p for p in range(count) if self._is_activation(node.input[p])]
        if node.op_type in UNARY:
            return [p for p in read if not self._computed_before(node.input[p])]
        if node.op_type != "Add":
            return read
        branches = [p for p in read if self._product_behind(node.input[p]) is not None]
        branches = [p for p in branches if self._product_behind(node.input[p]) in self._chosen]
        if branches:
            # Of two products the shorter way is the projection of the skip, which the other's kernel reads.
            read.remove(max(branches, key=lambda p: (self._depth[node.input[p]], -p)))
        return read

    def _becomes_codes(self, tensor: str) -> bool:
        """Whether a tensor has codes, or what alone reads it rounds it in the same kernel, or moves it."""
        if tensor in self.coded:
            return True
        reader = self._only_reader(tensor)
        return (
            reader is not None
            and (reader.op_type in UNARY or reader.op_type in MOVERS)
            and self._becomes_codes(reader.output[0])
        )

    def _computed_before(self, tensor: str) -> bool:
        """Whether a unary node's input is computed in its kernel."""
        maker = self._index.producers.get(tensor)
        return (
            self._only_reader(tensor) is not None
            and maker is not None
            and (maker.op_type in (*UNARY, "Add") or weighted_op(self._index, maker) is not None)
        )

    def _product_behind(self, tensor: str) -> str | None:
        """The weighted node whose kernel computes a tensor that one node reads, through unary nodes."""
        maker = self._index.producers.get(tensor)
        if maker is None or self._only_reader(tensor) is None:
            return None
        if weighted_op(self._index, maker) is not None:
            return maker.name
        return self._product_behind(maker.input[0]) if maker.op_type in UNARY else None

    def _ends_in_codes(self, tensor: str) -> bool:
        """Whether the kernel that makes a tensor can write codes in place of floats."""
        maker = self._index.producers.get(tensor)
        if maker is None or tensor in self._index.constants:
            return False
        if weighted_op(self._index, maker) is not None:
            return maker.name in self._chosen
        if maker.op_type in MOVERS:
            return all(self._ends_in_codes(read) for read in maker.input if self._is_activation(read))
        if maker.op_type in UNARY:
            product = self._product_behind(maker.input[0])
            return product is None or product in self._chosen
        return maker.op_type == "Add" or maker.op_type in WINDOWS

    def _all_take_codes(self, tensor: str) -> bool:
        """Whether no reader needs the floats of a tensor."""
        return tensor not in self._index.outputs and all(
            self._takes_codes(node, tensor) for node in self._index.consumers.get(tensor, ())
        )

    def _takes_codes(self, node: NodeProto, tensor: str) -> bool:
        if node.name in self._chosen:
            return self._chosen[node.name].activation == tensor
        if node.op_type in UNARY:
            return node.input[0] == tensor
        if node.op_type == "Add":
            products = (self._product_behind(read) for read in node.input if read != tensor)
            return all(product is None or product in self._chosen for product in products)
        return (node.op_type in WINDOWS or node.op_type in MOVERS) and self._becomes_codes(node.output[0])

    def _only_reader(self, tensor: str) -> NodeProto | None:
        readers = self._index.consumers.get(tensor, ())
        return readers[0] if len(readers) == 1 and tensor not in self._index.outputs else None

    def _is_activation(self, tensor: str) -> bool:
        return bool(tensor) and tensor not in self._index.constants and self._index.is_float(tensor)

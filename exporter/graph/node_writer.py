"""New nodes and constants of a pass, with names that the graph does not have yet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewise.exporter.graph.edit import drop_unused_initialisers, tensor_names

if TYPE_CHECKING:
    import onnx


class NodeWriter:
    """Collects what a pass writes; equal constants are stored once.

    Attributes:
        nodes: The new nodes since the last `take`, in order.
    """

    def __init__(self, model: onnx.ModelProto, replaced: Collection[str] = ()) -> None:
        """Prepare to write into `model`; names of its nodes of the types `replaced` may be taken again."""
        self._taken = tensor_names(model)
        self._names = {node.name for node in model.graph.node if node.op_type not in replaced}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._tensors: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []

    def constant(self, wish: str, values: np.ndarray) -> str:
        """The name of an initialiser with these values."""
        import onnx

        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            self._constants[key] = _fresh(self._taken, wish)
            self._tensors.append(onnx.numpy_helper.from_array(values, self._constants[key]))
        return self._constants[key]

    def integers(self, wish: str, values: Sequence[int]) -> str:
        """The name of an int64 initialiser."""
        return self.constant(wish, np.array(values, np.int64))

    def node(
        self, operator: str, inputs: Sequence[str], wish: str, *, output: str | None = None, **attributes: Any
    ) -> str:
        """Write a node with one result; gives the result's name.

        Args:
            wish: The node's name, and its result's where `output` is None; numbered where it is taken.
        """
        import onnx

        result = output or _fresh(self._taken, wish)
        name = _fresh(self._names, wish)
        self.nodes.append(onnx.helper.make_node(operator, list(inputs), [result], name=name, **attributes))
        return result

    def split(self, value: str, sizes: Sequence[int], wish: str, axis: int) -> list[str]:
        """Write a Split; gives the names of its parts."""
        import onnx

        parts = [_fresh(self._taken, f"{wish}_{number}") for number in range(len(sizes))]
        inputs = [value, self.integers(f"{wish}_sizes", sizes)]
        name = _fresh(self._names, wish)
        self.nodes.append(onnx.helper.make_node("Split", inputs, parts, name=name, axis=axis))
        return parts

    def take(self) -> list[onnx.NodeProto]:
        """The nodes written since the last call."""
        nodes, self.nodes = self.nodes, []
        return nodes

    def finish(self, model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> onnx.ModelProto:
        """Give the model exactly `nodes` and the new constants; drops those that nothing reads any more."""
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
        model.graph.initializer.extend(self._tensors)
        drop_unused_initialisers(model)
        made = {name for node in copies for name in node.output}
        kept = [
            type(value).FromString(value.SerializeToString())
            for value in model.graph.value_info
            if value.name in made
        ]
        del model.graph.value_info[:]
        model.graph.value_info.extend(kept)
        return model


def _fresh(taken: set[str], wish: str) -> str:
    name, number = wish, 2
    while name in taken:
        name, number = f"{wish}_{number}", number + 1
    taken.add(name)
    return name

"""Make inner tensors of an ONNX model visible as graph outputs, and run it with the runtime's own engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from edgewise.exporter.graph.batch_axis import fix_batch
from edgewise.runtime.contract.manifest import DType, TensorSpec
from edgewise.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgewise.runtime.engines.options import OnnxRuntimeOptions
from edgewise.runtime.system.errors import ParityError

_FLOATS = {onnx.TensorProto.FLOAT: DType.FLOAT32, onnx.TensorProto.FLOAT16: DType.FLOAT16}


class InnerTensors:
    """An ONNX model whose float tensors can be read by name.

    Args:
        data: The serialised model, with its weights inside and fixed shapes; a free batch is fixed to 1.
        where: Name of the file in errors.
    """

    def __init__(self, data: bytes, *, where: str) -> None:
        try:
            self.model = onnx.shape_inference.infer_shapes(fix_batch(onnx.load_model_from_string(data), 1))
        except Exception as error:  # protobuf and onnx raise families of types without a common base
            raise ParityError(f"not an ONNX model: {error}", where=where) from error
        self.where = where
        self.produced = tuple(name for node in self.model.graph.node for name in node.output if name)
        """Names of all tensors that nodes produce, in the order of the nodes (a topological order)."""
        self.specs = _float_specs(self.model)
        """Float tensors of fixed shape by name."""

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """`names` and every tensor that one of them is computed from."""
        return _needed(self.model, names)[0]

    def open(
        self,
        names: Sequence[str],
        inputs: Sequence[TensorSpec],
        *,
        beside: Sequence[TensorSpec] = (),
        threads: int = 1,
    ) -> OnnxRuntimeEngine:
        """An engine whose outputs are exactly the float tensors `names`, and those `beside` them.

        Nodes that none of them needs are left out.

        Args:
            names: Inner tensors.
            inputs: Of the model.
            beside: Outputs of the model.

        Raises:
            ParityError: A name is no float tensor of the model.
            BackendError: ONNX Runtime refuses the model.
        """
        missing = [name for name in names if name not in self.specs]
        if missing:
            raise ParityError(
                f"the model has no float tensor named {', '.join(map(repr, missing))}",
                where=self.where,
                hint="a pass renamed or removed it; probes keep their names in every lowered file",
            )
        return OnnxRuntimeEngine(
            with_outputs(self.model, [*(spec.name for spec in beside), *names]).SerializeToString(),
            inputs=inputs,
            outputs=[*beside, *(self.specs[name] for name in names)],
            where=self.where,
            options=OnnxRuntimeOptions(threads=threads),
        )


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a shape-inferred model that computes exactly the tensors `names`."""
    needed, kept = _needed(model, names)
    typed = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    exposed = onnx.ModelProto(ir_version=model.ir_version)
    exposed.opset_import.extend(model.opset_import)
    exposed.graph.name = model.graph.name
    exposed.graph.input.extend(model.graph.input)
    exposed.graph.node.extend(kept)
    exposed.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    exposed.graph.output.extend(typed[name] for name in names)
    return exposed


def _needed(model: onnx.ModelProto, names: Iterable[str]) -> tuple[set[str], list[onnx.NodeProto]]:
    """The tensors that `names` are computed from, and the nodes that compute them, in order."""
    needed, kept = set(names), []
    for node in reversed(model.graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(name for name in node.input if name)
            needed.update(_read_by_bodies(node))
    return needed, kept[::-1]


def _read_by_bodies(node: onnx.NodeProto) -> set[str]:
    """What the bodies of If, Loop and Scan read, outer tensors among it."""
    names: set[str] = set()
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                names.update(name for name in inner.input if name)
                names |= _read_by_bodies(inner)
    return names


def _float_specs(model: onnx.ModelProto) -> dict[str, TensorSpec]:
    produced = {name for node in model.graph.node for name in node.output}
    specs: dict[str, TensorSpec] = {}
    for value in (*model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type
        shape = tuple(dimension.dim_value for dimension in kind.shape.dim)
        if value.name in produced and kind.elem_type in _FLOATS and all(size > 0 for size in shape):
            specs[value.name] = TensorSpec(name=value.name, dtype=_FLOATS[kind.elem_type], shape=shape)
    return specs

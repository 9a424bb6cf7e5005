"""Make probes inner tensors: lowered graphs give the outputs only, and keep the probes' names inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgewise.exporter.graph.conditions import gives_exactly, makes
from edgewise.exporter.graph.edit import drop_unused_initialisers
from edgewise.exporter.graph.passes import Pass
from edgewise.runtime.contract.manifest import Graph

if TYPE_CHECKING:
    import onnx


def demote_probes(graph: Graph) -> Pass:
    """Remove `graph.probes` from the outputs and drop what only they needed.

    A probe on the way to an output stays as an inner tensor of the same name; every probe must be.
    """
    outputs = [spec.name for spec in graph.outputs]
    probes = [spec.name for spec in graph.probes]

    def apply(model: onnx.ModelProto) -> onnx.ModelProto:
        found = {value.name: value for value in model.graph.output}
        kept = [type(found[name]).FromString(found[name].SerializeToString()) for name in outputs]
        inner = [type(found[name]).FromString(found[name].SerializeToString()) for name in probes]
        del model.graph.output[:]
        model.graph.output.extend(kept)
        model.graph.value_info.extend(inner)
        return drop_dead_nodes(model)

    return Pass(
        name="demote-probes",
        apply=apply,
        requires=(gives_exactly([*outputs, *probes]),),
        ensures=(gives_exactly(outputs), makes(probes)),
        detail=f"{len(probes)} probes became inner tensors: {', '.join(probes)}",
    )


def drop_dead_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove nodes that no output needs, and initialisers that no node reads."""
    needed = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if any(name in needed for name in node.output):
            kept.append(type(node).FromString(node.SerializeToString()))
            needed.update(name for name in node.input if name)
    if len(kept) != len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(reversed(kept))
    drop_unused_initialisers(model)
    return model

"""Parts of a graph that a pass writes anew, compared alone: same tensors in, same tensors out.

A whole detector is no measure of a rewriting inside it: rounding swaps near-equal scores behind it, and what
follows differs by rows. Its own part, fed with what really flows into it, is a sharp one, and a cheap one:
what no pass touched gives equal bits and need not be run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgewise.calibration.graph import tensor_infos
from edgewise.exporter.graph.numerics import Tensors, run_graph

if TYPE_CHECKING:
    import numpy as np
    import onnx


@dataclass(frozen=True)
class Region:
    """The nodes between `inputs` and `outputs`.

    Attributes:
        inputs: No constant is among them.
        tolerance: Largest relative error that writing it anew may cause.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tolerance: float


def cut_out(model: onnx.ModelProto, regions: Sequence[Region]) -> Iterator[onnx.ModelProto]:
    """A model of every region alone, with the constants that it reads, one after another."""
    infos = tensor_infos(model)
    for region in regions:
        yield _cut_out(model, region.inputs, region.outputs, infos)


def run_part(part: onnx.ModelProto, feeds: Sequence[Tensors]) -> list[dict[str, np.ndarray]]:
    """The outputs of a part for feeds that hold more than its inputs."""
    names = [value.name for value in part.graph.input]
    return run_graph(part, [{name: feed[name] for name in names} for feed in feeds])


def flow(
    model: onnx.ModelProto, known: Sequence[Tensors], names: Collection[str]
) -> list[dict[str, np.ndarray]]:
    """The inner tensors `names` of every sample, computed from the nearest tensors that are known of it.

    Args:
        known: What is known of every sample: the graph's inputs, and any inner tensors.
    """
    infos = tensor_infos(model)
    given = _given(infos, known[0])
    for node in model.graph.node:
        # A node that runs gives all its outputs, and no part may make what it is given.
        if not given.issuperset(node.output):
            given.difference_update(node.output)
    return run_part(_cut_out(model, sorted(given), names, infos), known)


def unknown(model: onnx.ModelProto, known: Tensors, names: Iterable[str]) -> list[str]:
    """Which of `names`, each once, `known` does not hold in the type that they have in the model."""
    given = _given(tensor_infos(model), known)
    return [name for name in dict.fromkeys(names) if name not in given]


def _given(infos: Mapping[str, onnx.ValueInfoProto], known: Tensors) -> set[str]:
    """What of `known` a model has in the same type; a pass before it may have typed a tensor anew."""
    import onnx

    return {
        name
        for name, value in known.items()
        if name in infos and _type(infos[name]) == onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    }


def rewritten(before: onnx.ModelProto, after: onnx.ModelProto) -> list[Region] | None:
    """The parts in which two models differ, which must give equal bits; empty where they say the same.

    Every other node is the same to the byte and reads the same constants, or tensors of the same name and
    type. What only one model gives is no difference here: conditions say which outputs a pass must keep.

    Returns:
        Regions whose inputs and outputs both models have; None where a part has an output that one model
        lacks, so that the models can only be compared whole.
    """
    old, new = ({node.SerializeToString(): node for node in each.graph.node} for each in (before, after))
    differing = _changed_constants(before, after) | _retyped(before, after)
    same = {
        key
        for key, node in old.items()
        if key in new and differing.isdisjoint(node.input) and differing.isdisjoint(node.output)
    }
    changed = [[node for key, node in each.items() if key not in same] for each in (old, new)]
    made = [{name for node in nodes for name in node.output if name} for nodes in changed]
    read = {name for key in same for name in old[key].input} | (_outputs(before) & _outputs(after))
    parts = _connected([node for nodes in changed for node in nodes], made[0] | made[1])
    regions: list[Region] = []
    for nodes in parts:
        inner = {name for node in nodes for name in node.output if name}
        outputs = tuple(sorted(inner & read))
        if not set(outputs) <= made[0] & made[1]:
            return None
        stored = {tensor.name for each in (before, after) for tensor in each.graph.initializer}
        inputs = dict.fromkeys(name for node in nodes for name in node.input if name)
        regions.append(Region(tuple(name for name in inputs if name not in inner | stored), outputs, 0.0))
    return [region for region in regions if region.outputs]


def _changed_constants(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    """Initialisers of one name and another value."""
    old = {tensor.name: tensor for tensor in before.graph.initializer}
    return {
        tensor.name
        for tensor in after.graph.initializer
        if tensor.name in old and tensor.SerializeToString() != old[tensor.name].SerializeToString()
    }


def _retyped(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    """Tensors of one name and another element type."""
    old, new = ({name: _type(info) for name, info in tensor_infos(each).items()} for each in (before, after))
    return {name for name, kind in new.items() if old.get(name, kind) != kind}


def _type(info: onnx.ValueInfoProto) -> int:
    return info.type.tensor_type.elem_type


def _outputs(model: onnx.ModelProto) -> set[str]:
    return {output.name for output in model.graph.output}


def _connected(nodes: Sequence[onnx.NodeProto], made: Collection[str]) -> list[list[onnx.NodeProto]]:
    """Nodes in groups that share no tensor of `made`."""
    groups: list[tuple[set[str], list[onnx.NodeProto]]] = []
    for node in nodes:
        names = {name for name in (*node.input, *node.output) if name in made}
        joined = [group for group in groups if not group[0].isdisjoint(names)]
        groups = [group for group in groups if group[0].isdisjoint(names)]
        members = [each for group in joined for each in group[1]]
        groups.append((names.union(*(group[0] for group in joined)), [*members, node]))
    return [members for _, members in groups]


def _cut_out(
    model: onnx.ModelProto,
    inputs: Collection[str],
    outputs: Collection[str],
    infos: Mapping[str, onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """A model of the nodes between tensors, with the constants that they read."""
    import onnx

    graph, known = model.graph, set(inputs)
    needed = set(outputs) - known
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(name for name in node.input if name not in known)
    used = {name for node in nodes for name in node.input}
    part = onnx.helper.make_graph(
        nodes[::-1],
        "part",
        [infos[name] for name in inputs if name in used],
        [infos[name] for name in outputs],
        [tensor for tensor in graph.initializer if tensor.name in used],
    )
    return onnx.helper.make_model(part, opset_imports=list(model.opset_import), ir_version=model.ir_version)

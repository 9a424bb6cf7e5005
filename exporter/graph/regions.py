"""Parts of a graph that a pass writes anew, compared alone: same tensors in, same tensors out.

A whole detector is no measure of a rewriting inside it: rounding swaps near-equal scores behind it, and what
follows differs by rows. Its own part, fed with what really flows into it, is a sharp one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def run_regions(
    model: onnx.ModelProto, regions: Sequence[Region], feeds: Sequence[Tensors]
) -> Iterator[list[dict[str, np.ndarray]]]:
    """Every region's outputs for given inputs, one region after another."""
    infos = tensor_infos(model)
    for region in regions:
        part = _cut_out(model, region, infos)
        names = [value.name for value in part.graph.input]
        yield run_graph(part, [{name: feed[name] for name in names} for feed in feeds])


def _cut_out(
    model: onnx.ModelProto, region: Region, infos: Mapping[str, onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """A model of the region alone, with the constants that it reads."""
    import onnx

    graph = model.graph
    needed = set(region.outputs)
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output) and not set(node.output) <= set(region.inputs):
            nodes.append(node)
            needed.update(name for name in node.input if name not in region.inputs)
    used = {name for node in nodes for name in node.input}
    part = onnx.helper.make_graph(
        nodes[::-1],
        "region",
        [infos[name] for name in region.inputs if name in used],
        [infos[name] for name in region.outputs],
        [tensor for tensor in graph.initializer if tensor.name in used],
    )
    return onnx.helper.make_model(part, opset_imports=list(model.opset_import), ir_version=model.ir_version)

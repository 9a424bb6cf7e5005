"""Codes inside float16 islands: what is quantised and dequantised between two float16 nodes is float16 too.

A quantised node computes on eight-bit codes; what it writes, what it is added to and what is rounded to codes
again would move twice the bytes in float32. A scale has the type of the values that it belongs to, so the
graph needs opset 19 (`edgewise.exporter.passes.raise_opset`), and its scales must be numbers that float16
holds (`quantise_s8(..., half_scales=True)`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from edgewise.exporter.graph.edit import consumers, producers
from edgewise.exporter.passes.fp16 import narrow_nodes

if TYPE_CHECKING:
    import onnx


def narrow_codes(model: onnx.ModelProto, narrow: Collection[str]) -> onnx.ModelProto:
    """Type the named nodes as float16, with the codes that they read and those made of their results.

    Args:
        model: A graph of opset 19 with signed codes; it is edited and returned.
        narrow: The float16 nodes of the graph without codes (`Fp16Choice.narrow`).
    """
    return narrow_nodes(model, {*narrow, *_codes_between(model, narrow)})


def _codes_between(model: onnx.ModelProto, narrow: Collection[str]) -> set[str]:
    makers, readers = producers(model.graph.node), consumers(model.graph.node)
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            behind = readers.get(node.output[0], [])
            inside = bool(behind) and all(reader.name in narrow for reader in behind)
        else:
            maker = makers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
            inside = maker is not None and maker.name in narrow
        if inside:
            found.add(node.name)
    return found

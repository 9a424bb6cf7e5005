"""Which layers of a parsed network have weights, and which of those are quantised."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_METADATA = re.compile(r"^\[ONNX Layer: (.+)\]$")
_TRANSPARENT = ("SHUFFLE", "IDENTITY", "CAST")
"""Layers through which a constant or quantised tensor is still one."""


@dataclass(frozen=True)
class WeightedNode:
    """An ONNX node with weights. `quantised`: its activation comes from a DequantizeLinear."""

    name: str
    quantised: bool


def onnx_name(layer: Any) -> str:
    """The ONNX node that a network layer was parsed from."""
    match = _METADATA.match(layer.metadata or "")
    return match[1] if match else str(layer.name)


def weighted_nodes(trt: Any, network: Any) -> tuple[WeightedNode, ...]:
    """Convolutions, deconvolutions, and matrix products with a constant factor, in graph order.

    Args:
        network: An `INetworkDefinition` filled by the ONNX parser.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    kinds = trt.LayerType
    found: list[WeightedNode] = []
    for layer in layers:
        if layer.type in (kinds.CONVOLUTION, kinds.DECONVOLUTION):
            activation = 0
        elif layer.type == kinds.MATRIX_MULTIPLY:
            fixed = [index for index in (0, 1) if _is_constant(kinds, makers, layer.get_input(index))]
            if len(fixed) != 1:
                continue
            activation = 1 - fixed[0]
        else:
            continue
        source = _source(kinds, makers, layer.get_input(activation))
        quantised = source is not None and source.type == kinds.DEQUANTIZE
        found.append(WeightedNode(onnx_name(layer), quantised))
    return tuple(found)


def _is_constant(kinds: Any, makers: dict[str, Any], tensor: Any) -> bool:
    source = _source(kinds, makers, tensor)
    while source is not None and source.type in (kinds.DEQUANTIZE, kinds.QUANTIZE):
        source = _source(kinds, makers, source.get_input(0))
    return source is not None and source.type == kinds.CONSTANT


def _source(kinds: Any, makers: dict[str, Any], tensor: Any) -> Any:
    """The layer that makes a tensor, seen through transparent layers; None for a network input."""
    transparent = [getattr(kinds, name) for name in _TRANSPARENT if hasattr(kinds, name)]
    layer = makers.get(tensor.name)
    while layer is not None and layer.type in transparent:
        layer = makers.get(layer.get_input(0).name)
    return layer

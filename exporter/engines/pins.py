"""Layer types for weakly typed builders (TensorRT 8.x), taken from the typed ONNX files.

A weakly typed builder may run any layer in any type that a flag allows. Pinning gives every layer the type
that the strongly typed graph states. Float32 layers without weights that lead to a QuantizeLinear are left
alone: they fuse into the INT8 kernel in front of it; but what computes sampling positions (decoding,
suppression, grids) is pinned, for in float16 it would shift what is read. Needs the onnx package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgewise.exporter.engines.weighted import onnx_name
from edgewise.runtime.contract.manifest import KeptNode, Precision
from edgewise.runtime.system.errors import BuildError

if TYPE_CHECKING:
    import onnx

HALF, FLOAT, INT8 = "HALF", "FLOAT", "INT8"
Pins = dict[str, str]
"""ONNX node name -> name of a `tensorrt.DataType`."""

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SAMPLERS = ("GridSample", "RoiAlign")
"""Operators whose second input says where they sample."""

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
_UNPINNED = ("CONSTANT", "SHAPE", "ASSERTION", "CAST", "IDENTITY", "QUANTIZE", "DEQUANTIZE", "FILL")


def read_model(data: bytes) -> onnx.ModelProto:
    """Parse an ONNX file.

    Raises:
        BuildError: The onnx package is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise BuildError(
            "this TensorRT takes FP16 and INT8 from builder flags, for which the onnx package is needed",
            hint="pip install onnx",
        ) from None
    return onnx.load_model_from_string(data)


def pins_from_types(model: onnx.ModelProto) -> Pins:
    """The type of every node of a typed graph, but for those that make codes or fuse with one that does."""
    import onnx

    from edgewise.exporter.graph.edit import constants, element_types, producers

    types = element_types(model)
    makers = producers(model.graph.node)
    fused = _upstream(model, "QuantizeLinear") - _positional(model, constants(model), makers)
    pins: Pins = {}
    for node in model.graph.node:
        quantised = any(
            name in makers and makers[name].op_type == "DequantizeLinear" for name in node.input[:1]
        )
        if node.op_type in (*_QUANTISERS, "Cast", "Constant") or quantised:
            continue
        made = {types.get(name) for name in node.output}
        if onnx.TensorProto.FLOAT16 in made:
            pins[node.name] = HALF
        elif onnx.TensorProto.FLOAT in made and (node.op_type in _WEIGHTED or node.name not in fused):
            pins[node.name] = FLOAT
    return pins


def pins_for_calibrator(model: onnx.ModelProto, kept: Sequence[KeptNode]) -> Pins:
    """INT8 for weighted nodes, the manifest's type for kept ones, FLOAT for the decoding behind the last."""
    from edgewise.exporter.graph.edit import constants, producers

    fixed = constants(model)
    wide = {node.node: HALF if node.precision is Precision.FP16 else FLOAT for node in kept}
    weighted = {
        node.name
        for node in model.graph.node
        if node.op_type in _WEIGHTED and (node.op_type != "MatMul" or node.input[1] in fixed)
    }
    before = _upstream(model, *_WEIGHTED, among=weighted)
    pins = {
        node.name: FLOAT
        for node in model.graph.node
        if node.name not in before and node.op_type not in ("Cast", "Constant")
    }
    positional = dict.fromkeys(_positional(model, fixed, producers(model.graph.node)), FLOAT)
    return {**pins, **positional, **dict.fromkeys(weighted, INT8), **wide}


def _positional(
    model: onnx.ModelProto, fixed: Collection[str], makers: Mapping[str, onnx.NodeProto]
) -> set[str]:
    """Samplers, and the nodes without weights between the last weights and the positions they sample at."""
    needed: set[str] = set()
    names: set[str] = set()
    for node in reversed(model.graph.node):
        if node.op_type in _SAMPLERS:
            names.add(node.name)
            needed.add(node.input[1])
        elif needed.intersection(node.output) and not _has_weights(node, fixed, makers):
            names.add(node.name)
            needed.update(name for name in node.input if name)
    return names


def _has_weights(node: onnx.NodeProto, fixed: Collection[str], makers: Mapping[str, onnx.NodeProto]) -> bool:
    if node.op_type not in _WEIGHTED:
        return False
    maker = makers.get(node.input[1])
    return node.input[1] in fixed or (maker is not None and maker.op_type == "DequantizeLinear")


def _upstream(model: onnx.ModelProto, *operators: str, among: Collection[str] | None = None) -> set[str]:
    """Names of the nodes from which a way leads to one of the operators."""
    needed: set[str] = set()
    names: set[str] = set()
    for node in reversed(model.graph.node):
        leads = any(name in needed for name in node.output)
        if leads:
            names.add(node.name)
        if leads or (node.op_type in operators and (among is None or node.name in among)):
            needed.update(name for name in node.input if name)
    return names


def apply_pins(trt: Any, network: Any, pins: Pins, *, default: str | None) -> None:
    """Set precision and output types of the layers of a weakly typed network.

    Args:
        default: For layers that no pin names (parts of an operator that the parser splits); None leaves them.
    """
    kinds, floats = trt.LayerType, (trt.DataType.FLOAT, trt.DataType.HALF)
    unpinned = [getattr(kinds, name) for name in _UNPINNED if hasattr(kinds, name)]
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        name = pins.get(onnx_name(layer), default)
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        if name is None or layer.type in unpinned or not any(tensor.dtype in floats for tensor in outputs):
            continue
        dtype = getattr(trt.DataType, name)
        layer.precision = dtype
        for number, tensor in enumerate(outputs):
            if name != INT8 and tensor.dtype in floats and not tensor.is_network_output:
                layer.set_output_type(number, dtype)

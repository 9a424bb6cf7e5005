"""Layer types for weakly typed builders (TensorRT 8.x), taken from the typed ONNX files.

A weakly typed builder may run any layer in any type that a flag allows. Pinned are the layers whose type
changes the answer or is the promise: whatever the typed graph computes in float32 (decoding, suppression,
positions, nodes that the manifest keeps wide, comparisons of float32 values), and the weighted nodes that it
computes in float16. The rest is the builder's choice. Float32 layers without weights that lead to a
QuantizeLinear are left alone, because they fuse into the INT8 kernel in front of it; but what computes
sampling positions is pinned, for in float16 it would shift what is read. Needs the onnx package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from edgewise.exporter.engines.weighted import onnx_name
from edgewise.runtime.system.errors import BuildError

if TYPE_CHECKING:
    import onnx

HALF, FLOAT = "HALF", "FLOAT"
Pins = dict[str, str]
"""ONNX node name -> name of a `tensorrt.DataType`."""

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SAMPLERS = ("GridSample", "RoiAlign")
"""Operators whose second input says where they sample."""

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
_FREE = (*_QUANTISERS, "Cast", "Constant")
"""Operators whose types are not the builder's choice."""

_UNPINNED = ("CONSTANT", "SHAPE", "ASSERTION", "CAST", "IDENTITY", "QUANTIZE", "DEQUANTIZE", "FILL")


def read_model(data: bytes) -> onnx.ModelProto:
    """Parse an ONNX file.

    Raises:
        BuildError: The onnx package is not installed.
        CalibrationError: It is no ONNX model.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise BuildError(
            "the onnx package is needed: for builder flags of FP16 and INT8, and for a fixed batch",
            hint="pip install onnx",
        ) from None
    from edgewise.calibration.graph import load_model

    return load_model(data)


def pins_from_types(compiled: onnx.ModelProto, typed: onnx.ModelProto) -> Pins:
    """The types of the nodes of a graph that must not be the builder's choice.

    Args:
        compiled: What the builder parses: the FP32 file for FP16, the INT8 file for INT8.
        typed: The FP16 file; the INT8 file itself where there is none. A node that it lacks keeps the type
            that `compiled` gives it, and so do the weighted nodes of a graph with codes.
    """
    from edgewise.exporter.graph.edit import constants, producers

    fixed, makers = constants(compiled), producers(compiled.graph.node)
    stated, own = _computed_in(typed), _computed_in(compiled)
    has_codes = any(node.op_type in _QUANTISERS for node in compiled.graph.node)
    fused = _upstream(compiled, "QuantizeLinear") - _positional(compiled, fixed, makers)
    pins: Pins = {}
    for node in compiled.graph.node:
        if node.op_type in _FREE or any(_is_coded(makers, name) for name in node.input[:1]):
            continue
        weighted = _has_weights(node, fixed, makers)
        if not weighted and node.name in fused:
            continue
        source = own if weighted and has_codes else {**own, **stated}
        kind = source.get(node.name)
        if kind == FLOAT or (kind == HALF and weighted):
            pins[node.name] = kind
    return pins


def _computed_in(model: onnx.ModelProto) -> Pins:
    """Node -> the type of its values: of its outputs, or of its inputs where it makes none (comparisons)."""
    import onnx

    from edgewise.exporter.graph.edit import element_types

    types = element_types(model)
    names = {onnx.TensorProto.FLOAT: FLOAT, onnx.TensorProto.FLOAT16: HALF}
    found: Pins = {}
    for node in model.graph.node:
        for tensors in (node.output, node.input):
            kinds = {names[types[name]] for name in tensors if types.get(name) in names}
            if kinds:
                found[node.name] = FLOAT if FLOAT in kinds else HALF
                break
    return found


def _is_coded(makers: Mapping[str, onnx.NodeProto], tensor: str) -> bool:
    return tensor in makers and makers[tensor].op_type == "DequantizeLinear"


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
    return node.op_type in _WEIGHTED and (node.input[1] in fixed or _is_coded(makers, node.input[1]))


def _upstream(model: onnx.ModelProto, operator: str) -> set[str]:
    """Names of the nodes from which a way leads to such an operator."""
    needed: set[str] = set()
    names: set[str] = set()
    for node in reversed(model.graph.node):
        leads = any(name in needed for name in node.output)
        if leads:
            names.add(node.name)
        if leads or node.op_type == operator:
            needed.update(name for name in node.input if name)
    return names


def apply_pins(trt: Any, network: Any, pins: Pins) -> None:
    """Set precision and output types of the layers of a weakly typed network.

    The parser splits some operators into several layers and says of some of them no origin; such a layer
    between two others takes float32 where one of them has it.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    wanted = [pins.get(onnx_name(layer)) for layer in layers]
    for index, layer in enumerate(layers):
        if not layer.metadata and FLOAT in _neighbours(layers, wanted, index):
            wanted[index] = FLOAT
    kinds, floats = trt.LayerType, (trt.DataType.FLOAT, trt.DataType.HALF)
    unpinned = [getattr(kinds, name) for name in _UNPINNED if hasattr(kinds, name)]
    for layer, name in zip(layers, wanted, strict=True):
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        inputs = [layer.get_input(number) for number in range(layer.num_inputs)]
        carries = any(tensor is not None and tensor.dtype in floats for tensor in (*outputs, *inputs))
        if name is None or layer.type in unpinned or not carries:
            continue
        dtype = getattr(trt.DataType, name)
        layer.precision = dtype
        for number, tensor in enumerate(outputs):
            if tensor.dtype in floats and not tensor.is_network_output:
                layer.set_output_type(number, dtype)


def _neighbours(layers: list[Any], wanted: list[str | None], index: int) -> tuple[str | None, ...]:
    """What the next layers of known origin on both sides want."""
    before = next((wanted[place] for place in range(index - 1, -1, -1) if layers[place].metadata), None)
    behind = next((wanted[place] for place in range(index + 1, len(layers)) if layers[place].metadata), None)
    return before, behind

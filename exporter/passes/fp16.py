"""FP16 as a property of the graph: few, large islands of float16 around the weighted operators.

Convolutions and matrix products with weights become float16, and so does what lies between two of them:
activations, additions, pooling, resizing; and what lies before a product of a single row, which itself stays
float32. Decoding (softmax, boxes, TopK, suppression, mask assembly) stays float32, inputs and outputs too. A
DeformConv samples in float32; its weights become float16, and so does its product where it is lowered to a
GridSample and a convolution. A weighted operator stays float32 where its numbers say so: activations beyond
the calibrated limit, weights that float16 cannot hold, a sum over too many terms. Each one is reported with
its reason. No operator becomes float16 that reads a constant which float16 loses, such as the 1e-12 that
keeps a sum from 0. A Cast stands only where a tensor crosses the border of an island, once per tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgewise.calibration.graph import multiplies_one_row, weights_as_inputs
from edgewise.exporter.graph.conditions import no_control_flow
from edgewise.exporter.graph.edit import (
    attribute,
    constants,
    consumers,
    drop_attribute,
    drop_unused_initialisers,
    drop_value_info,
    element_types,
    producers,
    shapes,
    unique_name,
)
from edgewise.exporter.graph.passes import Pass
from edgewise.runtime.contract.manifest import KeptNode, Precision

if TYPE_CHECKING:
    import onnx

Ranges = Mapping[str, tuple[float, float]]
"""Tensor name -> calibrated (minimum, maximum)."""

LARGEST_FLOAT16 = 65504.0

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "DeformConv")
"""MatMul only with a constant factor."""

SAMPLING = ("DeformConv",)
"""Weighted operators whose activations stay float32: they hold positions. Only their weights are narrow, and
a Cast behind those says so."""

EPILOGUES = ("Relu", "LeakyRelu", "PRelu", "Clip")
"""Run inside the weighted operator's kernel, so they take its type."""

MOVERS = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Identity")
"""Move values without arithmetic: exact in any type, so the border goes behind them."""

BETWEEN = (
    "Add",
    "Sub",
    "Mul",
    "BatchNormalization",
    "MaxPool",
    "AveragePool",
    "Resize",
    "Sigmoid",
    "Tanh",
    "HardSwish",
    "Pad",
)
"""Float16 only between two weighted operators: a score's Sigmoid at the end would lose resolution near 1."""

CHOOSERS = ("Split", "Slice", "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth")
"""Move values too, but cut a head into its parts: behind the last weighted operator they belong to the
decoding, so that one Cast stands before them and not one behind each part."""

_FLOAT_INPUTS = {
    **dict.fromkeys(("Resize", "Reshape", "Squeeze", "Unsqueeze"), (0,)),
    **dict.fromkeys(("Split", "Slice", "Gather", "Expand", "Tile"), (0,)),
    "Pad": (0, 2),
}
"""Inputs that carry values; all inputs where an operator is not listed."""


@dataclass(frozen=True)
class Fp16Limits:
    """When a weighted operator stays float32.

    Attributes:
        largest_activation: Largest calibrated |x| of its output. Above it float16 steps exceed 0.25, and
            input that is brighter than the calibration set comes near the overflow.
        largest_input: Largest calibrated |x| of what it reads: an eighth of where float16 ends.
        weight_error: Largest relative error that rounding to float16 may cause in the weights (L2, per output
            channel) and in an element of any other constant; rounding of normal numbers gives about 2e-4,
            more means subnormals or zeros.
        deepest_sum: Most products in one output value.
    """

    largest_activation: float = 512.0
    largest_input: float = 8192.0
    weight_error: float = 2e-3
    deepest_sum: int = 16384


@dataclass(frozen=True)
class Fp16Choice:
    """Which nodes become float16 (by name), and which weighted ones stay float32 and why."""

    narrow: frozenset[str]
    kept: tuple[KeptNode, ...]


def fp16_pass(choice: Fp16Choice, *, tolerance: float) -> Pass:
    """The pass that types the chosen nodes as float16; judged by `tolerance` on the compared tensors."""
    return Pass(
        name="fp16",
        apply=lambda model: narrow_nodes(model, choice.narrow),
        requires=(no_control_flow,),
        ensures=(float32_at_the_border,),
        tolerance=tolerance,
        detail=f"{len(choice.narrow)} nodes in float16, {len(choice.kept)} weighted nodes kept in float32",
    )


def float32_at_the_border(model: onnx.ModelProto) -> str | None:
    """No graph input or output is float16."""
    import onnx

    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
            return f"{value.name!r} is float16"
    return None


def choose_fp16(
    model: onnx.ModelProto,
    ranges: Ranges,
    *,
    probes: Collection[str] = (),
    only: Collection[str] | None = None,
    keep: Mapping[str, str] | None = None,
    limits: Fp16Limits | None = None,
) -> Fp16Choice:
    """Choose the float16 islands of a float32 model.

    Args:
        model: Its nodes have unique names.
        ranges: Calibrated ranges; every output of a weighted operator must be among them.
        probes: Tensors that stay float32 for their readers outside of islands.
        only: Consider these weighted nodes only (the kept nodes of an INT8 graph).
        keep: Weighted nodes that stay float32 whatever their numbers say, each with its reason.
        limits: Numeric limits; None takes the defaults.
    """
    keep = keep or {}
    limits = limits or Fp16Limits()
    values, known = constants(model), shapes(model)
    kept: list[KeptNode] = []
    narrow: set[str] = set()
    rows: set[str] = set()
    for node in model.graph.node:
        if not _is_weighted(node, values) or (only is not None and node.name not in only):
            continue
        reason = keep.get(node.name) or _reason_to_stay(node, values, ranges, limits)
        if multiplies_one_row(node, known.get(node.output[0])):
            reason = reason or "multiplies a single row: compilers fold it into the float32 kernels around it"
            rows.add(node.name)
        if reason is None:
            narrow.add(node.name)
        else:
            kept.append(KeptNode(node=node.name, precision=Precision.FP32, reason=reason))
    sampling = {node.name for node in model.graph.node if node.op_type in SAMPLING}
    islands = _grow(model, narrow - sampling, rows, values, ranges, probes, limits)
    return Fp16Choice(frozenset(islands | narrow), tuple(kept))


def _is_weighted(node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> bool:
    if node.op_type not in WEIGHTED:
        return False
    weight = values.get(node.input[1])
    return weight is not None and weight.dtype == np.float32


def _reason_to_stay(
    node: onnx.NodeProto, values: Mapping[str, np.ndarray], ranges: Ranges, limits: Fp16Limits
) -> str | None:
    name = node.output[0]
    if name not in ranges:
        return f"the calibration table has no range for its output {name}"
    largest = max(abs(bound) for bound in ranges[name])
    if largest > limits.largest_activation:
        return f"calibrated activations reach {largest:.4g}, the limit is {limits.largest_activation:g}"
    read = max((abs(bound) for bound in ranges.get(node.input[0], ())), default=0.0)
    if read > limits.largest_input:
        return f"what it reads reaches {read:.4g}, the limit is {limits.largest_input:g}"
    weight = values[node.input[1]]
    if (reach := float(np.abs(weight).max(initial=0.0))) > LARGEST_FLOAT16:
        return f"{node.input[1]} reaches {reach:.4g}, float16 ends at {LARGEST_FLOAT16:g}"
    lost = _lost_constant(node, values, limits, besides=node.input[1])
    if lost is not None:
        return lost
    error = weight_rounding_error(weight, _output_axis(node))
    if error > limits.weight_error:
        return f"rounding its weights to float16 loses {error:.2g} of a channel"
    depth = weight.size // max(1, _output_channels(node, weight))
    if depth > limits.deepest_sum:
        return f"each value sums {depth} products, the limit is {limits.deepest_sum}"
    return None


def _lost_constant(
    node: onnx.NodeProto, values: Mapping[str, np.ndarray], limits: Fp16Limits, besides: str = ""
) -> str | None:
    """Which constant of a node float16 cannot hold, in words; weights (`besides`) have a measure of their
    own."""
    for position, name in enumerate(node.input):
        value = values.get(name)
        if (
            value is None
            or value.dtype != np.float32
            or name == besides
            or not _carries_values(node, position)
        ):
            continue
        finite = value[np.isfinite(value)].astype(np.float64)
        reach = float(np.abs(finite).max(initial=0.0))
        if reach > LARGEST_FLOAT16:
            return f"{name} reaches {reach:.4g}, float16 ends at {LARGEST_FLOAT16:g}"
        error = weight_rounding_error(finite.reshape(-1, 1), 0) if finite.size else 0.0
        if error > limits.weight_error:
            return f"rounding {name} to float16 loses {error:.2g} of a value"
    return None


def weight_rounding_error(weight: np.ndarray, axis: int) -> float:
    """Worst relative L2 error of a channel when rounding to float16.

    Channels weaker than a thousandth of the strongest are measured against that thousandth.
    """
    rows = np.moveaxis(weight.astype(np.float64), axis, 0).reshape(weight.shape[axis], -1)
    lost = np.linalg.norm(rows - rows.astype(np.float16).astype(np.float64), axis=1)
    strength = np.linalg.norm(rows, axis=1)
    strongest = float(strength.max(initial=0.0))
    if strongest == 0.0:
        return 0.0
    return float((lost / np.maximum(strength, 1e-3 * strongest)).max())


def _output_axis(node: onnx.NodeProto) -> int:
    if node.op_type in ("Conv", "DeformConv"):
        return 0
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else -1


def _output_channels(node: onnx.NodeProto, weight: np.ndarray) -> int:
    groups = attribute(node, "group", 1) if node.op_type == "ConvTranspose" else 1
    return int(weight.shape[_output_axis(node)]) * groups


def _grow(
    model: onnx.ModelProto,
    weighted: set[str],
    rows: set[str],
    values: Mapping[str, np.ndarray],
    ranges: Ranges,
    probes: Collection[str],
    limits: Fp16Limits,
) -> set[str]:
    """The weighted nodes and what joins their islands.

    A joining node reads float16 only. Epilogues and movers join behind an island; the others only on the way
    to another weighted node, or to a product of a single row (`rows`): an addition that is left in float32
    before one would draw the convolution into its float32 kernel. Removing a node may cut off those behind
    it, hence the rounds.
    """
    nodes = list(model.graph.node)
    makers, readers = producers(nodes), consumers(nodes)
    outside = {
        node.name
        for node in nodes
        if node.op_type in (*EPILOGUES, *BETWEEN, *CHOOSERS, *MOVERS)
        and (not _within(node, ranges, limits) or _lost_constant(node, values, limits) is not None)
    }
    while True:
        island = set(weighted)
        for node in nodes:
            joins = node.op_type in (*EPILOGUES, *BETWEEN, *CHOOSERS) or (
                node.op_type in MOVERS and not any(name in probes for name in node.input)
            )
            if not joins or node.name in outside:
                continue
            sources = [makers.get(name) for name in _activations(node, values)]
            if sources and all(source is not None and source.name in island for source in sources):
                island.add(node.name)
        between = _leads_to(nodes, readers, weighted | rows, island)
        loose = {
            node.name
            for node in nodes
            if node.name in island and node.op_type in (*BETWEEN, *CHOOSERS) and node.name not in between
        }
        if not loose:
            return island
        outside |= loose


def _leads_to(
    nodes: Sequence[onnx.NodeProto],
    readers: Mapping[str, list[onnx.NodeProto]],
    goals: set[str],
    island: set[str],
) -> set[str]:
    """The nodes of the islands from which a way inside the islands leads to a goal."""
    leading: set[str] = set()
    for node in reversed(nodes):
        behind = [reader for name in node.output for reader in readers.get(name, [])]
        if node.name in island and any(reader.name in goals or reader.name in leading for reader in behind):
            leading.add(node.name)
    return leading


def _within(node: onnx.NodeProto, ranges: Ranges, limits: Fp16Limits) -> bool:
    bounds = [bound for name in node.output for bound in ranges.get(name, ())]
    return max(map(abs, bounds), default=0.0) <= limits.largest_activation


def _activations(node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> list[str]:
    """The inputs that carry values and are no constants."""
    positions = _FLOAT_INPUTS.get(node.op_type, range(len(node.input)))
    names = [node.input[position] for position in positions if position < len(node.input)]
    return [name for name in names if name and name not in values]


# ---------------------------------------------------------------- rewriting


def narrow_nodes(model: onnx.ModelProto, narrow: Collection[str]) -> onnx.ModelProto:
    """Type the named nodes as float16 and put Casts at the borders; edits and returns `model`.

    A tensor that any float32 node reads, or that is an output, keeps its name on the float32 side.
    """
    import onnx

    if not narrow:
        return model
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    types = element_types(model)
    values = constants(model)
    nodes = list(model.graph.node)
    outputs = {value.name for value in model.graph.output}
    readers = consumers(nodes)
    sampling = {node.name for node in nodes if node.op_type in SAMPLING and node.name in narrow}
    narrow = set(narrow) - sampling
    made_half = {
        name for node in nodes if node.name in narrow for name in node.output if types.get(name) == single
    }
    # Where both sides read a tensor that an island makes, the float16 one gets a new name.
    half_names: dict[str, str] = {}
    for name in made_half:
        wide = name in outputs or any(reader.name not in narrow for reader in readers.get(name, []))
        half_names[name] = unique_name(model, f"{name}_fp16") if wide else name

    rewritten: list[onnx.NodeProto] = []
    constants_half: dict[str, str] = {}
    widened: dict[str, str] = {}
    for node in nodes:
        if node.name in sampling:
            for position in (1, 3):
                name = node.input[position] if position < len(node.input) else ""
                if name not in values:
                    continue
                constants_half.setdefault(name, unique_name(model, f"{name}_fp16"))
                if name not in widened:
                    widened[name] = unique_name(model, f"{name}_wide")
                    rewritten.append(_cast(constants_half[name], widened[name], single))
                node.input[position] = widened[name]
        if node.name not in narrow:
            rewritten.append(node)
            continue
        for position, name in enumerate(node.input):
            if not name or types.get(name) != single or not _carries_values(node, position):
                continue
            if name in values:
                constants_half.setdefault(name, unique_name(model, f"{name}_fp16"))
                node.input[position] = constants_half[name]
                continue
            if name not in half_names:
                half_names[name] = unique_name(model, f"{name}_fp16")
                rewritten.append(_cast(name, half_names[name], half))
            node.input[position] = half_names[name]
        rewritten.append(node)
        if node.op_type == "Cast":
            drop_attribute(node, "to")
            node.attribute.append(onnx.helper.make_attribute("to", half))
        for position, name in enumerate(node.output):
            if name in made_half and half_names[name] != name:
                node.output[position] = half_names[name]
                rewritten.append(_cast(half_names[name], name, single))
    for name, half_name in constants_half.items():
        stored = values[name].astype(np.float16)
        model.graph.initializer.append(onnx.numpy_helper.from_array(stored, half_name))
    copies = [type(node).FromString(node.SerializeToString()) for node in rewritten]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    drop_unused_initialisers(model)
    drop_value_info(model, [*half_names, *half_names.values()])
    inferred = onnx.shape_inference.infer_shapes(weights_as_inputs(model), strict_mode=True).graph
    for known, found in (
        (model.graph.value_info, inferred.value_info),
        (model.graph.output, inferred.output),
    ):
        del known[:]
        known.extend(found)
    return model


def _carries_values(node: onnx.NodeProto, position: int) -> bool:
    return position in _FLOAT_INPUTS.get(node.op_type, range(len(node.input)))


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=kind)

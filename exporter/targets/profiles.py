"""What each target refuses, as data; a lowered graph is checked against it before anything is written.

The rules are those of NVIDIA's parsers and of TensorRT-RTX's compiler (TensorRT 8.6 to 11, TensorRT-RTX 1.7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgewise.exporter.graph.conditions import opset_of, uint8_is_cast_first
from edgewise.exporter.graph.edit import attribute, constants, element_types, shapes
from edgewise.runtime.contract.manifest import Target
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx

LARGEST_TOP_K = 3840


@dataclass(frozen=True)
class GraphFacts:
    """What the rules look up: constants, fixed shapes and element types by tensor name."""

    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, int]


Rule = Callable[["onnx.NodeProto", GraphFacts], "str | None"]
"""Why a node is refused; None where it is taken."""


@dataclass(frozen=True)
class TargetProfile:
    """One target's limits.

    Attributes:
        newest_opset: The newest default operator set that its oldest supported release parses.
        refused: Operator -> why no release takes it.
        rules: Operator -> rules on its use.
        cast_first: A uint8 input may feed nothing but Cast.
    """

    target: Target
    newest_opset: int
    refused: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    cast_first: bool = False


def profile_of(target: Target) -> TargetProfile:
    """The profile of a target."""
    return _PROFILES[target]


def check_target(model: onnx.ModelProto, target: Target) -> None:
    """Raise ExportError naming the first node that the target refuses, and why."""
    profile = profile_of(target)
    for node, problem in refusals(model, profile):
        raise ExportError(
            f"{target.value} refuses {node.op_type}: {problem}",
            where=node.name or ", ".join(node.output),
            hint="write it with other operators in the deploy module, or export without this target",
        )
    if opset_of(model) > profile.newest_opset:
        raise ExportError(
            f"{target.value} reads operator sets up to {profile.newest_opset}, "
            f"the graph uses {opset_of(model)}",
            hint="the provenance step `opset-17` says which operator needs the newer set",
        )
    problem = uint8_is_cast_first(model) if profile.cast_first else None
    if problem is not None:
        raise ExportError(problem, where=target.value, hint="cast to float before anything else")


def refusals(model: onnx.ModelProto, profile: TargetProfile) -> Iterable[tuple[onnx.NodeProto, str]]:
    """Every node that the profile refuses with the reason, in graph order."""
    facts = GraphFacts(constants(model), shapes(model), element_types(model))
    for node in model.graph.node:
        if node.op_type in profile.refused:
            yield node, profile.refused[node.op_type]
            continue
        for rule in profile.rules.get(node.op_type, ()):
            problem = rule(node, facts)
            if problem is not None:
                yield node, problem
                break


# ---------------------------------------------------------------- rules


def _small_top_k(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    count = facts.constants.get(node.input[1])
    if count is None:
        return "K must be a constant"
    if int(count.ravel()[0]) > LARGEST_TOP_K:
        return f"K is {int(count.ravel()[0])}, the limit is {LARGEST_TOP_K}"
    return None if attribute(node, "sorted", 1) == 1 else "the result must be sorted"


def _plain_resize(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    if attribute(node, "antialias", 0):
        return "antialiasing is not supported"
    if attribute(node, "coordinate_transformation_mode", b"half_pixel") in (
        b"half_pixel_symmetric",
        b"tf_crop_and_resize",
    ):
        return "this coordinate rule is not supported"
    if attribute(node, "keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return "it must stretch"
    computed = [name for name in node.input[2:4] if name and name not in facts.constants]
    return f"its {computed[0]} must be a constant" if computed else None


def _fixed_range(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    computed = [name for name in node.input if name not in facts.constants]
    return f"its bound {computed[0]} depends on the data; take a fixed range" if computed else None


def _plain_scatter(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    return None if attribute(node, "reduction", b"none") == b"none" else "reductions are not supported"


def _plain_pool(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    if len([name for name in node.output if name]) > 1:
        return "indices are not supported"
    if any(step != 1 for step in attribute(node, "dilations", [])):
        return "dilations are not supported"
    return None


def _four_dimensional(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    shape = facts.shapes.get(node.input[0])
    return None if shape is not None and len(shape) == 4 else "the input must have four dimensions"


def _signed_codes(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    import onnx

    zero = node.input[2] if len(node.input) > 2 else ""
    # Without a zero point QuantizeLinear makes uint8, and DequantizeLinear takes the type of what it reads.
    kind = facts.types.get(zero or (node.input[0] if node.op_type == "DequantizeLinear" else ""))
    if kind != onnx.TensorProto.INT8:
        return "only signed 8-bit codes keep their range (uint8 is silently read as int8, int32 is refused)"
    if zero and (zero not in facts.constants or facts.constants[zero].any()):
        return "the zero point must be a constant 0"
    return None


def _float_bounds(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    import onnx

    kind = facts.types.get(node.input[0])
    wide = (onnx.TensorProto.DOUBLE, onnx.TensorProto.UINT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16)
    return "its input type has no kernel" if kind in wide else None


_DATA_DEPENDENT = "its output shape depends on the data; write it with TopK and fixed slots"
_NO_PARSER = "no parser knows it"

_NVIDIA_REFUSED: dict[str, str] = {
    **dict.fromkeys(("NonZero", "NonMaxSuppression", "Unique", "Compress"), _DATA_DEPENDENT),
    **dict.fromkeys(
        (
            "AffineGrid",
            "BitShift",
            "BitwiseAnd",
            "BitwiseNot",
            "BitwiseOr",
            "BitwiseXor",
            "CenterCropPad",
            "Col2Im",
            "ConcatFromSequence",
            "ConvInteger",
            "DFT",
            "Det",
            "DynamicQuantizeLinear",
            "MatMulInteger",
            "MaxRoiPool",
            "MaxUnpool",
            "QLinearConv",
            "QLinearMatMul",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SplitToSequence",
        ),
        _NO_PARSER,
    ),
    "DeformConv": "only a plugin runs it; `lower_for` writes its GridSample form",
    "Attention": "it builds only where a fused kernel exists; export the decomposed form",
}

_NVIDIA_RULES: dict[str, tuple[Rule, ...]] = {
    "TopK": (_small_top_k,),
    "Range": (_fixed_range,),
    "Resize": (_plain_resize,),
    "ScatterND": (_plain_scatter,),
    "ScatterElements": (_plain_scatter,),
    "MaxPool": (_plain_pool,),
    "GridSample": (_four_dimensional,),
    "QuantizeLinear": (_signed_codes,),
    "DequantizeLinear": (_signed_codes,),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min", "Clip"), (_float_bounds,)),
}

_PROFILES = {
    Target.ONNXRUNTIME: TargetProfile(Target.ONNXRUNTIME, newest_opset=22),
    Target.TENSORRT: TargetProfile(
        Target.TENSORRT, newest_opset=20, refused=_NVIDIA_REFUSED, rules=_NVIDIA_RULES, cast_first=True
    ),
    Target.TENSORRT_RTX: TargetProfile(
        Target.TENSORRT_RTX,
        newest_opset=22,
        refused={
            **_NVIDIA_REFUSED,
            "RoiAlign": "only a plugin runs it; `lower_for` writes its GridSample form",
        },
        rules=_NVIDIA_RULES,
        cast_first=True,
    ),
}

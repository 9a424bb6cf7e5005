"""Rules on the use of one operator, of NVIDIA's parsers and compilers; a profile says who has which.

A rule looks at one node and says what is wrong with it, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgewise.exporter.graph.edit import attribute
from edgewise.exporter.passes.raise_opset import HALF_SCALES_OPSET

if TYPE_CHECKING:
    import onnx

LARGEST_TOP_K = 3840
LARGEST_INT32 = np.iinfo(np.int32).max


@dataclass(frozen=True)
class GraphFacts:
    """What the rules look up: constants, fixed shapes and element types by tensor name, the operator set."""

    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, int]
    opset: int


@dataclass(frozen=True)
class Rule:
    """A named condition on a node.

    Attributes:
        name: As it stands in errors.
        problem: Why a node breaks it; None where it does not.
    """

    name: str
    problem: Callable[[onnx.NodeProto, GraphFacts], str | None]


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


def _samples_in_one_type(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    values, grid = (facts.types.get(name) for name in node.input[:2])
    return None if values == grid else "values and positions must be of one type"


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


def _three_inputs(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    if len(node.input) < 3 or not node.input[2]:
        return "it reads three inputs and this has no zero point"
    zero, scale = (facts.constants.get(node.input[place]) for place in (2, 1))
    if zero is not None and scale is not None and zero.size != scale.size:
        return f"{zero.size} zero points for {scale.size} scales"
    return None


def _scale_of_its_values(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    real = node.input[0] if node.op_type == "QuantizeLinear" else node.output[0]
    return (
        None
        if facts.types.get(real) == facts.types.get(node.input[1])
        else (f"the type of its scale is not that of {real}")
    )


def _scale_of_its_set(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    import onnx

    if facts.types.get(node.input[1]) != onnx.TensorProto.FLOAT16 or facts.opset >= HALF_SCALES_OPSET:
        return None
    return f"scales in float16 begin with operator set {HALF_SCALES_OPSET}, the graph uses {facts.opset}"


def _float_scale(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    import onnx

    scale = facts.constants.get(node.input[1])
    if facts.types.get(node.input[1]) != onnx.TensorProto.FLOAT:
        return "scales are read as float32 whatever their type is"
    return None if scale is not None and (scale > 0).all() else "its scale must be a positive constant"


def _stated_sampling(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    if attribute(node, "sampling_ratio", 0) < 1:
        return "sampling_ratio must be stated: its parser takes 1 where ONNX goes by the box's size"
    return None


def _plain_einsum(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    equation = attribute(node, "equation", b"").decode()
    terms = [term.strip() for term in equation.split("->")[0].split(",")]
    if "..." in equation:
        return "an ellipsis is not supported"
    return "a diagonal is not supported" if any(len(set(term)) < len(term) for term in terms) else None


def _known_types(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    import onnx

    kind = facts.types.get(node.input[0])
    wide = (onnx.TensorProto.DOUBLE, onnx.TensorProto.UINT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16)
    return "its input type has no kernel" if kind in wide else None


def _fits_int32(node: onnx.NodeProto, facts: GraphFacts) -> str | None:
    for name in node.input:
        value = facts.constants.get(name)
        if value is not None and value.dtype == np.int64 and np.abs(value).max(initial=0) > LARGEST_INT32:
            return f"INT64 becomes INT32 and {name} does not fit"
    return None


SMALL_TOP_K = Rule("small sorted TopK", _small_top_k)
PLAIN_RESIZE = Rule("plain Resize", _plain_resize)
FIXED_RANGE = Rule("fixed Range", _fixed_range)
PLAIN_SCATTER = Rule("plain scatter", _plain_scatter)
PLAIN_POOL = Rule("plain MaxPool", _plain_pool)
FOUR_DIMENSIONAL = Rule("four dimensions", _four_dimensional)
SAMPLES_IN_ONE_TYPE = Rule("samples in one type", _samples_in_one_type)
SIGNED_CODES = Rule("signed codes", _signed_codes)
THREE_INPUTS = Rule("three inputs", _three_inputs)
SCALE_OF_ITS_VALUES = Rule("scale of its values' type", _scale_of_its_values)
SCALE_OF_ITS_SET = Rule("scale of its operator set", _scale_of_its_set)
FLOAT_SCALE = Rule("float32 scale", _float_scale)
STATED_SAMPLING = Rule("stated sampling_ratio", _stated_sampling)
PLAIN_EINSUM = Rule("plain Einsum", _plain_einsum)
KNOWN_TYPES = Rule("known types", _known_types)
FITS_INT32 = Rule("INT64 within INT32", _fits_int32)

"""What an operator is to a compiler that fuses: free, part of a kernel, or a kernel of its own."""

from __future__ import annotations

import enum

import onnx

from edgewise.exporter.graph.edit import attribute


class Role(enum.Enum):
    """How far an operator fuses.

    ELEMENTWISE and MOVING operators are parts of whatever kernel; a kernel has at most one operator of the
    others. WEIGHTED: products, which take elementwise operators behind them. REDUCING: takes them on both
    sides. WINDOW: pooling and resizing, which read and write codes as they are. ALONE: nothing fuses with it.
    """

    ELEMENTWISE = "elementwise"
    MOVING = "moving"
    WEIGHTED = "weighted"
    REDUCING = "reducing"
    WINDOW = "window"
    ALONE = "alone"


def role_of(operator: str) -> Role:
    """The role of an operator; what nobody listed fuses with nothing."""
    return _ROLES.get(operator, Role.ALONE)


VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
"""The same bytes under another shape."""

RETYPES = frozenset({"Cast", "DequantizeLinear"})
"""Done anew by every kernel that reads them, since that costs less than their result."""

CHANGE_TYPE = frozenset({"QuantizeLinear", *RETYPES})

PICKS = frozenset({"Slice", "Split", "Gather", "GatherElements", "GatherND"})
"""Read of their first input what they give and no more."""

COMMUTE_WITH_ROUNDING = frozenset(
    {"MaxPool", "Concat", "Transpose", "Slice", "DepthToSpace", "SpaceToDepth", *VIEWS}
)
"""Rounding to codes may stand before or behind them; a compiler puts it before."""


def commutes_with_rounding(node: onnx.NodeProto) -> bool:
    """Whether the node only moves values or chooses among them."""
    nearest = node.op_type == "Resize" and attribute(node, "mode", b"nearest") == b"nearest"
    return nearest or node.op_type in COMMUTE_WITH_ROUNDING


_ROLES = {
    **dict.fromkeys(
        (
            *(
                "Abs",
                "Acos",
                "Asin",
                "Atan",
                "Ceil",
                "Cos",
                "Erf",
                "Exp",
                "Floor",
                "Log",
                "Neg",
                "Not",
                "Reciprocal",
            ),
            *("Round", "Sign", "Sin", "Sqrt", "IsInf", "IsNaN"),
            *(
                "Add",
                "Sub",
                "Mul",
                "Div",
                "Mod",
                "Pow",
                "Max",
                "Min",
                "Sum",
                "Mean",
                "And",
                "Or",
                "Xor",
                "Where",
            ),
            *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
            *(
                "Relu",
                "LeakyRelu",
                "PRelu",
                "Clip",
                "Sigmoid",
                "HardSigmoid",
                "HardSwish",
                "Tanh",
                "Elu",
                "Selu",
            ),
            *("Celu", "Gelu", "Mish", "Softplus", "Softsign", "ThresholdedRelu", "BatchNormalization"),
            *("Cast", "QuantizeLinear", "DequantizeLinear", "OneHot", "Trilu"),
        ),
        Role.ELEMENTWISE,
    ),
    **dict.fromkeys(
        (
            *(
                "Transpose",
                "Slice",
                "Split",
                "Concat",
                "Expand",
                "Tile",
                "Pad",
                "DepthToSpace",
                "SpaceToDepth",
            ),
            *("Gather", "GatherElements", "GatherND", *VIEWS),
        ),
        Role.MOVING,
    ),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"), Role.WEIGHTED),
    **dict.fromkeys(
        (
            *("ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2"),
            *(
                "ReduceSumSquare",
                "ReduceLogSum",
                "ReduceLogSumExp",
                "ArgMax",
                "ArgMin",
                "Softmax",
                "LogSoftmax",
            ),
            *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization"),
        ),
        Role.REDUCING,
    ),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"), Role.WINDOW),
}

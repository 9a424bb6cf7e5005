"""What each release line reads, as data; a lowered graph is checked against every line that reads the file.

The oldest line of TensorRT is 8.6 (JetPack 6.0); 10.3 is that of JetPack 6.1 and 6.2, 10.13 that of
JetPack 7, 11 the newest. Lines that read the same graph share a file, which breaks no rule of any of them;
where a newer line reads what an older one does not, each has a file of its own
(`edgewise.exporter.targets.lowering.lower_for`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgewise.exporter.graph.conditions import opset_of, uint8_is_cast_first, uint8_is_cast_last
from edgewise.exporter.graph.edit import constants, element_types, shapes
from edgewise.exporter.targets import rules
from edgewise.exporter.targets.rules import GraphFacts, Rule
from edgewise.runtime.contract.manifest import Target
from edgewise.runtime.engines.onnxruntime import DEFORM_CONV_SINCE
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx

Rules = Mapping[str, tuple[Rule, ...]]


@dataclass(frozen=True)
class Release:
    """One line of releases.

    Attributes:
        name: As it stands in errors.
        target: Whose files it reads.
        since: Its oldest release; empty for the oldest line of a target.
        newest_opset: The newest default operator set that it parses.
        refused: Operator -> why it is not taken.
        rules: Operator -> rules on its use.
        everywhere: Rules on every node but Slice, whose bounds are clamped.
        cast_first: A uint8 input may feed nothing but Cast, and a uint8 output comes from nothing else.
        plugins: Operators that its parser takes from the plugin registry, which must be filled before
            (`edgewise.runtime.engines.tensorrt_api.register_plugins`).
        half_scales: It reads scales of codes in float16, so that float16 lies between two quantised nodes.
        required: A graph that it cannot read is no graph for its target; else the target's files begin with a
            newer line.
    """

    name: str
    target: Target
    newest_opset: int
    since: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    rules: Rules = field(default_factory=dict)
    everywhere: tuple[Rule, ...] = ()
    cast_first: bool = False
    plugins: frozenset[str] = frozenset()
    half_scales: bool = False
    required: bool = True


def releases_of(target: Target) -> tuple[Release, ...]:
    """Every line that reads a target's files, oldest first."""
    return tuple(release for release in RELEASES if release.target is target)


def check_release(model: onnx.ModelProto, release: Release) -> None:
    """Hold a lowered graph to one release line.

    Raises:
        ExportError: The first node that breaks a rule, with the rule and the release.
    """
    for node, problem in refusals(model, release):
        raise ExportError(
            f"{release.name} refuses {node.op_type}: {problem}",
            where=node.name or ", ".join(node.output),
            hint="write it with other operators in the deploy module, "
            f"or export without {release.target.value}",
        )
    if opset_of(model) > release.newest_opset:
        raise ExportError(
            f"{release.name} reads operator sets up to {release.newest_opset}, "
            f"the graph uses {opset_of(model)}",
            hint="the provenance step `opset-17` says which operator needs the newer set",
        )
    if release.cast_first:
        problem = uint8_is_cast_first(model)
        if problem is not None:
            raise ExportError(problem, where=release.name, hint="cast to float before anything else")
        problem = uint8_is_cast_last(model)
        if problem is not None:
            raise ExportError(problem, where=release.name, hint="compute in int32, and cast last")


def reads(release: Release, model: onnx.ModelProto) -> bool:
    """Whether a release line reads a lowered graph."""
    try:
        check_release(model, release)
    except ExportError:
        return False
    return True


def refusals(model: onnx.ModelProto, release: Release) -> Iterable[tuple[onnx.NodeProto, str]]:
    """Every node that a release refuses with the reason, in graph order."""
    facts = GraphFacts(constants(model), shapes(model), element_types(model), opset_of(model))
    for node in model.graph.node:
        if node.op_type in release.refused:
            yield node, release.refused[node.op_type]
            continue
        everywhere = () if node.op_type == "Slice" else release.everywhere
        for rule in (*release.rules.get(node.op_type, ()), *everywhere):
            problem = rule.problem(node, facts)
            if problem is not None:
                yield node, f"{problem} (rule `{rule.name}`)"
                break


# ---------------------------------------------------------------- the data

_DATA_DEPENDENT = "its output shape depends on the data; write it with TopK and fixed slots"
_NO_PARSER = "no parser knows it"

_REFUSED: dict[str, str] = {
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

_REFUSED_8 = {
    **_REFUSED,
    **dict.fromkeys(
        (
            "Bernoulli",
            "BlackmanWindow",
            "CastLike",
            "Hardmax",
            "HammingWindow",
            "HannWindow",
            "MelWeightMatrix",
            "Multinomial",
            "STFT",
        ),
        "its parser does not know it",
    ),
}

_CODES = (rules.SIGNED_CODES, rules.THREE_INPUTS, rules.SCALE_OF_ITS_VALUES, rules.SCALE_OF_ITS_SET)

_RULES: Rules = {
    "TopK": (rules.SMALL_TOP_K,),
    "Range": (rules.FIXED_RANGE,),
    "Resize": (rules.PLAIN_RESIZE,),
    "ScatterND": (rules.PLAIN_SCATTER,),
    "ScatterElements": (rules.PLAIN_SCATTER,),
    "MaxPool": (rules.PLAIN_POOL,),
    "GridSample": (rules.FOUR_DIMENSIONAL, rules.SAMPLES_IN_ONE_TYPE),
    "QuantizeLinear": _CODES,
    "DequantizeLinear": _CODES,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min", "Clip"), (rules.KNOWN_TYPES,)),
}

_ROI_ALIGN: Rules = {"RoiAlign": (rules.STATED_SAMPLING,)}

_RULES_8: Rules = {
    **_RULES,
    **_ROI_ALIGN,
    "QuantizeLinear": (*_CODES, rules.FLOAT_SCALE),
    "DequantizeLinear": (*_CODES, rules.FLOAT_SCALE),
    "Einsum": (rules.PLAIN_EINSUM,),
}

_ROI_ALIGN_PLUGIN = frozenset({"RoiAlign"})

RELEASES: tuple[Release, ...] = (
    Release(
        f"ONNX Runtime before {DEFORM_CONV_SINCE}",
        Target.ONNXRUNTIME,
        newest_opset=22,
        refused={"DeformConv": "it has no kernel for it; `lower_for` writes its GridSample form"},
        required=False,
    ),
    Release("ONNX Runtime", Target.ONNXRUNTIME, newest_opset=22, since=DEFORM_CONV_SINCE),
    Release(
        "TensorRT 8.6",
        Target.TENSORRT,
        newest_opset=17,
        refused=_REFUSED_8,
        rules=_RULES_8,
        everywhere=(rules.FITS_INT32,),
        cast_first=True,
        plugins=_ROI_ALIGN_PLUGIN,
    ),
    *(
        Release(
            f"TensorRT {line}",
            Target.TENSORRT,
            newest_opset=newest_opset,
            since=since,
            refused=_REFUSED,
            rules={**_RULES, **_ROI_ALIGN},
            cast_first=True,
            plugins=_ROI_ALIGN_PLUGIN,
            half_scales=True,
        )
        for line, since, newest_opset in (("10.3", "10", 20), ("10.13", "10.13", 22), ("11", "11", 22))
    ),
    Release(
        "TensorRT-RTX 1.7",
        Target.TENSORRT_RTX,
        newest_opset=22,
        refused={**_REFUSED, "RoiAlign": "only a plugin runs it; `lower_for` writes its GridSample form"},
        rules=_RULES,
        cast_first=True,
        half_scales=True,
    ),
)

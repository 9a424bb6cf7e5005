"""What the builder made of a precision, read back from the engine's own layer list.

Two sources say the same: the engine inspector (JSON, needs a GPU) and the `Layers:` message that TensorRT-RTX
logs at VERBOSE while it builds without one. Both name for every engine layer the ONNX nodes in it and the
types of its tensors. With free dimensions, and for blocks that Myelin compiles, TensorRT 8.x says no types of
tensors; then the type of the weights and the name of the kernel tell what is multiplied.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgewise.runtime.system.errors import BuildError

WIDTH = {"fp32": 4, "bf16": 3, "fp16": 2, "fp8": 1, "int8": 0}
"""Types that carry values, by width; `integer` stands for layers that only move indices."""

INTEGER = "integer"
UNKNOWN = "unknown"
"""What nothing in the layer list tells."""

NODE_TYPES = (*WIDTH, INTEGER, UNKNOWN)

_TYPES = {
    "float": "fp32",
    "fp32": "fp32",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "fp8": "fp8",
    "int8": "int8",
    "uint8": INTEGER,
    "int32": INTEGER,
    "int64": INTEGER,
    "bool": INTEGER,
}

_BYTES = {"float": 4, "fp32": 4, "half": 2, "fp16": 2, "bfloat16": 2, "bf16": 2, "int32": 4, "int64": 8}
"""Of the types wider than one byte."""

_POINTWISE = ("kgen", "reformat", "pointwise", "pointwisev2", "scale", "noop", "constant", "shuffle", "cast")
"""Layers around a weighted one: padding, bias, rescaling."""

_SYNCHRONISATION = ("signal", "wait")
_BLOCKS = ("myelin",)
"""Layers of TensorRT 8.x that hold many operators and list the tensors at their rim."""

_ORIGIN = "[ONNX Layer: "


@dataclass(frozen=True)
class EngineLayer:
    """One kernel of an engine.

    Attributes:
        name: The engine's name of it.
        kind: Its type, in lower case (`correlation`, `caskconvolution`, `kgen`, ...).
        metadata: `[ONNX Layer: <node>]` for every ONNX node that went into it.
        inputs, outputs: Types of its tensors, `fp32`, `fp16`, `int8`, ..., or `integer`.
        weights: Type of its weights; None where it has none.
        tactic: Name of its kernel; empty where none is listed.
        moved: Bytes of its inputs and outputs, without constants, each counted once; a tensor whose size the
            list does not say counts 0.
    """

    name: str
    kind: str
    metadata: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: str | None = None
    tactic: str = ""
    moved: int = 0

    def holds(self, node: str) -> bool:
        """Whether an ONNX node went into it; layers without metadata are named `node + node`."""
        if _ORIGIN in self.metadata:
            return f"{_ORIGIN}{node}]" in self.metadata
        return node in re.split(r" \+ |\|\|", self.name)

    @property
    def computes_in(self) -> str:
        """The widest type it computes in.

        For a layer with weights that is the wider of its first input and its weights, for another one the
        widest of all its tensors.
        """
        if self.weights is not None and self.inputs:
            return widest((self.inputs[0], self.weights))
        return widest((*self.inputs, *self.outputs))

    @property
    def multiplies_in(self) -> str:
        """The type of its factors: the wider of its first input and its weights, where the list knows both.

        The tensors of a block of Myelin are those at its rim, so they tell nothing of a product inside.
        """
        first = self.inputs[0] if self.inputs and self.kind not in _BLOCKS else UNKNOWN
        factors = (first, *(() if self.weights is None else (self.weights,)))
        if UNKNOWN not in factors:
            return widest(factors)
        return kernel_type(self.tactic) or self.weights or UNKNOWN


_KERNELS = (
    (re.compile(r"_(?:i8|f16|bf16|f32){2}_(i8|tf32|f16|bf16|f32)(?:i32|f16|bf16|f32)_"), None),
    (re.compile(r"tf32"), "fp32"),
    (re.compile(r"icudnn|imma|i8816|i16832|int8x4"), "int8"),
    (re.compile(r"[hs]16816|[hs]1688|[hs]884|hmma|hgemm|hcudnn"), "fp16"),
    (re.compile(r"scudnn|sgemm|ffma"), "fp32"),
)
"""How NVIDIA's kernels are called; the first group, where there is one, is the type of the factors."""

_FACTORS = {"i8": "int8", "f16": "fp16", "bf16": "bf16", "tf32": "fp32", "f32": "fp32"}


def kernel_type(tactic: str) -> str | None:
    """The type of a kernel's factors by its name: `..._i8f16_i8i32_f32_...`, `ampere_h16816cudnn_...`."""
    for pattern, told in _KERNELS:
        match = pattern.search(tactic)
        if match is not None:
            return told or _FACTORS[match[1]]
    return None


def widest(types: Iterable[str]) -> str:
    """The widest of some types; `integer` where none of them carries values."""
    return max((name for name in types if name in WIDTH), key=WIDTH.__getitem__, default=INTEGER)


def count_types(layers: Sequence[EngineLayer]) -> dict[str, int]:
    """Number of layers by the widest type they compute in, widest first."""
    counts = Counter(layer.computes_in for layer in layers)
    return {name: counts[name] for name in (*WIDTH, INTEGER) if counts[name]}


def count_nodes(nodes: Iterable[str], layers: Sequence[EngineLayer]) -> dict[str, int]:
    """Number of nodes by the type that they are computed in, widest first."""
    counts = Counter(node_type(node, layers) or UNKNOWN for node in nodes)
    return {name: counts[name] for name in NODE_TYPES if counts[name]}


def node_type(node: str, layers: Sequence[EngineLayer]) -> str | None:
    """The type in which an ONNX node is computed; None where no layer names it."""
    named = [layer for layer in layers if layer.holds(node)]
    heavy = [layer for layer in named if layer.kind not in _POINTWISE]
    if heavy:
        types = [layer.multiplies_in for layer in heavy]
        return UNKNOWN if UNKNOWN in types else widest(types)
    return widest(layer.computes_in for layer in named) if named else None


# ---------------------------------------------------------------- the two sources

_LOG_LINE = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\]"
    r"(?:, Constants: \[(?P<constants>.*?)\])?, Outputs: \[(?P<outputs>.*?)\], TacticName: .*?"
    r"Metadata: (?P<metadata>.*)$"
)
_LOG_TENSOR = re.compile(r"Dimensions: \[(?P<dimensions>[\d,-]*)\].*?Datatype: (?P<type>\w+)")


def layers_from_log(message: str) -> tuple[EngineLayer, ...]:
    """Read the builder's `Layers:` message.

    Raises:
        BuildError: It is written in a way that is not known.
    """
    layers: list[EngineLayer] = []
    for line in message.splitlines()[1:]:
        if not line.strip():
            break
        match = _LOG_LINE.match(line)
        if match is None:
            raise _unreadable(line)
        if match["kind"] in _SYNCHRONISATION:
            continue
        constants = [
            (math.prod(int(size) for size in tensor["dimensions"].split(",") if size), _type(tensor["type"]))
            for tensor in _LOG_TENSOR.finditer(match["constants"] or "")
        ]
        has_weights = match["kind"] not in _POINTWISE and bool(constants)
        layers.append(
            EngineLayer(
                name=match["name"],
                kind=match["kind"].lower(),
                metadata=match["metadata"],
                inputs=_log_types(match["inputs"]),
                outputs=_log_types(match["outputs"]),
                weights=max(constants, key=lambda constant: constant[0])[1] if has_weights else None,
                moved=_log_bytes(match["inputs"]) + _log_bytes(match["outputs"]),
            )
        )
    return tuple(layers)


def layers_from_inspector(text: str) -> tuple[EngineLayer, ...]:
    """Read the JSON of `EngineInspector.get_engine_information`.

    Raises:
        BuildError: It holds names only (profiling verbosity is not DETAILED), or is not known.
    """
    try:
        entries = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        raise _unreadable(text) from None
    layers: list[EngineLayer] = []
    for entry in entries:
        if not isinstance(entry, dict) or "LayerType" not in entry:
            raise _unreadable(str(entry))
        if entry["LayerType"].lower() in _SYNCHRONISATION:
            continue
        layers.append(
            EngineLayer(
                name=entry["Name"],
                kind=entry["LayerType"].lower(),
                metadata=entry.get("Metadata", ""),
                inputs=tuple(_inspector_type(tensor) for tensor in entry.get("Inputs", ())),
                outputs=tuple(_inspector_type(tensor) for tensor in entry.get("Outputs", ())),
                weights=_inspector_weights(entry),
                tactic=str(entry.get("TacticName", "")),
                moved=sum(map(_inspector_bytes, (*entry.get("Inputs", ()), *entry.get("Outputs", ())))),
            )
        )
    return tuple(layers)


def _inspector_type(tensor: dict[str, Any]) -> str:
    """From `Datatype: Half`, or `Format/Datatype: Channel major FP16 format where channel % 8 == 0`."""
    if "Datatype" in tensor:
        return _type(tensor["Datatype"])
    said = str(tensor.get("Format/Datatype", "")).lower()
    if said.startswith("n/a"):  # "N/A due to dynamic shapes"
        return UNKNOWN
    words = re.findall(r"[a-z]+\d*", said)
    for word in words:
        if word in _TYPES:
            return _TYPES[word]
    raise _unreadable(str(tensor))


def _inspector_weights(entry: dict[str, Any]) -> str | None:
    weights = entry.get("Weights", entry.get("ConvWeights"))
    if isinstance(weights, dict) and weights.get("Count", 1):
        return _type(weights["Type"])
    constants = entry.get("Constants")
    if entry["LayerType"].lower() in _POINTWISE or not constants:
        return None
    largest = max(constants, key=lambda tensor: math.prod(tensor.get("Dimensions", ())))
    return _inspector_type(largest)


def _log_types(tensors: str) -> tuple[str, ...]:
    return tuple(_type(tensor["type"]) for tensor in _LOG_TENSOR.finditer(tensors))


def _log_bytes(tensors: str) -> int:
    return sum(
        math.prod(int(size) for size in tensor["dimensions"].split(",") if size)
        * _BYTES.get(tensor["type"].lower(), 1)
        for tensor in _LOG_TENSOR.finditer(tensors)
    )


def _inspector_bytes(tensor: dict[str, Any]) -> int:
    kind = _inspector_type(tensor)
    wide = str(tensor.get("Datatype", kind)).lower()
    return max(0, math.prod(tensor.get("Dimensions", (0,)))) * _BYTES.get(wide, 1)


def _type(name: str) -> str:
    try:
        return _TYPES[name.lower()]
    except KeyError:
        raise _unreadable(name) from None


def _unreadable(text: str) -> BuildError:
    return BuildError(
        "the builder's list of layers cannot be read, so the precision cannot be checked",
        where=text[:200],
        hint="report this text with the version of TensorRT",
    )

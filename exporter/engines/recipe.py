"""Which graph is compiled, and with which flags, for a precision on a TensorRT with given features.

From TensorRT 9 on a network can be strongly typed: the graph says every type, no flag is needed, and
TensorRT 11 and TensorRT-RTX know nothing else. TensorRT 8.x is weakly typed: the FP16 and INT8 flags allow
narrow types, and what must not be narrow is pinned (`edgewise.exporter.engines.pins`). INT8 always comes with
FP16: what is not quantised would otherwise run, and move its bytes, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgewise.runtime.contract.manifest import Precision
from edgewise.runtime.system.errors import BuildError


@dataclass(frozen=True)
class TensorRTFeatures:
    """What a TensorRT module can do, by its names."""

    strong_typing: bool
    explicit_batch_flag: bool
    weak_precision: bool
    cross_compilation: bool

    @classmethod
    def of(cls, trt: Any) -> TensorRTFeatures:
        """Detect by `hasattr`; needs no GPU."""
        network, builder = trt.NetworkDefinitionCreationFlag, trt.BuilderFlag
        return cls(
            strong_typing=hasattr(network, "STRONGLY_TYPED"),
            explicit_batch_flag=hasattr(network, "EXPLICIT_BATCH"),
            weak_precision=hasattr(builder, "FP16") and hasattr(builder, "PREFER_PRECISION_CONSTRAINTS"),
            cross_compilation=hasattr(trt.IBuilderConfig, "set_compute_capability"),
        )


@dataclass(frozen=True)
class BuildRecipe:
    """How to build.

    Attributes:
        source: Precision of the bundle's file that is compiled.
        network_flags: Names in `NetworkDefinitionCreationFlag`.
        set_flags, clear_flags: Names in `BuilderFlag`.
        pin_layers: Pin the layers whose type is not the builder's choice.
    """

    source: Precision
    network_flags: tuple[str, ...]
    set_flags: tuple[str, ...] = ()
    clear_flags: tuple[str, ...] = ()
    pin_layers: bool = False

    def flags(self) -> tuple[str, ...]:
        """Every flag in one sorted list, cleared ones with a minus sign."""
        return tuple(
            sorted((*self.network_flags, *self.set_flags, *(f"-{name}" for name in self.clear_flags)))
        )


def choose_recipe(features: TensorRTFeatures, precision: Precision) -> BuildRecipe:
    """The recipe of a precision.

    TF32 is always cleared: it would round every float32 product to ten bits of mantissa, of a model in FP32
    and of what other precisions keep in float32.

    Raises:
        BuildError: This TensorRT cannot build the precision.
    """
    clear = ("TF32",)
    if features.strong_typing:
        return BuildRecipe(source=precision, network_flags=("STRONGLY_TYPED",), clear_flags=clear)
    network_flags = ("EXPLICIT_BATCH",) if features.explicit_batch_flag else ()
    if precision is Precision.FP32:
        return BuildRecipe(source=Precision.FP32, network_flags=network_flags, clear_flags=clear)
    if not features.weak_precision:
        raise BuildError(
            "this TensorRT knows neither strong typing nor the FP16 flag", hint="update TensorRT"
        )
    int8 = precision is Precision.INT8
    return BuildRecipe(
        source=Precision.INT8 if int8 else Precision.FP32,
        network_flags=network_flags,
        set_flags=("FP16", *(("INT8",) if int8 else ()), "PREFER_PRECISION_CONSTRAINTS"),
        clear_flags=clear,
        pin_layers=True,
    )

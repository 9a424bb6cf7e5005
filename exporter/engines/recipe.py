"""Which graph is compiled, and with which flags, for a precision on a TensorRT with given features.

From TensorRT 9 on a network can be strongly typed: the graph says every type, no flag is needed, and
TensorRT 11 and TensorRT-RTX know nothing else. TensorRT 8.x is weakly typed: the FP16 and INT8 flags allow
narrow types, and layers are pinned so that it obeys. The calibration-cache path (implicit INT8) is weakly
typed too, and exists up to TensorRT 10.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from edgewise.runtime.contract.manifest import Precision
from edgewise.runtime.system.errors import BuildError


class Int8Source(enum.Enum):
    """Where INT8 ranges come from."""

    GRAPH = "graph"
    """Q/DQ nodes of the bundle's INT8 file."""
    CALIBRATION_CACHE = "calibration-cache"
    """The bundle's calibration cache over the FP32 file, for builders that cannot use Q/DQ (DLA)."""


@dataclass(frozen=True)
class TensorRTFeatures:
    """What a TensorRT module can do, by its names."""

    strong_typing: bool
    explicit_batch_flag: bool
    weak_precision: bool
    calibrators: bool
    cross_compilation: bool

    @classmethod
    def of(cls, trt: Any) -> TensorRTFeatures:
        """Detect by `hasattr`; needs no GPU."""
        network, builder = trt.NetworkDefinitionCreationFlag, trt.BuilderFlag
        return cls(
            strong_typing=hasattr(network, "STRONGLY_TYPED"),
            explicit_batch_flag=hasattr(network, "EXPLICIT_BATCH"),
            weak_precision=hasattr(builder, "FP16") and hasattr(builder, "OBEY_PRECISION_CONSTRAINTS"),
            calibrators=hasattr(trt, "IInt8EntropyCalibrator2"),
            cross_compilation=hasattr(trt.IBuilderConfig, "set_compute_capability"),
        )


@dataclass(frozen=True)
class BuildRecipe:
    """How to build.

    Attributes:
        source: Precision of the bundle's file that is compiled.
        network_flags: Names in `NetworkDefinitionCreationFlag`.
        set_flags, clear_flags: Names in `BuilderFlag`.
        pin_layers: Give every layer the type that the precision's own file gives it.
        calibration_cache: Read INT8 ranges from the bundle's calibration cache.
    """

    source: Precision
    network_flags: tuple[str, ...]
    set_flags: tuple[str, ...] = ()
    clear_flags: tuple[str, ...] = ()
    pin_layers: bool = False
    calibration_cache: bool = False

    def flags(self) -> tuple[str, ...]:
        """Every flag in one sorted list, cleared ones with a minus sign."""
        return tuple(
            sorted((*self.network_flags, *self.set_flags, *(f"-{name}" for name in self.clear_flags)))
        )


def choose_recipe(features: TensorRTFeatures, precision: Precision, int8_source: Int8Source) -> BuildRecipe:
    """The recipe of a precision.

    FP32 clears TF32, which would round every product to ten bits of mantissa.

    Raises:
        BuildError: This TensorRT cannot build the precision in the way asked for.
    """
    clear = ("TF32",) if precision is Precision.FP32 else ()
    implicit = precision is Precision.INT8 and int8_source is Int8Source.CALIBRATION_CACHE
    if implicit and not features.calibrators:
        raise BuildError(
            "this TensorRT has no INT8 calibrators",
            hint="leave the calibration cache out: the bundle's INT8 graph holds its ranges itself",
        )
    if features.strong_typing and not implicit:
        return BuildRecipe(source=precision, network_flags=("STRONGLY_TYPED",), clear_flags=clear)
    if precision is not Precision.FP32 and not features.weak_precision:
        raise BuildError(
            "this TensorRT knows neither strong typing nor the FP16 flag", hint="update TensorRT"
        )
    network_flags = ("EXPLICIT_BATCH",) if features.explicit_batch_flag else ()
    if precision is Precision.FP32:
        return BuildRecipe(source=Precision.FP32, network_flags=network_flags, clear_flags=clear)
    if precision is Precision.FP16:
        return BuildRecipe(
            source=Precision.FP32,
            network_flags=network_flags,
            set_flags=("FP16", "OBEY_PRECISION_CONSTRAINTS"),
            pin_layers=True,
        )
    return BuildRecipe(
        source=Precision.FP32 if implicit else Precision.INT8,
        network_flags=network_flags,
        set_flags=("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"),
        pin_layers=True,
        calibration_cache=implicit,
    )

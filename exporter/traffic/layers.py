"""The traffic of a graph by group of layers, and that of several precisions side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgewise.exporter.traffic.kernels import kernels_of
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Precision, Target
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx

OUTSIDE = "(outside of modules)"
"""The group of nodes without a module's name, such as the decoding that a deploy module's forward does."""

NAMED_FROM = 0.005
"""Share of FP16's bytes by which INT8 makes a group heavier before words name it."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that some kernels read and write."""

    kernels: int = 0
    activations: int = 0
    weights: int = 0

    @property
    def total(self) -> int:
        return self.activations + self.weights

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.kernels + other.kernels, self.activations + other.activations, self.weights + other.weights
        )


@dataclass(frozen=True)
class Comparison:
    """The traffic of one graph in the precisions that there are.

    Attributes:
        layers: Precision -> group of layers -> traffic; groups in the order of the graph.
    """

    layers: Mapping[Precision, Mapping[str, Traffic]]

    @property
    def groups(self) -> tuple[str, ...]:
        """Every group of any precision."""
        return tuple(dict.fromkeys(name for groups in self.layers.values() for name in groups))

    def of(self, precision: Precision, group: str) -> Traffic:
        """One group's traffic; nothing where the precision has no kernel there."""
        return self.layers[precision].get(group, Traffic())

    def total(self, precision: Precision) -> Traffic:
        """The whole graph's traffic."""
        return sum(self.layers[precision].values(), Traffic())

    def ratio(self, group: str | None = None) -> float | None:
        """INT8's bytes over FP16's, of a group or of the graph; None where there are not both."""
        if not {Precision.INT8, Precision.FP16} <= set(self.layers):
            return None
        codes, half = (
            self.total(precision) if group is None else self.of(precision, group)
            for precision in (Precision.INT8, Precision.FP16)
        )
        return codes.total / half.total if half.total else None

    def heavier(self) -> dict[str, int]:
        """The groups in which INT8 moves more than FP16, with the bytes more, worst first."""
        if self.ratio() is None:
            return {}
        more = {
            group: self.of(Precision.INT8, group).total - self.of(Precision.FP16, group).total
            for group in self.groups
        }
        return dict(sorted(((g, n) for g, n in more.items() if n > 0), key=lambda entry: -entry[1]))

    def in_words(self) -> str:
        """How INT8 compares with FP16, and which layers it makes heavier; empty without both."""
        ratio = self.ratio()
        if ratio is None:
            return ""
        half = self.total(Precision.FP16).total
        named = [
            f"{group} (+{more / 1e6:.2f} MB)"
            for group, more in self.heavier().items()
            if more >= NAMED_FROM * half
        ]
        words = f"int8 moves {ratio:.2f} of fp16's bytes"
        if ratio > 1:
            words += ", so it is the slower one"
        return f"{words}; more in {', '.join(named)}" if named else words


def traffic_of(model: onnx.ModelProto) -> dict[str, Traffic]:
    """The traffic of a graph by group of layers (`group_of`), in the order of the graph.

    Raises:
        ExportError: As `kernels_of`.
    """
    found: dict[str, Traffic] = {}
    for kernel in kernels_of(model):
        group = group_of(kernel.main)
        found[group] = found.get(group, Traffic()) + Traffic(1, kernel.activations, kernel.weights)
    return found


def compare(models: Mapping[Precision, onnx.ModelProto]) -> Comparison:
    """The traffic of one graph in several precisions; raises as `traffic_of`."""
    return Comparison({precision: traffic_of(model) for precision, model in models.items()})


def compare_bundle(bundle: Bundle) -> dict[str, Comparison]:
    """The traffic of every graph of a bundle in what it holds for the newest TensorRT.

    Raises:
        ExportError: It holds nothing for TensorRT or TensorRT-RTX.
        BundleError: A file is missing or changed.
    """
    from edgewise.calibration.graph import load_model

    found: dict[str, Comparison] = {}
    for name, graph in bundle.manifest.graphs.items():
        held = {(file.target, file.precision) for file in graph.files}
        target = next(
            (each for each in (Target.TENSORRT, Target.TENSORRT_RTX) if any(t is each for t, _ in held)), None
        )
        if target is None:
            raise ExportError(
                f"traffic is that of TensorRT's kernels, and graph {name!r} has no file for it",
                where=str(bundle.path),
                hint="export with --target tensorrt",
            )
        found[name] = compare(
            {
                precision: load_model(bundle.graph_bytes(name, target, precision), where=name)
                for precision in Precision
                if (target, precision) in held
            }
        )
    return found


def group_of(node: str) -> str:
    """A node's group: the modules in its name up to the first number, at most two without one.

    >>> group_of("network/backbone/layers/0/1/conv2/Conv"), group_of("network/fpn/lateral/Conv")
    ('network/backbone/layers/0', 'network/fpn')
    """
    modules = node.split("/")[:-1]
    for position, module in enumerate(modules):
        if module.isdigit():
            return "/".join(modules[: position + 1])
    return "/".join(modules[:2]) or OUTSIDE

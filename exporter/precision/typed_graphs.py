"""The FP16 and the INT8 graph of one FP32 graph, each held to its budget.

Nodes that stay wider than INT8 compute in float16 in TensorRT's file (in float32 where their ranges ask for
it), and in float32 in ONNX Runtime's, whose CPU kernels have no float16. What has no weights stays float32:
it fuses into the integer kernels, and scales in float32 are read by every TensorRT from 8.6 on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import msgspec

from edgewise.calibration.collect import Feeds
from edgewise.calibration.lower_u8 import lower_u8
from edgewise.calibration.placement import place
from edgewise.calibration.qdq import quantise_s8
from edgewise.calibration.search import Trial, search_precision
from edgewise.calibration.sensitivity import Sensitivity, rank_by_error, rank_by_half
from edgewise.calibration.table import CalibrationTable
from edgewise.exporter.from_torch.onnx_export import comparable_names
from edgewise.exporter.graph.numerics import Tensors, roles_in
from edgewise.exporter.graph.passes import PassResult, PassRunner
from edgewise.exporter.passes.fp16 import (
    WEIGHTED,
    Fp16Choice,
    Ranges,
    choose_fp16,
    fp16_pass,
    narrow_nodes,
)
from edgewise.exporter.precision.agreement import Agreement, Models
from edgewise.exporter.targets.lowering import lower_for, older_form_of
from edgewise.runtime.contract.manifest import (
    Graph,
    KeptNode,
    Manifest,
    Precision,
    PrecisionRecord,
    ProvenanceStep,
    Target,
)
from edgewise.runtime.system.errors import CalibrationError

if TYPE_CHECKING:
    import onnx


def _silent(message: str) -> None:
    del message


@dataclass(frozen=True)
class TypedGraph:
    """A graph in one precision for every target, with what stays wider in it."""

    lowered: Mapping[Target, onnx.ModelProto]
    record: PrecisionRecord
    steps: tuple[ProvenanceStep, ...]
    older: onnx.ModelProto | None = None
    """What older releases of ONNX Runtime run in place of `lowered`'s, where they lack an operator of it."""


@dataclass(frozen=True, eq=False)
class Workbench:
    """What the steps of one graph's quantisation share.

    Attributes:
        name: Of the graph in the manifest.
        fp32: The graph, outputs only.
        samples: Inputs for the passes' comparisons; at least one.
        agreement: Judges the graph in the walk of all graphs, the others in FP32.
    """

    manifest: Manifest
    name: str
    fp32: onnx.ModelProto
    targets: tuple[Target, ...]
    samples: Sequence[Tensors]
    agreement: Agreement
    progress: Callable[[str], None] = field(default=_silent)

    @property
    def graph(self) -> Graph:
        return self.manifest.graphs[self.name]

    def runner(self) -> PassRunner:
        return PassRunner(self.samples, comparable_names(self.graph), roles_in(self.manifest, self.graph))

    def lowered(self, form: Callable[[Target], onnx.ModelProto]) -> dict[Target, onnx.ModelProto]:
        """The typed graph of every target, lowered for it."""
        return {target: lower_for(form(target), target, self.runner()) for target in self.targets}

    def judged(self, used: float, precision: Precision) -> str:
        """The provenance's words for a verdict."""
        return f"uses {used:.2f} of its budget on {self.agreement.subject(precision)}"

    def trial(self, precision: Precision) -> Callable[[Trial], None]:
        """Says how far a trial of the precision search got."""
        return lambda trial: self.progress(
            f"{precision.value} with {trial.kept} more nodes kept wider uses {trial.loss:.2f} of its budget"
        )

    @property
    def probes(self) -> list[str]:
        return [spec.name for spec in self.graph.probes]


# ---------------------------------------------------------------- FP16


@dataclass(frozen=True, eq=False)
class Islands:
    """A choice of float16 islands, and the graph typed so."""

    choice: Fp16Choice
    result: PassResult


def make_fp16(bench: Workbench, table: CalibrationTable, feeds: Feeds) -> TypedGraph:
    """The float16 islands that the table's ranges and the FP16 budget allow; a precision search as for INT8
    says which weighted nodes stay float32.

    Args:
        feeds: A few calibration samples, by which nodes are ranked where the budget is missed.

    Raises:
        CalibrationError: The search finds no number of kept nodes that brings the graph into the budget.
    """
    bench.progress("typing float16 islands")

    def choose(keep: Mapping[str, str]) -> Fp16Choice:
        return choose_fp16(bench.fp32, _ranges(table), probes=bench.probes, keep=keep)

    def assemble(keep: Mapping[str, str]) -> Islands:
        choice = choose(keep)
        # The budget judges the numbers, on more images than a pass is compared on.
        return Islands(choice, bench.runner().run(fp16_pass(choice, tolerance=inf), bench.fp32))

    def rank() -> Sequence[Sensitivity]:
        bench.progress("searching the nodes that must stay wider than float16")
        narrow = choose({}).narrow
        nodes = [
            node.name for node in bench.fp32.graph.node if node.name in narrow and node.op_type in WEIGHTED
        ]
        return rank_by_half(bench.fp32, nodes, feeds)

    found = search_precision(
        rank,
        assemble,
        lambda islands: bench.agreement.budget_used({bench.name: islands.result.model}, Precision.FP16),
        1.0,
        precision="FP16",
        progress=bench.trial(Precision.FP16),
    )
    islands = found.codes
    step, model = islands.result.step, islands.result.model
    record = PrecisionRecord(
        precision=Precision.FP16,
        asked="float16 in nodes with weights and between them; float32 decoding, inputs and outputs",
        kept=islands.choice.kept,
    )
    searched = f", {len(found.keep)} of them by the precision search" if found.keep else ""
    detail = f"{step.detail}{searched}; {bench.judged(found.loss, Precision.FP16)}"
    step = msgspec.structs.replace(step, detail=detail)
    lowered = bench.lowered(lambda target: model)
    return TypedGraph(lowered, record, (step,), older_form_of(lowered, bench.runner()))


def _ranges(table: CalibrationTable) -> Ranges:
    return {
        name: (-inf, inf) if found.unbounded else (found.minimum, found.maximum)
        for name, found in table.tensors.items()
    }


def require_budget(agreement: Agreement, models: Models, precision: Precision) -> float:
    """The share of its budget that graphs use.

    Raises:
        CalibrationError: It is more than all of it.
    """
    checks = agreement.checks(models, precision)
    worst = max(checks, key=lambda check: check.share_of_limit)
    if any(not check.passed for check in checks):
        value = "nothing" if worst.value is None else f"{worst.value:.4g}"
        raise CalibrationError(
            f"{precision.value} misses its budget: {worst.figure} is {value}, the limit is {worst.limit:.4g}",
            where=f"{worst.subject}, {worst.sample}",
            hint="calibrate on images like those in use, or allow more by --budget",
        )
    return worst.share_of_limit


# ---------------------------------------------------------------- INT8


@dataclass(frozen=True)
class Codes:
    """The INT8 graph in its two forms, with what stays wider in them."""

    signed: onnx.ModelProto
    unsigned: onnx.ModelProto
    kept: tuple[KeptNode, ...]

    def form(self, target: Target) -> onnx.ModelProto:
        """The form that a target reads."""
        return self.unsigned if target is Target.ONNXRUNTIME else self.signed

    def forms(self, targets: tuple[Target, ...]) -> list[onnx.ModelProto]:
        """The forms that any of the targets reads, each once."""
        return [self.unsigned] * (Target.ONNXRUNTIME in targets) + [self.signed] * bool(
            set(targets) - {Target.ONNXRUNTIME}
        )


def make_int8(bench: Workbench, table: CalibrationTable, feeds: Feeds) -> TypedGraph:
    """Codes wherever the INT8 budget allows them; the precision search says which nodes stay wider.

    One search serves all forms that the targets read: a number of kept nodes that one form needs can break
    another, so the worst of them is the loss.

    Args:
        feeds: A few calibration samples, by which nodes are ranked where the budget is missed.

    Raises:
        CalibrationError: The search finds no number of kept nodes that brings every form into the budget.
    """
    bench.progress("writing int8 codes")

    def rank() -> Sequence[Sensitivity]:
        bench.progress("searching the nodes that must stay wider than int8")
        return rank_by_error(bench.fp32, table, place(bench.fp32, unbounded=table.unbounded), feeds)

    found = search_precision(
        rank,
        lambda keep: _codes(bench, table, keep),
        lambda codes: max(
            bench.agreement.budget_used({bench.name: form}, Precision.INT8)
            for form in codes.forms(bench.targets)
        ),
        1.0,
        progress=bench.trial(Precision.INT8),
    )
    record = PrecisionRecord(
        precision=Precision.INT8,
        asked="int8 in nodes with weights; kept ones in float16 (float32 on onnxruntime), others float32",
        kept=found.codes.kept,
    )
    lowered = bench.lowered(found.codes.form)
    detail = (
        f"{len(found.codes.kept)} weighted nodes kept wider, {len(found.keep)} of them by the precision "
        f"search; {bench.judged(found.loss, Precision.INT8)}"
    )
    step = ProvenanceStep(step="int8", tool="edgewise", detail=detail)
    return TypedGraph(lowered, record, (step,), older_form_of(lowered, bench.runner()))


def _codes(bench: Workbench, table: CalibrationTable, keep: Mapping[str, str]) -> Codes:
    """Both forms with `keep` (node -> reason) left wider."""
    placed = place(bench.fp32, keep=keep, target=Target.ONNXRUNTIME, unbounded=table.unbounded)
    unsigned = lower_u8(quantise_s8(bench.fp32, table, placed))
    placed = place(bench.fp32, keep=keep, target=Target.TENSORRT, unbounded=table.unbounded)
    signed = quantise_s8(bench.fp32, table, placed)
    names = {node.node for node in placed.kept}
    choice = choose_fp16(signed, _ranges(table), probes=bench.probes, only=names)
    return Codes(narrow_nodes(signed, choice.narrow), unsigned, explained(placed.kept, choice))


def explained(kept: tuple[KeptNode, ...], choice: Fp16Choice) -> tuple[KeptNode, ...]:
    """Where a node kept from INT8 cannot be float16 either, both reasons and float32."""
    wider = {node.node: node.reason for node in choice.kept}
    return tuple(
        KeptNode(node=node.node, precision=Precision.FP32, reason=f"{node.reason}; {wider[node.node]}")
        if node.node in wider
        else node
        for node in kept
    )

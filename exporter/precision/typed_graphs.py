"""The FP16 and the INT8 graph of one FP32 graph, each held to its budget.

INT8 is three graphs with the same placement rules. TensorRT 10 and later and TensorRT-RTX read scales in
float16: there what lies between quantised nodes, and nodes that stay wider, are float16, and decoding is
float32. TensorRT 8.6 reads scales as float32, whatever they are: its graph has the same codes and scales, and
types nodes that stay wider only; builder flags allow float16 for the rest. ONNX Runtime's CPU kernels know no
float16: all is float32 between its unsigned codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import msgspec

from edgewise.calibration.collect import Feeds
from edgewise.calibration.lower_u8 import lower_u8
from edgewise.calibration.placement import Placement, place
from edgewise.calibration.qdq import quantise_s8
from edgewise.calibration.search import Trial, search_precision
from edgewise.calibration.sensitivity import Sensitivity, rank_by_error, rank_by_half
from edgewise.calibration.table import CalibrationTable
from edgewise.exporter.from_torch.onnx_export import comparable_names
from edgewise.exporter.graph.numerics import Tensors, roles_in
from edgewise.exporter.graph.passes import PassResult, PassRunner
from edgewise.exporter.passes.exact_halves import exact_halves
from edgewise.exporter.passes.fp16 import (
    WEIGHTED,
    Fp16Choice,
    Ranges,
    choose_fp16,
    fp16_pass,
    narrow_nodes,
)
from edgewise.exporter.passes.narrow_codes import narrow_codes
from edgewise.exporter.passes.raise_opset import raise_opset
from edgewise.exporter.precision.agreement import Agreement, Models
from edgewise.exporter.targets.lowering import Files, lower_for
from edgewise.exporter.targets.profiles import Release
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

    lowered: Mapping[Target, Files]
    record: PrecisionRecord
    steps: tuple[ProvenanceStep, ...]


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

    def lowered(self, form: Callable[[Release], onnx.ModelProto]) -> dict[Target, Files]:
        """The typed graph of every release line, lowered for it; compilers get its counting in float16."""
        runner = self.runner()
        counted: list[tuple[onnx.ModelProto, onnx.ModelProto]] = []

        def narrower(release: Release) -> onnx.ModelProto:
            model = form(release)
            if release.target is Target.ONNXRUNTIME:
                return model
            # One object for one graph: lines that read the same share what it is lowered to.
            for wide, narrow in counted:
                if wide is model:
                    return narrow
            counted.append((model, runner.beginning_with(model).run(exact_halves(), model).model))
            return counted[-1][1]

        return {target: lower_for(narrower, target, runner) for target in self.targets}

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
    return TypedGraph(bench.lowered(lambda release: model), record, (step,))


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
    """The INT8 graph in its forms, with what stays wider in them.

    Attributes:
        half, single: Signed codes, with scales in float16 between float16 nodes, and with float32 scales.
        unsigned: For ONNX Runtime.
    """

    half: onnx.ModelProto
    single: onnx.ModelProto
    unsigned: onnx.ModelProto
    kept: tuple[KeptNode, ...]

    def form(self, release: Release) -> onnx.ModelProto:
        """The form that a release line reads."""
        if release.target is Target.ONNXRUNTIME:
            return self.unsigned
        return self.half if release.half_scales else self.single

    def judged(self, targets: tuple[Target, ...]) -> list[onnx.ModelProto]:
        """The forms that any of the targets reads, each once.

        `single` has the codes and scales of `half`, and its builder may compute in float16 what `half` does:
        who judges `half` has judged both.
        """
        return [self.unsigned] * (Target.ONNXRUNTIME in targets) + [self.half] * bool(
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
    raised = bench.runner().run(raise_opset(), bench.fp32).model
    islands = choose_fp16(bench.fp32, _ranges(table), probes=bench.probes)

    def rank() -> Sequence[Sensitivity]:
        bench.progress("searching the nodes that must stay wider than int8")
        return rank_by_error(bench.fp32, table, place(bench.fp32, unbounded=table.unbounded), feeds)

    def assemble(keep: Mapping[str, str]) -> Codes:
        unsigned = lower_u8(quantise_s8(bench.fp32, table, placed(keep, Target.ONNXRUNTIME)))
        placement = placed(keep, Target.TENSORRT)
        single = quantise_s8(bench.fp32, table, placement, half_scales=True)
        wider = {node.node for node in placement.kept}
        alone = choose_fp16(single, _ranges(table), probes=bench.probes, only=wider)
        half = quantise_s8(raised, table, placement, half_scales=True)
        return Codes(
            narrow_codes(half, islands.narrow),
            narrow_nodes(single, alone.narrow),
            unsigned,
            explained(placement.kept, alone),
        )

    def placed(keep: Mapping[str, str], target: Target) -> Placement:
        return place(bench.fp32, keep=keep, target=target, unbounded=table.unbounded)

    found = search_precision(
        rank,
        assemble,
        lambda codes: max(
            bench.agreement.budget_used({bench.name: form}, Precision.INT8)
            for form in codes.judged(bench.targets)
        ),
        1.0,
        progress=bench.trial(Precision.INT8),
    )
    record = PrecisionRecord(
        precision=Precision.INT8,
        asked="int8 in nodes with weights; between them, and in kept ones, float16 (float32 on onnxruntime); "
        "float32 decoding, inputs and outputs",
        kept=found.codes.kept,
    )
    detail = (
        f"{len(found.codes.kept)} weighted nodes kept wider, {len(found.keep)} of them by the precision "
        f"search; {bench.judged(found.loss, Precision.INT8)}"
    )
    step = ProvenanceStep(step="int8", tool="edgewise", detail=detail)
    return TypedGraph(bench.lowered(found.codes.form), record, (step,))


def explained(kept: tuple[KeptNode, ...], choice: Fp16Choice) -> tuple[KeptNode, ...]:
    """Where a node kept from INT8 cannot be float16 either, both reasons and float32."""
    wider = {node.node: node.reason for node in choice.kept}
    return tuple(
        KeptNode(node=node.node, precision=Precision.FP32, reason=f"{node.reason}; {wider[node.node]}")
        if node.node in wider
        else node
        for node in kept
    )

"""From a simplified graph to the canonical one, and from a typed one to the files of a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from edgewise.exporter.graph.batch_axis import fix_batch
from edgewise.exporter.graph.numerics import Roles, Tensors
from edgewise.exporter.graph.passes import Pass, PassRunner
from edgewise.exporter.passes.demote_probes import demote_probes
from edgewise.exporter.passes.free_batch import free_batch
from edgewise.exporter.passes.lower_deform_conv import lower_deform_conv
from edgewise.exporter.passes.lower_opset import lower_opset, obstacle
from edgewise.exporter.passes.lower_roi_align import lower_roi_align
from edgewise.exporter.passes.nan_sums import sum_outputs
from edgewise.exporter.passes.plain_reshape import plain_reshape
from edgewise.exporter.targets.profiles import Release, check_release, reads, releases_of
from edgewise.runtime.contract.manifest import Graph, Precision, ProvenanceStep, Target
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx

Files = dict[str, "onnx.ModelProto"]
"""A target's lowered graphs by the oldest release that reads each (`GraphFile.since`), newest first."""


def canonicalise(simplified: onnx.ModelProto, runner: PassRunner) -> onnx.ModelProto:
    """The canonical graph: opset 17 where nothing is lost by it, else the provenance says what needs more."""
    plain = runner.run(plain_reshape(), simplified).model
    reason = obstacle(plain)
    if reason is not None:
        runner.steps.append(
            ProvenanceStep(
                step="opset-17", tool="edgewise", detail=f"not lowered in the canonical graph: {reason}"
            )
        )
        return plain
    return runner.run(lower_opset(), plain).model


def lower_fp32(canonical: onnx.ModelProto, graph: Graph, runner: PassRunner) -> onnx.ModelProto:
    """The FP32 graph that every target starts from: outputs only, native operators."""
    return runner.run(demote_probes(graph), canonical).model


def lower_for(form: Callable[[Release], onnx.ModelProto], target: Target, runner: PassRunner) -> Files:
    """Lower a graph of any precision for every release line of a target.

    Lines that get equal graphs share one. What a line runs natively stays. A graph comes down to opset 17,
    which TensorRT 8.x reads, where the lowered form allows it. Steps that changed something go to
    `runner.steps`, but for those of lines that may be left out.

    Args:
        form: The typed graph that a line reads; the same object for lines that read the same.

    Raises:
        ExportError: A pass breaks its promise, or a line refuses a node; the message names it. A line that is
            not required is left out instead.
    """
    oldest_first: Files = {}
    last: tuple[onnx.ModelProto, tuple[str, ...]] | None = None
    for release in releases_of(target):
        typed = form(release)
        wanted = (typed, tuple(pass_.name for pass_ in passes_for(release)))
        shared = last is not None and typed is last[0] and wanted[1] == last[1]
        try:
            lowered = next(reversed(oldest_first.values())) if shared else _lowered(typed, release, runner)
            check_release(lowered, release)
        except ExportError:
            if release.required:
                raise
            continue
        last = wanted
        if not oldest_first or lowered != next(reversed(oldest_first.values())):
            oldest_first[release.since] = lowered
    return dict(reversed(oldest_first.items()))


def stored(
    lowered: Mapping[tuple[Target, Precision], Files],
    graph: Graph,
    samples: Sequence[Tensors],
    roles: Roles,
) -> dict[tuple[Target, Precision], dict[str, bytes]]:
    """The graphs as a bundle stores them: of free batch where a run takes several looks, with `nan_sums`.

    Args:
        graph: Their declaration.
        samples: Inputs of one look, on which several in one run are compared with each alone.
        roles: What the outputs are, for the comparison.

    Raises:
        ExportError: A graph that mixes the looks of one run, or a release line that reads it of one look and
            not of several.
    """
    freed: dict[bytes, onnx.ModelProto] = {}
    batch = graph.batch

    def store(model: onnx.ModelProto, target: Target) -> bytes:
        final = freed_batch(model, target) if batch > 1 else model
        if graph.nan_sums is not None:
            final = sum_outputs(final, graph.nan_sums)
        return final.SerializeToString(deterministic=True)

    def freed_batch(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
        data = model.SerializeToString(deterministic=True)
        if data not in freed:
            freed[data] = free_batch(model, samples, roles)
        for release in releases_of(target):
            if reads(release, model):
                check_release(fix_batch(freed[data], batch), release)
        return freed[data]

    return {
        (target, precision): {since: store(model, target) for since, model in files.items()}
        for (target, precision), files in lowered.items()
    }


def newest(files: Files) -> onnx.ModelProto:
    """The graph that the newest releases of a target read."""
    return next(iter(files.values()))


def passes_for(release: Release) -> tuple[Pass, ...]:
    """The passes whose operators a release line does not run natively."""
    lowerings = {"RoiAlign": lower_roi_align, "DeformConv": lower_deform_conv}
    return tuple(lowering() for operator, lowering in lowerings.items() if operator in release.refused)


def _lowered(model: onnx.ModelProto, release: Release, runner: PassRunner) -> onnx.ModelProto:
    runner = runner.beginning_with(model)
    for pass_ in passes_for(release):
        result = runner.run(pass_, model)
        step = runner.steps.pop()
        if result.changed and release.required:
            runner.steps.append(_for_target(step, release.target))
        model = result.model
    if obstacle(model) is None:
        model = runner.run(lower_opset(), model).model
        runner.steps.pop()
    return model


def _for_target(step: ProvenanceStep, target: Target) -> ProvenanceStep:
    return ProvenanceStep(step=step.step, tool=step.tool, detail=f"for {target.value}: {step.detail}")

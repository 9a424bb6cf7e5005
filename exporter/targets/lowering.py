"""From a simplified graph to the canonical one, and from a typed one to the file of a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgewise.exporter.graph.passes import Pass, PassRunner
from edgewise.exporter.passes.demote_probes import demote_probes
from edgewise.exporter.passes.lower_deform_conv import lower_deform_conv
from edgewise.exporter.passes.lower_opset import lower_opset, obstacle
from edgewise.exporter.passes.lower_roi_align import lower_roi_align
from edgewise.exporter.passes.plain_reshape import plain_reshape
from edgewise.exporter.targets.profiles import check_target, refused_by
from edgewise.runtime.contract.manifest import Graph, ProvenanceStep, Target
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx


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


def lower_for(model: onnx.ModelProto, target: Target, runner: PassRunner) -> onnx.ModelProto:
    """Lower a typed graph of any precision for one target.

    What a target runs natively stays. The graph comes down to opset 17, which TensorRT 8.x reads, where the
    lowered form allows it. Steps that changed something go to `runner.steps`.

    Raises:
        ExportError: A pass breaks its promise, or the target refuses a node; the message names it.
    """
    for pass_ in passes_for(target):
        before = len(runner.steps)
        result = runner.run(pass_, model)
        del runner.steps[before:]
        if result.changed:
            runner.steps.append(_for_target(result.step, target))
        model = result.model
    if target is not Target.ONNXRUNTIME and obstacle(model) is None:
        before = len(runner.steps)
        model = runner.run(lower_opset(), model).model
        del runner.steps[before:]
    check_target(model, target)
    return model


def older_form_of(models: Mapping[Target, onnx.ModelProto], runner: PassRunner) -> onnx.ModelProto | None:
    """What ONNX Runtime before `DEFORM_CONV_SINCE` runs of lowered graphs.

    None where it runs its own file, is not among the targets, or the operator has no other form: then the
    bundle opens on newer releases only.
    """
    if Target.ONNXRUNTIME not in models:
        return None
    try:
        result = runner.run(lower_deform_conv(), models[Target.ONNXRUNTIME])
    except ExportError:
        return None
    if not result.changed:
        return None
    return result.model if obstacle(result.model) else runner.run(lower_opset(), result.model).model


def passes_for(target: Target) -> tuple[Pass, ...]:
    """The passes whose operators a target does not run natively."""
    refused = refused_by(target)
    lowerings = {"RoiAlign": lower_roi_align, "DeformConv": lower_deform_conv}
    return tuple(lowering() for operator, lowering in lowerings.items() if operator in refused)


def _for_target(step: ProvenanceStep, target: Target) -> ProvenanceStep:
    return ProvenanceStep(step=step.step, tool=step.tool, detail=f"for {target.value}: {step.detail}")

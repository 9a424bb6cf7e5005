"""From a simplified graph to the canonical one, and from that to the file of a target in FP32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgewise.exporter.passes import PassRunner
from edgewise.exporter.passes.demote_probes import demote_probes
from edgewise.exporter.passes.lower_opset import lower_opset, obstacle
from edgewise.exporter.passes.plain_reshape import plain_reshape
from edgewise.exporter.target_profiles import check_target
from edgewise.runtime.manifest import Graph, ProvenanceStep, Target

if TYPE_CHECKING:
    import onnx


def canonicalise(simplified: onnx.ModelProto, runner: PassRunner) -> onnx.ModelProto:
    """The canonical graph: opset 17 where nothing is lost by it, else the provenance says what needs 18."""
    plain = runner.run(plain_reshape(), simplified).model
    reason = obstacle(plain)
    if reason is not None:
        runner.steps.append(
            ProvenanceStep(
                step="opset-17", tool="edgewise", detail=f"not lowered, TensorRT 8.x cannot read it: {reason}"
            )
        )
        return plain
    return runner.run(lower_opset(), plain).model


def lower_fp32(canonical: onnx.ModelProto, graph: Graph, runner: PassRunner) -> onnx.ModelProto:
    """The FP32 graph that every target starts from: outputs only."""
    return runner.run(demote_probes(graph), canonical).model


def lower_for(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """Lower a typed graph for one target; today's models need no rewriting, only the target's check.

    Raises:
        ExportError: The target refuses a node; the message names it.
    """
    check_target(model, target)
    return model

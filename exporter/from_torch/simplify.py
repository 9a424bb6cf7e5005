"""Simplify an exported graph with onnxsim; a failure is an error, never a warning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgewise.exporter.from_torch.failure import first_line
from edgewise.exporter.from_torch.onnx_export import (
    check_model,
    comparable_names,
    strip_private_text,
)
from edgewise.exporter.graph.conditions import uint8_is_cast_first
from edgewise.exporter.graph.numerics import (
    Roles,
    Tensors,
    every_float_alike,
    first_difference,
    run_graph,
)
from edgewise.runtime.contract.manifest import Graph
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx

SIMPLIFY_TOLERANCE = 1e-4
"""Largest relative error of the simplified graph against the exported one (folding reorders additions)."""


def simplify(
    model: onnx.ModelProto,
    graph: Graph,
    samples: Sequence[Tensors],
    roles: Roles = every_float_alike,
    reference: Sequence[Tensors] | None = None,
) -> onnx.ModelProto:
    """Fold constants, remove dead code, fuse normalisations into convolutions.

    Args:
        model: An exported graph; not changed.
        graph: The manifest's view of it.
        samples: Inputs on which both graphs are compared.
        roles: What the outputs are, for the comparison.
        reference: What torch gave for each sample, with which the exported graph was compared; None runs that
            again.

    Raises:
        ExportError: onnxsim fails, the numbers move, or a uint8 input is consumed by anything but a Cast.
    """
    import onnxsim

    try:
        simplified, proven = onnxsim.simplify(model, check_n=0, certify=False)
    except Exception as error:  # C++ failures surface as several types
        raise ExportError(
            "onnxsim failed", where=first_line(error), hint="report the exported.onnx that caused it"
        ) from error
    if not proven:
        raise ExportError("onnxsim could not validate its own result")
    strip_private_text(simplified)
    check_model(simplified, graph)
    problem = uint8_is_cast_first(simplified)
    if problem is not None:
        raise ExportError(problem, hint="start the deploy module with image.float() before any transpose")
    compare(run_graph(model, samples) if reference is None else reference, simplified, graph, samples, roles)
    return simplified


def compare(
    before: Sequence[Tensors],
    after: onnx.ModelProto,
    graph: Graph,
    samples: Sequence[Tensors],
    roles: Roles = every_float_alike,
) -> None:
    """Raise ExportError where a graph differs from what it gave before by more than `SIMPLIFY_TOLERANCE`."""
    names = comparable_names(graph)
    pairs = zip(run_graph(after, samples), before, strict=True)
    for number, (values, reference) in enumerate(pairs):
        difference = first_difference(values, reference, names, SIMPLIFY_TOLERANCE, roles)
        if difference is not None:
            raise ExportError(
                f"simplification changed the numbers on sample {number}: {difference.detail}",
                where=difference.tensor,
                hint="report the exported.onnx that caused it",
            )

"""Where two stages part: walks over the inner tensors of their ONNX files, on the image that differs most."""

from __future__ import annotations

from dataclasses import dataclass

from edgewise.exporter.graph.inner_tensors import InnerTensors
from edgewise.exporter.parity.first_divergence import LayerError, first_divergence, layer_errors
from edgewise.exporter.parity.report import (
    Comparison,
    Divergence,
    LayerCurve,
    LayerFigure,
    TensorFigures,
    finite,
)
from edgewise.runtime.compare.checks import Level
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Graph
from edgewise.runtime.engines.base import Tensor
from edgewise.runtime.system.errors import BackendError, ParityError


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file of the bundle as a report names it."""

    title: str
    path: str


def find_divergence(
    bundle: Bundle,
    graph: Graph,
    candidate: OnnxFile,
    reference: OnnxFile,
    feeds: dict[str, Tensor],
    *,
    image: int,
    limit: float,
    threads: int,
) -> Divergence:
    """Name the first layer of `candidate` whose error against `reference` exceeds `limit` on one image."""
    if candidate.path == reference.path:
        return Divergence(
            against=reference.title,
            image=image,
            limit=limit,
            layer=None,
            detail="both run one file: the engines differ, not the graphs",
        )
    try:
        ours = InnerTensors(bundle.model(candidate.path), where=candidate.path)
        theirs = InnerTensors(bundle.model(reference.path), where=reference.path)
        errors = layer_errors(ours, theirs, feeds, graph.inputs, threads=threads)
        found = first_divergence(errors, limit)
    except (BackendError, ParityError) as error:
        detail = f"the layers cannot be walked: {error.what}"
        return Divergence(against=reference.title, image=image, limit=limit, layer=None, detail=detail)
    if found is None:
        detail = f"no inner tensor that both files share differs by more than {limit:.3g}"
    else:
        detail = f"first at {found.node} ({found.operator})"
    layer = None if found is None else layer_figure(found)
    return Divergence(against=reference.title, image=image, limit=limit, layer=layer, detail=detail)


def layer_curve(
    bundle: Bundle,
    graph: Graph,
    candidate: tuple[str, str],
    reference: tuple[str, str],
    feeds: dict[str, Tensor],
    *,
    image: int,
    threads: int,
) -> LayerCurve:
    """Error by depth of one file against another, up to the probes (the whole graph where it has none).

    Args:
        candidate: Stage name and path of its file.
        reference: Stage name and path of its file.
    """
    ours = InnerTensors(bundle.model(candidate[1]), where=candidate[1])
    theirs = InnerTensors(bundle.model(reference[1]), where=reference[1])
    within = [probe.name for probe in graph.probes] or None
    errors = layer_errors(ours, theirs, feeds, graph.inputs, within=within, threads=threads)
    layers = tuple(layer_figure(error) for error in errors)
    return LayerCurve(candidate=candidate[0], reference=reference[0], image=image, layers=layers)


def layer_figure(error: LayerError) -> LayerFigure:
    return LayerFigure(
        depth=error.depth,
        tensor=error.tensor,
        node=error.node,
        operator=error.operator,
        relative=finite(error.relative),
    )


def image_to_walk(comparison: Comparison) -> int | None:
    """The image on which a comparison fails most: by raw tensors if those fail, else by decoded results."""
    raw_failed = any(check.level is Level.RAW and not check.passed for check in comparison.checks)
    judged = [figure for figure in comparison.tensors if figure.judged]
    if judged and (raw_failed or comparison.decoded is None):
        return max(judged, key=_severity).worst_image
    if comparison.decoded is not None:
        return comparison.decoded.worst_image
    return None


def _severity(figure: TensorFigures) -> float:
    if figure.equal is not None:
        return 1.0 - figure.equal
    return float("inf") if figure.relative is None else figure.relative

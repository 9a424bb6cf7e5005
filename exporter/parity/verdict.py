"""From what was measured on all images to the report: metrics, verdicts, the layers that differ, pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from edgewise.exporter.bundle.tool_versions import tool_versions, writer
from edgewise.exporter.graph.numerics import network_inputs
from edgewise.exporter.parity.divergence import OnnxFile, find_divergence, image_to_walk, layer_curve
from edgewise.exporter.parity.gallery import Overlay, choose_images, draw_overlay
from edgewise.exporter.parity.judge import (
    decoded_checks,
    decoded_figures,
    metric_checks,
    raw_checks,
    run_check,
    tensor_figures,
)
from edgewise.exporter.parity.report import (
    Against,
    Comparison,
    Divergence,
    LayerCurve,
    MetricFigures,
    ParityReport,
    ScorePairs,
    StageReport,
    Status,
)
from edgewise.exporter.parity.request import ParityRequest
from edgewise.exporter.parity.stages import CANONICAL, EXPORTED_STAGE, LoweredStage
from edgewise.exporter.parity.task import TaskWords, task_metrics
from edgewise.exporter.parity.tracks import Image, PairTrack, StageTrack
from edgewise.models.data.dataset import Dataset
from edgewise.models.tasks.task import Metric
from edgewise.runtime.contract.bundle import MANIFEST, Bundle
from edgewise.runtime.contract.manifest import Graph, Precision
from edgewise.runtime.decoding.decode import looks_of
from edgewise.runtime.engines.base import Tensor
from edgewise.runtime.system.atomic import sha256_of
from edgewise.runtime.system.errors import BackendError, ParityError

Metrics = Mapping[str, Mapping[str, float | None]]
"""Stage -> metric -> value."""


@dataclass(frozen=True)
class Run:
    """One comparison while its stages are open; `stages` and `pairs` hold what was measured."""

    bundle: Bundle
    graph: Graph
    words: TaskWords
    dataset: Dataset
    metric: Metric
    count: int
    request: ParityRequest
    stages: dict[str, StageTrack]
    pairs: list[PairTrack]
    objects: dict[int, int] = field(default_factory=dict)
    """Image id -> annotated objects, crowds left out."""

    @property
    def reference(self) -> str:
        return next(iter(self.stages))

    @property
    def image_ids(self) -> list[int]:
        return [image.id for image in self.dataset.images[: self.count]]

    def image(self, index: int) -> Image:
        """An image of the dataset as the stages take it."""
        manifest = self.bundle.manifest
        looks = looks_of(manifest, self.dataset.frame(index), self.dataset.boxes(index))
        return Image(looks, network_inputs(self.graph, looks), index, self.dataset.images[index].id)

    def look(self, image_id: int | None) -> tuple[int, dict[str, Tensor]] | None:
        """An image to walk through the layers and the graph's input for its first look.

        The wanted image, or where it has none (no person to look at) the first that has; None where none has.
        """
        ids = self.image_ids
        wanted = [] if image_id is None else [ids.index(image_id)]
        for index in (*wanted, *range(len(ids))):
            inputs = self.image(index).inputs
            if inputs:
                return ids[index], dict(inputs[0])
        return None


def report(run: Run, progress: Callable[[str, int, int], None], started: float) -> ParityReport:
    """Judge everything that was measured.

    Args:
        started: `time.perf_counter()` at the start of the comparison.
    """
    metrics = _metrics(run, progress)
    progress("looking at layers", run.count, run.count)
    comparisons = tuple(_judged(run, pair, metrics) for pair in run.pairs)
    manifest = run.bundle.manifest
    return ParityReport(
        writer=writer(),
        bundle=manifest.name,
        manifest_sha256=sha256_of(run.bundle.path / MANIFEST),
        definition=manifest.provenance.definition,
        metric=run.metric.name,
        things=run.words.things,
        similarity=run.words.similarity,
        dataset=f"{run.dataset.json.parent.name}/{run.dataset.json.name}",
        images=run.count,
        objects=sum(run.objects.values()),
        reference=run.reference,
        budgets={budget.precision.value: _limits(budget) for budget in manifest.budgets},
        notes=tuple(_notes(run)),
        stages=tuple(_stage_report(track, metrics) for track in run.stages.values()),
        comparisons=comparisons,
        curves=tuple(_curves(run, comparisons)),
        scores=tuple(
            ScorePairs(candidate=pair.candidate, reference=pair.reference, pairs=tuple(pair.sampled_scores))
            for pair in run.pairs
            if Against.REFERENCE in pair.against
        ),
        seconds=time.perf_counter() - started,
        tools=tool_versions(),
    )


def gallery(run: Run, found: ParityReport) -> tuple[Overlay, ...]:
    """Overlays of the reference and of the first stage of each precision, worst images first."""
    names = [run.reference]
    for precision in Precision:
        lowered = (
            name
            for name, track in run.stages.items()
            if isinstance(track.opened.stage, LoweredStage) and track.info.precision is precision
        )
        names += [name for name in (next(lowered, None),) if name is not None]
    stages = [stage for name in names if (stage := run.stages[name].opened.stage) is not None]
    titles = {stage.name: stage.title for stage in found.stages}
    chosen = choose_images(found.comparisons, titles, run.image_ids, run.objects, run.request.overlays)
    return tuple(
        draw_overlay(run.bundle.manifest, run.words, run.dataset, index, note, run.image(index), stages)
        for index, note in chosen.items()
    )


def _metrics(run: Run, progress: Callable[[str, int, int], None]) -> Metrics:
    """The task's metric of every stage that gave a result for every image."""
    metrics: dict[str, Mapping[str, float | None]] = {}
    for number, (name, track) in enumerate(run.stages.items()):
        progress(f"measuring {run.metric.name}", number, len(run.stages))
        if track.images == run.count and track.status is Status.PASSED:
            metrics[name] = task_metrics(track.measuring.value(), run.dataset.vocabulary)
    return metrics


def _judged(run: Run, pair: PairTrack, metrics: Metrics) -> Comparison:
    tensors = tensor_figures(pair.tensors, [probe.name for probe in run.graph.probes])
    decoded = decoded_figures(pair.decoded)
    metric = MetricFigures(
        name=run.metric.name,
        reference=metrics.get(pair.reference, {}).get(run.metric.name),
        candidate=metrics.get(pair.candidate, {}).get(run.metric.name),
    )
    comparison = Comparison(
        candidate=pair.candidate,
        reference=pair.reference,
        against=pair.against,
        images=pair.images,
        tensors=tensors,
        decoded=decoded if pair.images else None,
        metric=metric,
        checks=(run_check(pair.images, run.count),),
    )
    if pair.images:
        checks = (
            *comparison.checks,
            *raw_checks(tensors, pair.budget, blind=_shows_no_probes(run, pair.candidate)),
            *decoded_checks(decoded, pair.budget, pair.images),
            *metric_checks(metric, pair.budget),
        )
        comparison = msgspec.structs.replace(comparison, checks=checks)
    if comparison.passed or run.stages[pair.candidate].opened.stage is None:
        return comparison
    divergence = _divergence(run, comparison, pair.budget.tensor_relative_error)
    return msgspec.structs.replace(comparison, divergence=divergence)


def _shows_no_probes(run: Run, name: str) -> bool:
    """Whether a stage is a built engine, whose inner tensors are fused away."""
    stage = run.stages[name].opened.stage
    if stage is None:
        return False
    shown = {spec.name for spec in stage.tensors}
    return any(probe.name not in shown for probe in run.graph.probes)


def _divergence(run: Run, comparison: Comparison, limit: float) -> Divergence:
    """Walk the candidate's file against the reference's; the exported file stands in for torch."""
    candidate, reference = run.stages[comparison.candidate], run.stages[comparison.reference]
    image = candidate.first_problem
    image = image_to_walk(comparison) if image is None else image
    if not reference.info.file:
        stand_in = EXPORTED_STAGE if comparison.candidate != EXPORTED_STAGE else CANONICAL
        reference = run.stages[stand_in]
    look = run.look(image)
    if look is None:
        return Divergence(
            against=reference.info.title,
            image=None,
            limit=limit,
            layer=None,
            detail="no image has anything to look at",
        )
    return find_divergence(
        run.bundle,
        run.graph,
        OnnxFile(candidate.info.title, candidate.info.file),
        OnnxFile(reference.info.title, reference.info.file),
        look[1],
        image=look[0],
        limit=limit,
        threads=run.request.stage_threads,
    )


def _curves(run: Run, comparisons: tuple[Comparison, ...]) -> Iterator[LayerCurve]:
    """FP16 and INT8 files against the file that they were made from, on the image that differs most."""
    for comparison in comparisons:
        track = run.stages[comparison.candidate]
        lowered = isinstance(track.opened.stage, LoweredStage) and track.info.precision is not Precision.FP32
        if Against.BEFORE not in comparison.against or not lowered:
            continue
        look = run.look(image_to_walk(comparison))
        if look is None:
            return
        try:
            yield layer_curve(
                run.bundle,
                run.graph,
                (comparison.candidate, track.info.file),
                (comparison.reference, run.stages[comparison.reference].info.file),
                look[1],
                image=look[0],
                threads=run.request.stage_threads,
            )
        except (BackendError, ParityError):
            continue  # the comparison itself has failed and says why


def _stage_report(track: StageTrack, metrics: Metrics) -> StageReport:
    info, stage = track.info, track.opened.stage
    return StageReport(
        name=info.name,
        title=info.title,
        precision=info.precision,
        before=info.before,
        file=info.file,
        engine=stage.engine if stage is not None else "",
        status=track.status,
        problems=track.problem_lines(),
        shown=track.shown,
        metrics=dict(metrics.get(info.name, {})),
        milliseconds=track.milliseconds,
    )


def _limits(budget: msgspec.Struct) -> dict[str, float]:
    return {key: value for key, value in msgspec.to_builtins(budget).items() if key != "precision"}


def _notes(run: Run) -> Iterator[str]:
    if run.request.without_torch:
        yield (
            "torch and its export were left out on request: everything is compared with the canonical ONNX "
            "model, and nothing here proves that model against the training definition"
        )
    if run.request.module is not None:
        yield "torch's numbers come from a module that the caller gave; no hash ties it to the bundle"
    if any(_shows_no_probes(run, name) for name in run.stages):
        yield "built engines show no inner tensors: their outputs are reported, not judged, at the raw level"

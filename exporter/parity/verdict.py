"""From what was measured on all images to the report: metrics, verdicts, the layers that differ, pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice

import msgspec

from edgewise.calibration.graph import load_model
from edgewise.exporter.bundle.tool_versions import tool_versions, writer
from edgewise.exporter.graph.numerics import GraphRunner
from edgewise.exporter.graph.recorder import Recorder
from edgewise.exporter.parity.divergence import OnnxFile, find_divergence, image_to_walk, layer_curve
from edgewise.exporter.parity.gallery import Overlay, choose_images, draw_overlay
from edgewise.exporter.parity.judge import (
    decoded_figures,
    judged_tensors,
    metric_checks,
    raw_checks,
    result_checks,
    run_check,
    tensor_figures,
    tensor_name,
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
from edgewise.exporter.parity.stages import CANONICAL, EXPORTED_STAGE
from edgewise.exporter.parity.task import task_metrics
from edgewise.exporter.parity.tracks import PairTrack, PreparedImage, StageTrack
from edgewise.models.data.dataset import Dataset
from edgewise.models.tasks.task import Metric
from edgewise.runtime.contract.bundle import MANIFEST, Bundle
from edgewise.runtime.contract.check import image_input
from edgewise.runtime.contract.manifest import Manifest, Precision
from edgewise.runtime.decoding.kinds import kind_of
from edgewise.runtime.engines.base import Tensor
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.results.kind import Nouns
from edgewise.runtime.system.atomic import sha256_of
from edgewise.runtime.system.errors import BackendError, ParityError
from edgewise.runtime.walk.walk import Preparation, Walk

Metrics = Mapping[str, Mapping[str, float | None]]
"""Stage -> metric -> value."""


@dataclass(frozen=True, eq=False)
class Feeds:
    """What a graph was given for its first look at an image."""

    image: int
    graph: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Run:
    """One comparison while its stages are open; `stages` and `pairs` hold what was measured."""

    bundle: Bundle
    dataset: Dataset
    metric: Metric
    count: int
    request: ParityRequest
    stages: dict[str, StageTrack]
    pairs: list[PairTrack]
    objects: dict[int, int] = field(default_factory=dict)
    """Image id -> annotated objects, crowds left out."""

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def nouns(self) -> Nouns:
        return kind_of(self.manifest).nouns

    @property
    def reference(self) -> str:
        return next(iter(self.stages))

    @property
    def image_ids(self) -> list[int]:
        return [image.id for image in self.dataset.images[: self.count]]

    def images(self) -> Iterator[PreparedImage]:
        """The images as the stages take them, in the dataset's order: a model with state sees one clip."""
        prepare = Preparation(self.manifest)
        for index in range(self.count):
            yield self._image(prepare, index)

    def images_to(self, index: int) -> Iterator[PreparedImage]:
        """What a stage walks to come to an image: the image itself, with state all images before it too."""
        if self.manifest.state:
            return islice(self.images(), index + 1)
        return iter((self._image(Preparation(self.manifest), index),))

    def _image(self, prepare: Preparation, index: int) -> PreparedImage:
        described = self.dataset.images[index]
        frame = Frame(index, described.file_name, self.dataset.frame(index), 0.0, described.id)
        return PreparedImage(prepare(frame, self.dataset.boxes(index)), index, described.id)

    def feeds(self, image_id: int | None) -> list[Feeds]:
        """An image to walk through the layers, and what its graph was given for the first look at it.

        The wanted image, or where it has none (no person to look at) the first that has; nothing where none
        has. Behind it follows each graph that ran on the way there and may have left a wrong state, as it was
        fed last.
        """
        ids = self.image_ids
        wanted = [] if image_id is None else [ids.index(image_id)]
        fed = (self._fed(self.images_to(index)) for index in (*wanted, *range(len(ids))))
        return next(filter(None, fed), [])

    def _fed(self, images: Iterable[PreparedImage]) -> list[Feeds]:
        if not self.manifest.state:
            (image,) = images
            graph, looks = image.prepared.graph, image.prepared.looks.looks
            return [
                Feeds(image.id, graph, {image_input(self.manifest, graph): look.tensor}) for look in looks[:1]
            ]
        canonical = {
            name: Recorder(GraphRunner(load_model(self.bundle.model(each.canonical or ""), where=name)), 1)
            for name, each in self.manifest.graphs.items()
        }
        walk = Walk(self.manifest, canonical)
        fed: dict[str, Feeds] = {}
        for image in images:
            graph = image.prepared.graph
            canonical[graph].forget()
            walk.infer(image.prepared)
            fed.pop(graph, None)
            fed[graph] = Feeds(image.id, graph, dict(canonical[graph].inputs[0]))
        return list(reversed(fed.values()))


def report(run: Run, progress: Callable[[str, int, int], None], started: float) -> ParityReport:
    """Judge everything that was measured.

    Args:
        started: `time.perf_counter()` at the start of the comparison.
    """
    metrics = _metrics(run, progress)
    progress("looking at layers", run.count, run.count)
    comparisons = tuple(_judged(run, pair, metrics) for pair in run.pairs)
    manifest = run.manifest
    return ParityReport(
        writer=writer(),
        bundle=manifest.name,
        manifest_sha256=sha256_of(run.bundle.path / MANIFEST),
        definition=manifest.provenance.definition,
        metric=run.metric.name,
        things=run.nouns.things,
        similarity=run.nouns.similarity,
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
            if track.opened.stage is not None
            and track.opened.stage.lowered
            and track.info.precision is precision
        )
        names += [name for name in (next(lowered, None),) if name is not None]
    tracks = [run.stages[name] for name in names if run.stages[name].opened.stage is not None]
    titles = {stage.name: stage.title for stage in found.stages}
    chosen = choose_images(found.comparisons, titles, run.image_ids, run.objects, run.request.overlays)
    return tuple(
        draw_overlay(run.manifest, run.dataset, index, note, partial(run.images_to, index), tracks)
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
    tensors = tensor_figures(pair.tensors, _probes(run.manifest), judged_tensors(run.manifest))
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
            *result_checks(pair.decoded, pair.budget),
            *metric_checks(metric, pair.budget),
        )
        comparison = msgspec.structs.replace(comparison, checks=checks)
    if comparison.passed or run.stages[pair.candidate].opened.stage is None:
        return comparison
    divergence = _divergence(run, comparison, pair.budget.tensor_relative_error)
    return msgspec.structs.replace(comparison, divergence=divergence)


def _probes(manifest: Manifest) -> list[str]:
    """The probes of all graphs, by the names under which tensors are compared."""
    return [
        tensor_name(manifest, name, probe.name)
        for name, graph in manifest.graphs.items()
        for probe in graph.probes
    ]


def _shows_no_probes(run: Run, name: str) -> bool:
    """Whether a stage is a built engine, whose inner tensors are fused away."""
    stage = run.stages[name].opened.stage
    if stage is None:
        return False
    return any(
        not stage.shows(graph, probe.name)
        for graph, each in run.manifest.graphs.items()
        for probe in each.probes
    )


def _divergence(run: Run, comparison: Comparison, limit: float) -> Divergence:
    """Walk the candidate's file against the reference's; the exported file stands in for torch."""
    candidate, reference = run.stages[comparison.candidate], run.stages[comparison.reference]
    image = candidate.first_problem
    image = image_to_walk(comparison) if image is None else image
    if not reference.info.files:
        stand_in = EXPORTED_STAGE if comparison.candidate != EXPORTED_STAGE else CANONICAL
        reference = run.stages[stand_in]
    walks = (
        find_divergence(
            run.bundle,
            run.bundle.graph(feeds.graph),
            OnnxFile(candidate.info.title, candidate.info.files[feeds.graph]),
            OnnxFile(reference.info.title, reference.info.files[feeds.graph]),
            feeds.tensors,
            image=feeds.image,
            limit=limit,
            threads=run.request.stage_threads,
        )
        for feeds in run.feeds(image)
    )
    first = next(walks, None)
    if first is None:
        return Divergence(
            against=reference.info.title,
            image=None,
            limit=limit,
            layer=None,
            detail="no image has anything to look at",
        )
    return next((found for found in chain((first,), walks) if found.layer is not None), first)


def _curves(run: Run, comparisons: tuple[Comparison, ...]) -> Iterator[LayerCurve]:
    """FP16 and INT8 files against the file that they were made from, on the image that differs most."""
    for comparison in comparisons:
        track = run.stages[comparison.candidate]
        stage = track.opened.stage
        lowered = stage is not None and stage.lowered and track.info.precision is not Precision.FP32
        if Against.BEFORE not in comparison.against or not lowered:
            continue
        fed = run.feeds(image_to_walk(comparison))
        if not fed:
            return
        feeds = fed[0]
        try:
            yield layer_curve(
                run.bundle,
                run.bundle.graph(feeds.graph),
                (comparison.candidate, track.info.files[feeds.graph]),
                (comparison.reference, run.stages[comparison.reference].info.files[feeds.graph]),
                feeds.tensors,
                image=feeds.image,
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
        file=", ".join(info.files.values()),
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

"""Compare all stages of a bundle on a dataset, one image at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from edgewise.exporter.parity.calibration_overlap import refuse_calibration_images
from edgewise.exporter.parity.gallery import Overlay
from edgewise.exporter.parity.opening import open_stages
from edgewise.exporter.parity.report import Against, ParityReport, Status
from edgewise.exporter.parity.request import ParityRequest
from edgewise.exporter.parity.task import check_vocabulary
from edgewise.exporter.parity.tracks import Decoded, PairTrack, PreparedImage, StageTrack
from edgewise.exporter.parity.verdict import Run, gallery, report
from edgewise.models.data.dataset import Dataset
from edgewise.models.measuring.tasks import task_of
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Precision
from edgewise.runtime.decoding.kinds import kind_of
from edgewise.runtime.system.errors import DatasetError, ParityError
from edgewise.runtime.system.processor import available_cores

Progress = Callable[[str, int, int], None]
"""What is being done, how many steps are done, and of how many."""


@dataclass(frozen=True)
class Compared:
    """The report, and the pictures that only the HTML page shows."""

    report: ParityReport
    overlays: tuple[Overlay, ...]


def _silent(step: str, done: int, total: int) -> None:
    del step, done, total


def compare(request: ParityRequest, progress: Progress = _silent) -> Compared:
    """Run every stage on every image and judge what they give; writes no report.

    Raises:
        BundleError: The bundle is missing or changed.
        DatasetError: The dataset is missing, broken, empty, has other categories or keypoints than the
            bundle, or is the one that the calibration images were chosen from.
        CheckpointError: The checkpoint is not the one that was exported.
        ParityError: The bundle cannot be compared, or lacks its sources.
    """
    started = time.perf_counter()
    bundle = Bundle.open(request.bundle)
    manifest = bundle.manifest
    task = task_of(manifest.task)
    dataset = task.dataset.open(request.dataset, request.images)
    check_vocabulary(manifest, dataset)
    refuse_calibration_images(manifest, dataset)
    count = _image_count(request, dataset)
    with ExitStack() as stack:
        progress("opening stages", 0, count)
        opened = open_stages(bundle, request, stack)
        stages = {
            entry.info.name: StageTrack(entry, manifest, task.metric.begin(dataset)) for entry in opened
        }
        pairs = _pairs(bundle, stages)
        run = Run(bundle, dataset, task.metric, count, request, stages, pairs)
        _compare_images(run, progress)
        found = report(run, progress, started)
        progress("drawing overlays", count, count)
        return Compared(found, gallery(run, found))


def _image_count(request: ParityRequest, dataset: Dataset) -> int:
    if request.limit is not None and request.limit < 1:
        raise DatasetError(f"the limit is {request.limit}", hint="give a number from 1 up, or leave it out")
    return len(dataset) if request.limit is None else min(request.limit, len(dataset))


def _pairs(bundle: Bundle, stages: dict[str, StageTrack]) -> list[PairTrack]:
    pairs = [
        PairTrack(candidate, reference, against, bundle.manifest, bundle.manifest.budget(precision))
        for candidate, reference, against, precision in _comparisons(stages)
    ]
    if not pairs:
        raise ParityError(
            "there is nothing to compare: no stage besides the reference can run here",
            where=str(bundle.path),
            hint="leave --backend out, or name a backend that the bundle has files for",
        )
    return pairs


def _comparisons(
    stages: dict[str, StageTrack],
) -> Iterator[tuple[str, str, tuple[Against, ...], Precision]]:
    """Every stage that can run, against the first one and against the one that it was made from."""
    first = next(iter(stages))
    for name, track in stages.items():
        if name == first or track.status is Status.NOT_RUN:
            continue
        before, precision = track.info.before, track.info.precision
        if before is None or before == first:
            yield name, first, (Against.REFERENCE, Against.BEFORE), precision
        else:
            yield name, first, (Against.REFERENCE,), precision
            yield name, before, (Against.BEFORE,), precision


def _compare_images(run: Run, progress: Progress) -> None:
    kind = kind_of(run.manifest)
    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        for image in run.images():
            progress("comparing", image.index, run.count)
            run.objects[image.id] = kind.counts(run.dataset.truth(image.index), 0.0).total()
            found = _measure(run, pool, image)
            for pair in run.pairs:
                pair.add(image.id, found[pair.candidate], found[pair.reference])
    progress("comparing", run.count, run.count)


def _measure(run: Run, pool: ThreadPoolExecutor, image: PreparedImage) -> dict[str, Decoded | None]:
    """One image through every stage: the CPU's side by side, engines on the thread that opened them."""
    on_pool = {
        name: pool.submit(track.measure, image)
        for name, track in run.stages.items()
        if track.opened.stage is None or not track.opened.stage.on_device
    }
    return {
        name: on_pool[name].result() if name in on_pool else track.measure(image)
        for name, track in run.stages.items()
    }

"""The verb `run`: a source through a bundle, into tables and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from edgewise.runtime.command.anonymise import SHARE_OF_SHOWN, Withheld, anonymiser
from edgewise.runtime.command.printing import (
    count_table,
    left_out_note,
    loss_lines,
    result_table,
    unsettled_note,
)
from edgewise.runtime.command.run_files import RunFiles
from edgewise.runtime.command.sinks import (
    IMAGES,
    OVERLAY_FOLDER,
    OVERLAY_VIDEO,
    RESULTS,
    CocoResults,
    OverlayImages,
    OverlayVideo,
)
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import ClassLabel, Manifest, Precision
from edgewise.runtime.decoding.kinds import kind_of
from edgewise.runtime.engines.options import EngineOptions
from edgewise.runtime.frames.image_ids import ImageIds
from edgewise.runtime.frames.reading import Losses, Reading
from edgewise.runtime.frames.sources import Source, SourceKind, open_source
from edgewise.runtime.pixels.cover import Cover
from edgewise.runtime.results.kind import Sink, Smoothing
from edgewise.runtime.results.result import Result, Scored, above, is_settled
from edgewise.runtime.system.errors import SourceError
from edgewise.runtime.system.interruption import deferred_interrupt
from edgewise.runtime.system.output_set import OutputSet
from edgewise.runtime.walk.box_sources import MOST_PEOPLE, BoxSource, CocoBoxes, DetectorBoxes, require_crops
from edgewise.runtime.walk.session import Session


@dataclass(frozen=True)
class BoxRequest:
    """Where a model of crops looks.

    Attributes:
        path: A detector's bundle, or a COCO file.
        precision: Of the detector.
        class_name: The class that is looked at; the first of the model's own where None.
        least_score: Boxes that score less are left out; a detector's display threshold, or 0 of a file, where
            None.
        most: Boxes of one frame; MOST_PEOPLE of a detector, all of a file, where None.
    """

    path: Path
    precision: Precision
    class_name: str | None = None
    least_score: float | None = None
    most: int | None = None


@dataclass(frozen=True)
class RunRequest:
    """What `edgewise run` was asked for; see the command's options."""

    bundle: Path
    source: str
    output: Path | None
    engine: EngineOptions
    precision: Precision
    settings: Mapping[str, str]
    annotations: Path | None
    boxes: BoxRequest | None
    threshold: float | None
    overlay: bool
    coco: bool
    limit: int | None
    segment: float | None
    force: bool
    reading: Reading
    smoothing: Smoothing | None = None
    anonymise: Cover | None = None


def run_source(request: RunRequest, console: Console) -> None:
    """Run a bundle on every frame of a source.

    Raises:
        EdgewiseError: Something was not there, or broke; `RunFiles` says what is left.
        KeyboardInterrupt: After what was done until then has been published.
    """
    bundle = Bundle.open(request.bundle)
    if request.boxes is not None:
        require_crops(bundle.manifest)
    if request.smoothing is not None and kind_of(bundle.manifest).smoothing is None:
        raise SourceError(
            "the results of this model have no points to smooth",
            where=bundle.manifest.name,
            hint="leave --smooth out, or give a model of keypoints",
        )
    if request.anonymise is not None:
        _require_everybody(request, bundle.manifest)
    boxes_of_file = _boxes_of_file(request.boxes, bundle.manifest)
    source = open_source(request.source, request.reading, _image_ids(request, boxes_of_file))
    if request.annotations is not None and source.kind is not SourceKind.IMAGES:
        source.close()
        raise SourceError(
            "frames of a video or stream are numbered by position, no annotation file names them",
            where=request.source,
            hint="leave --annotations out, or give a folder of images",
        )
    if request.smoothing is not None and source.kind is SourceKind.IMAGES:
        raise SourceError(
            "pictures of a folder do not follow one another, so their points are not smoothed",
            where=request.source,
            hint="leave --smooth out, or give a video, camera or stream",
        )
    names = _output_names(source, bundle.manifest, overlay=request.overlay, coco=request.coco)
    with (
        closing(source),
        Session.open(
            bundle, backend=request.engine, precision=request.precision, settings=request.settings
        ) as session,
        _box_source(request, bundle.manifest, boxes_of_file) as boxes,
    ):
        if request.output is None or not names:
            _run_frames(session, source, boxes, None, request, console)
            return
        shown = _shown_from(request, session.manifest)
        with RunFiles(
            request.output,
            names,
            replace=request.force,
            segment=request.segment,
            open_sinks=lambda files: _open_sinks(files, names, source, session.manifest, shown),
        ) as files:
            _run_frames(session, source, boxes, files, request, console)


def _require_everybody(request: RunRequest, manifest: Manifest) -> None:
    """Raise SourceError where somebody whom nobody looks at would stay visible."""
    if manifest.preprocess.needs_boxes and request.boxes is None:
        raise SourceError(
            "a model of crops does not find what is to be covered",
            where=manifest.name,
            hint="give the detector's bundle with --boxes",
        )
    if request.boxes is not None and request.boxes.most is not None:
        raise SourceError(
            "what --most-boxes leaves out would stay visible", where="--anonymise", hint="leave it out"
        )


def _shown_from(request: RunRequest, manifest: Manifest) -> float:
    return manifest.postprocess.shown_from if request.threshold is None else request.threshold


def _looked_at(manifest: Manifest) -> ClassLabel:
    """The model's first class, or COCO's person where it names none."""
    return manifest.classes[0] if manifest.classes else ClassLabel(id=1, name="person")


def _boxes_of_file(asked: BoxRequest | None, manifest: Manifest) -> CocoBoxes | None:
    """The boxes where they come from a file."""
    if asked is None or asked.path.is_dir():
        return None
    return CocoBoxes.open(
        asked.path,
        _looked_at(manifest),
        class_name=asked.class_name,
        least_score=asked.least_score or 0.0,
        most=asked.most,
    )


def _image_ids(request: RunRequest, boxes: CocoBoxes | None) -> ImageIds | None:
    """What numbers the images: the annotations, or the file of boxes where it lists images."""
    if request.annotations is not None:
        return ImageIds.open(request.annotations)
    return None if boxes is None else boxes.ids


@contextmanager
def _box_source(
    request: RunRequest, manifest: Manifest, boxes_of_file: CocoBoxes | None
) -> Generator[BoxSource | None]:
    asked = request.boxes
    if asked is None or boxes_of_file is not None:
        yield boxes_of_file
    else:
        with Session.open(asked.path, backend=request.engine, precision=asked.precision) as detector:
            yield DetectorBoxes(
                detector,
                asked.class_name or _looked_at(manifest).name,
                least_score=_least_of_detector(request, detector.manifest),
                most=None if request.anonymise else asked.most or MOST_PEOPLE,
            )


def _least_of_detector(request: RunRequest, detector: Manifest) -> float | None:
    assert request.boxes is not None
    if request.anonymise is None or request.boxes.least_score is not None:
        return request.boxes.least_score
    return SHARE_OF_SHOWN * detector.postprocess.shown_from


def _output_names(source: Source, manifest: Manifest, *, overlay: bool, coco: bool) -> list[str]:
    names = [RESULTS, IMAGES] if coco else []
    if coco:
        names += [name for form in kind_of(manifest).sinks for name in form.names]
    if overlay:
        names.append(OVERLAY_FOLDER if source.kind is SourceKind.IMAGES else OVERLAY_VIDEO)
    return names


def _open_sinks(
    folder: OutputSet, names: list[str], source: Source, manifest: Manifest, shown: float
) -> list[Sink]:
    sinks: list[Sink] = []
    if RESULTS in names:
        sinks.append(CocoResults(folder.path(RESULTS), folder.path(IMAGES), source.losses))
    for form in kind_of(manifest).sinks:
        if form.names[0] in names:
            sinks.append(form.open([folder.path(name) for name in form.names], manifest))
    if OVERLAY_FOLDER in names:
        sinks.append(OverlayImages(folder.path(OVERLAY_FOLDER), threshold=shown))
    if OVERLAY_VIDEO in names:
        sinks.append(OverlayVideo(folder.path(OVERLAY_VIDEO), threshold=shown, fps=source.fps))
    return sinks


def _run_frames(
    session: Session,
    source: Source,
    boxes: BoxSource | None,
    files: RunFiles | None,
    request: RunRequest,
    console: Console,
) -> None:
    """Run the source to its end, or as far as it goes, and publish what came of it."""
    threshold, limit = request.threshold, request.limit
    shown = _shown_from(request, session.manifest)
    kind = kind_of(session.manifest)
    smooth = kind.smoothing(request.smoothing) if kind.smoothing and request.smoothing else None
    incomplete = boxes.incomplete if isinstance(boxes, DetectorBoxes) else frozenset[int]()
    hide = request.anonymise and anonymiser(request.anonymise, session.manifest, threshold, incomplete)
    live = source.kind is SourceKind.LIVE
    counts: Counter[str] = Counter()
    done = unsettled = 0
    last: Result | None = None
    stopped: BaseException | None = None
    # A deeper pipeline would make the newest frame of a live source an older one.
    one_by_one = source.kind is SourceKind.IMAGES and source.count != 1 and not request.reading.strict
    # What is launched together is waited for together, and a group is as much in hand as some frames.
    gather = not live and session.walk.batch > 1
    stream = session.stream(
        source,
        boxes,
        depth=1 if live or gather else 2,
        gather=gather,
        unfit=source.skip if one_by_one else None,
    )
    count = source.count if limit is None else min(limit, source.count or limit)
    try:
        with _progress(source.losses) as progress:
            task = progress.add_task(session.manifest.name, total=count)
            for frame, found in stream:
                result = found if smooth is None else smooth(found, frame.timestamp)
                try:
                    shown_frame = hide(frame, found) if hide else frame
                except Withheld as error:
                    source.skip(frame, error)
                    progress.advance(task)
                    continue
                kept = result if threshold is None else above(result, threshold)
                with deferred_interrupt():  # what is written is counted
                    if files is not None:
                        files.write(shown_frame, kept)
                    counts.update(kind.counts(result, shown))
                    last, done = result, done + 1
                    unsettled += not is_settled(result)
                progress.advance(task)
                if done == limit:
                    break
    except KeyboardInterrupt as interrupt:
        stopped = interrupt
    except SourceError as error:
        if not live:
            raise
        stopped = error
    except BaseException:
        source.close()
        stream.close()
        raise
    if not done and stopped is None and source.losses.skipped:
        raise source.losses.error(source.name)
    interrupted = isinstance(stopped, KeyboardInterrupt)
    partial = stopped is not None and not (live and interrupted)
    with deferred_interrupt():
        published = files.finish(partial=partial) if files is not None else []
    # Only now: a dead camera can hold its thread for longer than a service manager waits before it kills.
    source.close()
    stream.close()
    for path in published:
        console.print(Text(f"wrote {path}"), soft_wrap=True)
    if done == 1 and isinstance(last, Scored):
        console.print(result_table(last, shown, kind))
    else:
        console.print(count_table(counts, done, kind.nouns.things))
    if unsettled:
        console.print(Text(unsettled_note(unsettled, done)), soft_wrap=True)
    if source.left_out:
        console.print(Text(left_out_note(source.left_out)), soft_wrap=True)
    for line in loss_lines(source.losses):
        console.print(Text(line), soft_wrap=True)
    if stopped is not None:
        raise stopped


class _LossColumn(ProgressColumn):
    """What a source did not give so far; it is drawn anew also while no frame comes."""

    def __init__(self, losses: Losses) -> None:
        super().__init__()
        self._losses = losses

    def render(self, task: Task) -> Text:
        """The counts that are not 0."""
        losses = self._losses
        words = [
            f"{count} {what}"
            for count, what in (
                (len(losses.skipped), "skipped"),
                (losses.dropped, "dropped"),
                (losses.reconnected, "reconnected"),
            )
            if count
        ]
        return Text(", ".join([*words, *(["lost, trying again"] if losses.lost else [])]), "yellow")


def _progress(losses: Losses) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _LossColumn(losses),
        console=Console(stderr=True),
        refresh_per_second=4,
        transient=True,
    )

"""The verbs that run on a device: `run`, `selftest`, `inspect`, `bench`, `doctor`.

Also how every edgewise command ends: `main_of` turns an EdgewiseError into one panel on stderr.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from edgewise.runtime.errors import EdgewiseError, ParityError, SourceError
from edgewise.runtime.interruption import deferred_interrupt
from edgewise.runtime.manifest import Precision, Target

if TYPE_CHECKING:
    from edgewise.runtime.bundle import Bundle
    from edgewise.runtime.results import Instances
    from edgewise.runtime.session import Session
    from edgewise.runtime.sinks import OutputFolder, Sink
    from edgewise.runtime.sources import Source

INTERRUPTED = 130
QUIET_OPENCV = {"OPENCV_LOG_LEVEL": "OFF", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
"""OpenCV and FFmpeg would print their own lines beside our one error."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run vision models from bundles, with the results that their training definition gives.",
)
console = Console()

BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Folder that `edgewise export` wrote.")
]
BackendOption = Annotated[Target, typer.Option(help="Inference engine.")]
PrecisionOption = Annotated[Precision, typer.Option(help="One that the bundle holds for the backend.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads of the CPU backend; all cores where left out.")
]
ProviderOption = Annotated[str, typer.Option(help="cpu or cuda, for ONNX Runtime.")]


@app.command()
def run(
    bundle: BundleArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Image, folder of images, video, camera index, rtsp:// or http:// address, "
            'or GStreamer pipeline ("... ! appsink").',
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for overlays and COCO results.")
    ] = None,
    backend: BackendOption = Target.ONNXRUNTIME,
    precision: PrecisionOption = Precision.FP32,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Least score of what is drawn, counted and written. Left out, the manifest's display "
            "threshold holds for drawing and counting, and the results keep everything.",
        ),
    ] = None,
    overlay: Annotated[bool, typer.Option(help="Draw the results (with --output).")] = True,
    coco: Annotated[bool, typer.Option(help="Write COCO results with RLE masks (with --output).")] = True,
    threads: ThreadsOption = None,
    provider: ProviderOption = "cpu",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    force: Annotated[bool, typer.Option(help="Replace the results of an earlier run.")] = False,
) -> None:
    """Run a bundle on images, a video or a live stream.

    Files appear when the run is complete. Interrupting a camera or stream completes the run; interrupting
    anything else leaves valid files named `.partial`; an error leaves nothing.
    """
    from edgewise.runtime.matching import display_threshold
    from edgewise.runtime.session import Session
    from edgewise.runtime.sinks import OutputFolder
    from edgewise.runtime.sources import open_source

    opened = _open_bundle(bundle)
    frames = open_source(source)
    shown = display_threshold(opened.manifest.postprocess) if threshold is None else threshold
    names = _output_names(frames, overlay=overlay, coco=coco)
    with Session.open(
        opened, backend=backend, precision=precision, threads=threads, provider=provider
    ) as session:
        folder = OutputFolder(output, names, replace=force) if output is not None and names else None
        try:
            sinks = _open_sinks(folder, names, frames, shown) if folder is not None else []
            _run_frames(session, frames, sinks, folder, shown, threshold, limit)
        except BaseException:
            if folder is not None:
                folder.discard()
            raise


def _output_names(source: Source, *, overlay: bool, coco: bool) -> list[str]:
    from edgewise.runtime.sinks import IMAGES, OVERLAY_FOLDER, OVERLAY_VIDEO, RESULTS
    from edgewise.runtime.sources import SourceKind

    names = [RESULTS, IMAGES] if coco else []
    if overlay:
        names.append(OVERLAY_FOLDER if source.kind is SourceKind.IMAGES else OVERLAY_VIDEO)
    return names


def _open_sinks(folder: OutputFolder, names: list[str], source: Source, shown: float) -> list[Sink]:
    from edgewise.runtime.sinks import (
        IMAGES,
        OVERLAY_FOLDER,
        OVERLAY_VIDEO,
        RESULTS,
        CocoResults,
        OverlayImages,
        OverlayVideo,
    )

    sinks: list[Sink] = []
    if RESULTS in names:
        sinks.append(CocoResults(folder.path(RESULTS), folder.path(IMAGES)))
    if OVERLAY_FOLDER in names:
        sinks.append(OverlayImages(folder.path(OVERLAY_FOLDER), threshold=shown))
    if OVERLAY_VIDEO in names:
        sinks.append(OverlayVideo(folder.path(OVERLAY_VIDEO), threshold=shown, fps=source.fps))
    return sinks


def _run_frames(
    session: Session,
    source: Source,
    sinks: list[Sink],
    folder: OutputFolder | None,
    shown: float,
    threshold: float | None,
    limit: int | None,
) -> None:
    """Run the source to its end, or as far as it goes, and publish what came of it."""
    from edgewise.runtime.sources import SourceKind
    from edgewise.runtime.tables import count_table, result_table

    live = source.kind is SourceKind.LIVE
    counts: Counter[str] = Counter()
    done = 0
    last: Instances | None = None
    stopped: BaseException | None = None
    stream = session.stream(source)
    count = source.count if limit is None else min(limit, source.count or limit)
    try:
        with _progress() as progress:
            task = progress.add_task(session.manifest.name, total=count)
            for frame, result in stream:
                kept = result if threshold is None else result[result.scores >= threshold]
                with deferred_interrupt():
                    for sink in sinks:
                        sink.write(frame, kept)
                for index in result.classes[result.scores >= shown].tolist():
                    counts[result.labels[index].name] += 1
                last, done = result, done + 1
                progress.advance(task)
                if done == limit:
                    break
    except KeyboardInterrupt as interrupt:
        stopped = interrupt
    except SourceError as error:
        if not live:
            raise
        stopped = error
    finally:
        stream.close()
    interrupted = isinstance(stopped, KeyboardInterrupt)
    partial = stopped is not None and not (live and interrupted)
    with deferred_interrupt():
        for sink in sinks:
            sink.close()
        published = folder.publish(partial=partial) if folder is not None else []
    for path in published:
        console.print(Text(f"wrote {path}"), soft_wrap=True)
    if done == 1 and last is not None:
        console.print(result_table(last, shown))
    else:
        console.print(count_table(counts, done))
    if stopped is not None:
        raise stopped


@app.command()
def selftest(
    bundle: BundleArgument,
    backend: BackendOption = Target.ONNXRUNTIME,
    precision: Annotated[
        Precision | None, typer.Option(help="Every one that the bundle holds for the backend, if left out.")
    ] = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = "cpu",
) -> None:
    """Rerun the bundle's golden samples on this machine; exit with 1 where a budget is broken."""
    from edgewise.runtime.selftest import selftest as rerun
    from edgewise.runtime.tables import selftest_table

    opened = _open_bundle(bundle)
    widths = [precision] if precision is not None else _precisions_of(opened, backend)
    failed: list[str] = []
    for width in widths:
        report = rerun(opened, backend, width, threads=threads, provider=provider)
        console.print(selftest_table(report))
        if not report.passed:
            failed.append(f"{width.value}: {len(report.failures)} of {len(report.checks)} checks")
    if failed:
        raise ParityError(
            f"the self test failed ({'; '.join(failed)})",
            where=str(bundle),
            hint="the table above marks what broke its limit; do not use this bundle on this device",
        )


def _precisions_of(bundle: Bundle, backend: Target) -> list[Precision]:
    from edgewise.runtime.schedule import graph_names

    graphs = [bundle.graph(name) for name in graph_names(bundle.manifest.schedule)]
    held = [{file.precision for file in graph.files if file.target is backend} for graph in graphs]
    found = [precision for precision in Precision if all(precision in widths for widths in held)]
    if not found:
        bundle.graph_entry(graph_names(bundle.manifest.schedule)[0], backend, Precision.FP32)
    return found


@app.command()
def inspect(bundle: BundleArgument) -> None:
    """Print what a bundle holds and check the hash of every file."""
    from edgewise.runtime.tables import bundle_tables

    opened = _open_bundle(bundle)
    opened.verify()
    console.print(bundle_tables(opened))
    console.print(f"all {len(opened.manifest.files)} files have their hashes")


@app.command()
def bench(
    bundle: BundleArgument,
    backend: BackendOption = Target.ONNXRUNTIME,
    precision: PrecisionOption = Precision.FP32,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs.")] = 50,
    warm_up: Annotated[int, typer.Option(min=0, help="Runs before the timed ones.")] = 5,
    image: Annotated[
        Path | None, typer.Option(help="Image to run on; a golden of the bundle if left out.")
    ] = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = "cpu",
) -> None:
    """Time preprocessing, inference and postprocessing on this machine."""
    from edgewise.runtime.session import Session
    from edgewise.runtime.sources import decode_image, read_image
    from edgewise.runtime.tables import timing_table
    from edgewise.runtime.timing import time_stages

    opened = _open_bundle(bundle)
    goldens = opened.manifest.goldens
    if image is None and not goldens:
        raise SourceError("the bundle has no golden to run on", where=str(bundle), hint="pass --image FILE")
    pixels = (
        read_image(image)
        if image is not None
        else decode_image(opened.read(goldens[0].image), where="golden")
    )
    with Session.open(
        opened, backend=backend, precision=precision, threads=threads, provider=provider
    ) as session:
        times = time_stages(session, pixels, runs=runs, warm_up=warm_up)
        name = ", ".join(dict.fromkeys(engine.name for engine in session.engines.values()))
    height, width = pixels.shape[:2]
    title = f"{opened.manifest.name} {precision.value}, {width}x{height}, {name}, {runs} runs"
    console.print(timing_table(title, times))


@app.command()
def doctor() -> None:
    """Say what is installed on this machine, and what to install for the rest."""
    from edgewise.runtime.doctor import examine
    from edgewise.runtime.tables import doctor_table

    findings = examine()
    console.print(doctor_table(findings))
    missing = [finding for finding in findings if finding.needed and not finding.good]
    if missing:
        raise EdgewiseError(
            f"{', '.join(finding.subject for finding in missing)} cannot be used",
            hint="; ".join(finding.advice for finding in missing),
        )


def _open_bundle(path: Path) -> Bundle:
    from edgewise.runtime.bundle import Bundle

    return Bundle.open(path)


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
        transient=True,
    )


# ---------------------------------------------------------------- how every command ends

Returned = TypeVar("Returned")


def guard(action: Callable[[], Returned]) -> Returned:
    """Call `action`; what a user can cause becomes one panel on stderr and exit status 1.

    An interrupt exits with 130. Errors of the operating system (a full disk, a folder without permission) are
    shown like our own; everything else is a defect and keeps its traceback.
    """
    try:
        return action()
    except EdgewiseError as error:
        _show(error)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _show(
            EdgewiseError(f"the system refused: {error.strerror or error}", where=str(error.filename or ""))
        )
        sys.exit(1)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        sys.exit(INTERRUPTED)


def main_of(application: typer.Typer) -> Callable[[], None]:
    """The entry point of a console script around `application`."""

    def main() -> None:
        for name, value in QUIET_OPENCV.items():
            os.environ.setdefault(name, value)
        guard(application)

    return main


def _show(error: EdgewiseError) -> None:
    body = Text(error.what)
    for label, value in (("where: ", error.where), ("next:  ", error.hint)):
        if value:
            body.append(f"\n{label}", "dim").append(value)
    Console(stderr=True).print(Panel(body, title="error", title_align="left", border_style="red"))


main = main_of(app)

"""The verbs that run on a device: `run`, `selftest`, `inspect`, `bench`, `doctor`.

Also how every edgewise command ends: `main_of` turns an EdgewiseError into one panel on stderr.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from edgewise.runtime.contract.manifest import Precision, Target
from edgewise.runtime.pixels.cover import Cover
from edgewise.runtime.system.errors import EdgewiseError, ParityError, SourceError
from edgewise.runtime.system.interruption import interrupt_on_termination
from edgewise.runtime.system.opencv import require_opencv

if TYPE_CHECKING:
    from edgewise.runtime.contract.bundle import Bundle

INTERRUPTED = 130
QUIET_OPENCV = {"OPENCV_LOG_LEVEL": "OFF", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
"""OpenCV and FFmpeg would print their own lines beside our one error."""


def before_verb(context: typer.Context) -> None:
    """Say what to install where OpenCV cannot be imported; `doctor` says it among the rest.

    Raises:
        EdgewiseError: It cannot.
    """
    if context.invoked_subcommand != "doctor":
        require_opencv()


app = typer.Typer(
    callback=before_verb,
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
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A field of the manifest's postprocessing, e.g. postprocess.flip_test=true; may be repeated.",
    ),
]


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
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="COCO file that lists the images: results carry its image ids. Left out, a file of --boxes "
            "that lists them gives the ids, or the numbers that the files are named by, where all differ.",
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="Where a model of crops looks: the bundle of a detector, or a COCO file of annotations or "
            "detections. The whole frame where left out.",
        ),
    ] = None,
    boxes_precision: Annotated[
        Precision | None, typer.Option(help="Of the detector; as the bundle's, if left out.")
    ] = None,
    boxes_class: Annotated[
        str | None, typer.Option(help="Class that is looked at; the bundle's own first, if left out.")
    ] = None,
    boxes_threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Least score of a box that is looked at; the detector's display threshold, or 0 of a file, "
            "if left out.",
        ),
    ] = None,
    most_boxes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Boxes of one frame, the best; 20 of a detector, all of a file, if left out."
        ),
    ] = None,
    setting: SetOption = None,
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
    coco: Annotated[bool, typer.Option(help="Write COCO results (with --output).")] = True,
    threads: ThreadsOption = None,
    provider: ProviderOption = "cpu",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Run every Nth frame alone.")] = 1,
    every_frame: Annotated[
        bool,
        typer.Option(
            "--every-frame",
            help="Run every frame of a camera or stream, however late; the newest where left out: what comes "
            "while others are run is dropped and counted.",
        ),
    ] = False,
    reconnect: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="For how long a camera or stream that was lost is tried again; with 0 its end is the end. "
            "60 if left out, 0 for a GStreamer pipeline.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="End with an error where an image cannot be read or a video ends before the length that it "
            "announces; otherwise it is left out, counted and named.",
        ),
    ] = False,
    smooth: Annotated[
        bool,
        typer.Option("--smooth", help="Smooth keypoints over a video or stream (One Euro filter)."),
    ] = False,
    smooth_cutoff: Annotated[
        float | None,
        typer.Option(
            min=1e-3, metavar="HZ", help="--smooth with this cutoff: less is smoother. 1 if left out."
        ),
    ] = None,
    smooth_beta: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="--smooth with so many Hz more for each pixel a second. 0.007 if left out."
        ),
    ] = None,
    anonymise: Annotated[
        Cover | None,
        typer.Option(
            help="Cover everything that is found, in every picture and video that is written. A frame whose "
            "detection is not proven complete is not written.",
        ),
    ] = None,
    segment: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Publish a part of the results every 90s, 10min or 1h of the run, each in a folder of its "
            "own (with --output); at the end alone if left out.",
        ),
    ] = "",
    force: Annotated[bool, typer.Option(help="Replace the results of an earlier run.")] = False,
) -> None:
    """Run a bundle on images, a video or a live stream.

    Files appear when the run is complete, or in parts with --segment. Interrupting a camera or stream
    completes the run; interrupting anything else leaves valid files named `.partial`, and an error nothing.
    """
    from edgewise.runtime.command.run import BoxRequest, RunRequest, run_source
    from edgewise.runtime.engines.options import engine_options
    from edgewise.runtime.frames.reading import Reading
    from edgewise.runtime.results.kind import Smoothing

    looked_at = None
    if boxes is not None:
        looked_at = BoxRequest(boxes, boxes_precision or precision, boxes_class, boxes_threshold, most_boxes)
    smoothing = None
    if smooth or smooth_cutoff is not None or smooth_beta is not None:
        usual = Smoothing()
        smoothing = Smoothing(
            usual.cutoff if smooth_cutoff is None else smooth_cutoff,
            usual.beta if smooth_beta is None else smooth_beta,
        )
    request = RunRequest(
        bundle=bundle,
        source=source,
        output=output,
        engine=engine_options(backend, threads=threads, provider=provider),
        precision=precision,
        settings=settings_of(setting),
        annotations=annotations,
        boxes=looked_at,
        threshold=threshold,
        overlay=overlay,
        coco=coco,
        limit=limit,
        segment=_seconds(segment, output) if segment else None,
        force=force,
        reading=Reading(every, strict, every_frame, reconnect),
        smoothing=smoothing,
        anonymise=anonymise,
    )
    run_source(request, console)


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
    from edgewise.runtime.command.printing import selftest_table
    from edgewise.runtime.command.selftest import selftest as rerun
    from edgewise.runtime.engines.options import engine_options

    opened, options = _open_bundle(bundle), engine_options(backend, threads=threads, provider=provider)
    failed: list[str] = []
    for each in [precision] if precision is not None else _precisions_of(opened, backend):
        report = rerun(opened, options, each)
        console.print(selftest_table(report))
        if not report.passed:
            failed.append(f"{each.value}: {len(report.failures)} of {len(report.checks)} checks")
    if failed:
        raise ParityError(
            f"the self test failed ({'; '.join(failed)})",
            where=str(bundle),
            hint="the table above marks what broke its limit; do not use this bundle on this device",
        )


def _precisions_of(bundle: Bundle, backend: Target) -> list[Precision]:
    names = bundle.manifest.schedule.graphs
    held = [{file.precision for file in bundle.graph(name).files if file.target is backend} for name in names]
    found = [precision for precision in Precision if all(precision in each for each in held)]
    if not found:
        bundle.graph_entry(names[0], backend, Precision.FP32)
    return found


@app.command()
def inspect(bundle: BundleArgument) -> None:
    """Print what a bundle holds and check the hash of every file."""
    from edgewise.runtime.command.printing import bundle_tables

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
    setting: SetOption = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = "cpu",
) -> None:
    """Time preprocessing, inference and postprocessing of one frame on this machine.

    A model of crops looks at the golden's boxes, or at the whole of --image.
    """
    from edgewise.runtime.command.printing import timing_table
    from edgewise.runtime.command.selftest import golden_boxes
    from edgewise.runtime.command.timing import time_stages
    from edgewise.runtime.engines.options import engine_options
    from edgewise.runtime.frames.images import decode_image, read_image
    from edgewise.runtime.walk.session import Session

    opened = _open_bundle(bundle)
    goldens = opened.manifest.goldens
    if image is None and not goldens:
        raise SourceError("the bundle has no golden to run on", where=str(bundle), hint="pass --image FILE")
    pixels = (
        read_image(image)
        if image is not None
        else decode_image(opened.read(goldens[0].frames[0].image), where="golden")
    )
    boxes = golden_boxes(goldens[0].frames[0]) if image is None else None
    with Session.open(
        opened,
        backend=engine_options(backend, threads=threads, provider=provider),
        precision=precision,
        settings=settings_of(setting),
    ) as session:
        times = time_stages(session.walk, pixels, boxes, runs=runs, warm_up=warm_up)
        name = ", ".join(dict.fromkeys(engine.name for engine in session.engines.values()))
    height, width = pixels.shape[:2]
    looked = "" if boxes is None else f" with {len(boxes)} boxes"
    title = f"{opened.manifest.name} {precision.value}, {width}x{height}{looked}, {name}, {runs} runs"
    console.print(timing_table(title, times))


@app.command()
def doctor() -> None:
    """Say what is installed on this machine, and what to install for the rest."""
    from edgewise.runtime.command.doctor import examine
    from edgewise.runtime.command.printing import doctor_table

    findings = examine()
    console.print(doctor_table(findings))
    missing = [finding for finding in findings if finding.needed and not finding.good]
    if missing:
        raise EdgewiseError(
            f"{', '.join(finding.subject for finding in missing)} cannot be used",
            hint="; ".join(finding.advice for finding in missing),
        )


def _seconds(text: str, output: Path | None) -> float:
    """`90s`, `10min` or `1h` as seconds."""
    match = re.fullmatch(r"(\d*\.?\d+)(s|min|h)", text.replace(" ", ""))
    if match is None or float(match[1]) == 0:
        raise EdgewiseError(f"--segment {text} is no time", hint="write --segment 90s, 10min or 1h")
    if output is None:
        raise EdgewiseError("--segment divides what is written", hint="say where with --output FOLDER")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]


def settings_of(given: list[str] | None) -> dict[str, str]:
    """`FIELD=VALUE` texts as a mapping."""
    pairs = [text.partition("=") for text in given or ()]
    for field, sign, _ in pairs:
        if not sign:
            raise EdgewiseError(f"--set {field} names no value", hint="write --set FIELD=VALUE")
    return {field: value for field, _, value in pairs}


def _open_bundle(path: Path) -> Bundle:
    from edgewise.runtime.contract.bundle import Bundle

    return Bundle.open(path)


# ---------------------------------------------------------------- how every command ends

Returned = TypeVar("Returned")


def guard(action: Callable[[], Returned]) -> Returned:
    """Call `action`; what a user can cause becomes one panel on stderr and exit status 1.

    An interrupt (Ctrl-C, SIGTERM, SIGHUP) exits with 130. Errors of the operating system (a full disk, a
    folder without permission) are shown like our own; everything else is a defect and keeps its traceback.
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
        interrupt_on_termination()
        guard(application)

    return main


def _show(error: EdgewiseError) -> None:
    body = Text(error.what)
    for label, value in (("where: ", error.where), ("next:  ", error.hint)):
        if value:
            body.append(f"\n{label}", "dim").append(value)
    Console(stderr=True).print(Panel(body, title="error", title_align="left", border_style="red"))


main = main_of(app)

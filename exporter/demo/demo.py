"""`edgewise demo`: the whole way of three models, one of each kind, on scenes that they never saw.

Everything lands in one folder: the scenes, a bundle each, TensorRT-RTX engines built without a GPU, overlays,
COCO results, the parity reports, and one page that shows the three side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from edgewise.exporter.engines.build import (
    CHECKS_ONLY,
    BuildOptions,
    EngineRecord,
    build_engine,
    with_realised,
)
from edgewise.exporter.parity import ParityRequest, parity
from edgewise.exporter.precision.calibration_images import HELD_OUT, CalibrationRequest
from edgewise.exporter.way.export import ExportOptions, export_checkpoint
from edgewise.models.scenes.dataset import IMAGE_FOLDER, write_dataset
from edgewise.runtime.command.selftest import selftest
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Precision, Target
from edgewise.runtime.engines.tensorrt_api import import_tensorrt
from edgewise.runtime.system.atomic import write_text
from edgewise.runtime.system.errors import EdgewiseError, ParityError
from edgewise.runtime.system.ownership import held_files, refuse_existing
from edgewise.runtime.system.publishing import writing

if TYPE_CHECKING:
    from edgewise.exporter.parity import ParityReport

DETECTOR, POSES = "yolact-tiny", "hourglass-tiny"
MODELS = (DETECTOR, "upsnet-tiny", POSES)
"""One of each kind; the first also finds the people for the last."""
CALIBRATION_SERIES, EVALUATION_SERIES = 71, 72
"""Series of scenes that neither training nor its evaluation uses."""
CALIBRATED_ON = 64
CALIBRATION_SCENES, EVALUATION_SCENES = 3 * (CALIBRATED_ON + HELD_OUT), 32
"""Every third scene at least has a person for the keypoint model to be calibrated on."""
COMPUTE_CAPABILITIES = ("sm86", "sm89")
PAGE = "report.html"


@dataclass(frozen=True)
class ModelDemo:
    """What the demo made of one model.

    Attributes:
        results: Folder with overlays and COCO results of the evaluation scenes, from the INT8 bundle.
        report_page: The parity report.
    """

    bundle: Bundle
    engines: tuple[EngineRecord, ...]
    results: Path
    report: ParityReport
    report_page: Path
    seconds: float


@dataclass(frozen=True)
class Demo:
    """Everything, for the summary and the page."""

    folder: Path
    scenes: Path
    models: tuple[ModelDemo, ...]
    seconds: float


def run_demo(
    folder: Path,
    *,
    models: Sequence[str] = MODELS,
    replace: bool,
    progress: Callable[[str], None],
    console: Console,
) -> Demo:
    """Run the whole way.

    Args:
        folder: Where everything goes.
        models: Which of `MODELS` to show, in any order.
        replace: Write into a folder that an earlier demo filled.

    Raises:
        MissingExtraError: The [rtx] extra is not installed.
        ParityError: The self test or a parity budget fails.
        EdgewiseError: Other models, the folder is not empty, or a step fails.
    """
    begun = time.perf_counter()
    _refuse_models(models)
    with writing(folder):
        return _run_demo(folder, models, replace, progress, console, begun)


def _run_demo(
    folder: Path,
    models: Sequence[str],
    replace: bool,
    progress: Callable[[str], None],
    console: Console,
    begun: float,
) -> Demo:
    refuse_existing(folder, replace=replace, listed=_own_files)
    import_tensorrt(Target.TENSORRT_RTX, verb="demo")
    progress(f"drawing {CALIBRATION_SCENES + EVALUATION_SCENES} scenes that the models never saw")
    calibration, evaluation = folder / "scenes-calibration", folder / "scenes-evaluation"
    write_dataset(calibration, CALIBRATION_SCENES, CALIBRATION_SERIES, replace=True)
    write_dataset(evaluation, EVALUATION_SCENES, EVALUATION_SERIES, replace=True)
    shown = tuple(
        _run_model(folder, name, calibration, evaluation, progress, console)
        for name in MODELS
        if name in models
    )
    made = Demo(folder, evaluation, shown, time.perf_counter() - begun)
    from edgewise.exporter.demo.page import render_page

    write_text(folder / PAGE, render_page(made))
    return made


def summary(made: Demo) -> Group:
    """Where everything is, as a table."""
    table = Table(title=f"demo, {made.seconds:.0f} s", title_justify="left", show_header=False)
    table.add_row("the three side by side", str(made.folder / PAGE))
    for model in made.models:
        table.add_section()
        table.add_row("bundle", str(model.bundle.path))
        table.add_row("results", str(model.results))
        table.add_row("parity report", str(model.report_page))
        for record in model.engines:
            check = " (a check only)" if (record.key.target, record.key.precision) in CHECKS_ONLY else ""
            table.add_row(
                f"engine {record.key.precision.value}{check}",
                f"{record.size / 1e6:.1f} MB, {record.realised.counts()}",
            )
    bundles = {model.bundle.manifest.name: model.bundle.path for model in made.models}
    first = next(iter(bundles.values()))
    commands = [f"  edgewise run {first} YOUR_PICTURE --precision int8 -o results"]
    if POSES in bundles:
        commands.append(
            f"  edgewise run {bundles[POSES]} YOUR_PICTURE --boxes {first} --precision int8 -o poses"
        )
    return Group(table, Text("try them on a picture of yours:"), *map(Text, commands))


def _refuse_models(names: Sequence[str]) -> None:
    if not names or not set(names) <= set(MODELS):
        raise EdgewiseError(
            f"the demo shows {', '.join(MODELS)}, not {', '.join(names) or 'nothing'}",
            hint="name some of them, or none for all",
        )
    if POSES in names and DETECTOR not in names:
        raise EdgewiseError(
            f"{POSES} looks at the people that {DETECTOR} finds", hint=f"add --model {DETECTOR}"
        )


def _own_files(folder: Path) -> list[str]:
    """What lies where a demo puts its things; each of them is looked at again by its own writer."""
    own = {"scenes-calibration", "scenes-evaluation", "engines", "results", "parity", PAGE}
    own |= {f"{name}.bundle" for name in MODELS}
    return [name for name in held_files(folder) if name.partition("/")[0] in own]


def _run_model(
    folder: Path,
    name: str,
    calibration: Path,
    evaluation: Path,
    progress: Callable[[str], None],
    console: Console,
) -> ModelDemo:
    begun = time.perf_counter()

    def step(text: str) -> None:
        progress(f"{name}: {text}")

    bundle = _export(folder, name, calibration, step)
    bundle, engines = _build_engines(bundle, folder / "engines" / name, step)
    for precision in Precision:
        step(f"self test in {precision.value}")
        _require_selftest(bundle, precision)
    step("running the INT8 bundle on the evaluation scenes")
    results = folder / "results" / name
    boxes = folder / f"{DETECTOR}.bundle" if name == POSES else None
    _run(bundle, evaluation / IMAGE_FOLDER, results, boxes)
    step("comparing every stage with the training definition")
    request = ParityRequest(bundle=bundle.path, dataset=evaluation, output=folder / "parity" / name)
    report = parity(request, console)
    page = request.report_folder / "parity.html"
    return ModelDemo(bundle, engines, results, report, page, time.perf_counter() - begun)


def _export(folder: Path, name: str, calibration: Path, progress: Callable[[str], None]) -> Bundle:
    options = ExportOptions(
        replace=True,
        calibration=CalibrationRequest(images=calibration, count=CALIBRATED_ON),
        progress=progress,
    )
    packaged = resources.files("edgewise.models") / "pretrained" / f"{name}.safetensors"
    with resources.as_file(packaged) as checkpoint:
        return export_checkpoint(checkpoint, folder / f"{name}.bundle", options)


def _build_engines(
    bundle: Bundle, folder: Path, progress: Callable[[str], None]
) -> tuple[Bundle, tuple[EngineRecord, ...]]:
    records = []
    for precision in Precision:
        progress(f"building a TensorRT-RTX engine in {precision.value} for {', '.join(COMPUTE_CAPABILITIES)}")
        options = BuildOptions(compute_capabilities=COMPUTE_CAPABILITIES, output=folder)
        record = build_engine(bundle, Target.TENSORRT_RTX, precision, options)
        bundle = with_realised(bundle, record)
        records.append(record)
    return bundle, tuple(records)


def _require_selftest(bundle: Bundle, precision: Precision) -> None:
    report = selftest(bundle, Target.ONNXRUNTIME, precision)
    if not report.passed:
        worst = report.failures[0]
        raise ParityError(
            f"the self test in {precision.value} failed: {worst.figure} is {worst.value}, "
            f"the limit is {worst.limit:.4g}",
            where=worst.where,
        )


def _run(bundle: Bundle, images: Path, output: Path, boxes: Path | None) -> None:
    from edgewise.runtime.command.cli import run

    run(bundle.path, str(images), output=output, precision=Precision.INT8, boxes=boxes, force=True)

"""`edgewise demo`: the whole way once, with the tiny model that ships, on scenes that it never saw.

Everything lands in one folder: the scenes, the bundle, TensorRT-RTX engines built without a GPU, overlays,
COCO results and the parity report.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from edgewise.exporter.build import BuildOptions, EngineRecord, build_engine, with_realised
from edgewise.exporter.calibration_images import HELD_OUT, CalibrationRequest
from edgewise.exporter.export import ExportOptions, export_checkpoint
from edgewise.exporter.parity import ParityRequest, parity
from edgewise.models.scenes.dataset import write_dataset
from edgewise.runtime.atomic import refuse_existing
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.engines.tensorrt_api import import_tensorrt
from edgewise.runtime.errors import EdgewiseError, ParityError
from edgewise.runtime.manifest import Precision, Target
from edgewise.runtime.selftest import selftest

if TYPE_CHECKING:
    from edgewise.exporter.parity import ParityReport

CHECKPOINT = "yolact-tiny.safetensors"
CALIBRATION_SERIES, EVALUATION_SERIES = 71, 72
"""Series of scenes that neither training nor its evaluation uses."""
CALIBRATED_ON = 64
CALIBRATION_SCENES, EVALUATION_SCENES = CALIBRATED_ON + HELD_OUT, 32
COMPUTE_CAPABILITIES = ("sm86", "sm89")


@dataclass(frozen=True)
class Demo:
    """What the demo made, for its summary."""

    folder: Path
    bundle: Bundle
    engines: tuple[EngineRecord, ...]
    report: ParityReport
    seconds: float


def run_demo(folder: Path, *, replace: bool, progress: Callable[[str], None], console: Console) -> Demo:
    """Run the whole way.

    Args:
        folder: Where everything goes.
        replace: Write into a folder that an earlier demo filled.

    Raises:
        MissingExtraError: The [rtx] extra is not installed.
        ParityError: The self test or a parity budget fails.
        EdgewiseError: The folder is not empty, or a step fails.
    """
    begun = time.perf_counter()
    refuse_existing(folder, replace=replace)
    if not _is_ours(folder):
        raise EdgewiseError(
            "the folder holds something else than a demo, so --force does not replace it", where=str(folder)
        )
    import_tensorrt(Target.TENSORRT_RTX, verb="demo")
    progress(f"drawing {CALIBRATION_SCENES + EVALUATION_SCENES} scenes that the model never saw")
    calibration, evaluation = folder / "scenes-calibration", folder / "scenes-evaluation"
    write_dataset(calibration, CALIBRATION_SCENES, CALIBRATION_SERIES, replace=True)
    write_dataset(evaluation, EVALUATION_SCENES, EVALUATION_SERIES, replace=True)

    bundle = _export(folder, calibration, progress)
    bundle, engines = _build_engines(bundle, folder / "engines", progress)
    for precision in Precision:
        progress(f"self test in {precision.value}")
        _require_selftest(bundle, precision)
    progress("running the INT8 bundle on the evaluation scenes")
    _run(bundle, evaluation / "images", folder / "results")
    progress("comparing every stage with the training definition")
    report = parity(ParityRequest(bundle=bundle.path, dataset=evaluation, output=folder / "parity"), console)
    return Demo(folder, bundle, engines, report, time.perf_counter() - begun)


def summary(made: Demo) -> Group:
    """Where everything is, as a table."""
    table = Table(title=f"demo, {made.seconds:.0f} s", title_justify="left", show_header=False)
    table.add_row("bundle", str(made.bundle.path))
    table.add_row("overlays", str(made.folder / "results" / "overlay"))
    table.add_row("parity report", str(made.folder / "parity" / "parity.html"))
    for record in made.engines:
        layers = ", ".join(f"{number} {kind}" for kind, number in record.realised.layers.items())
        table.add_row(f"engine {record.key.precision.value}", f"{record.size / 1e6:.1f} MB, layers: {layers}")
    command = f"edgewise run {made.bundle.path} YOUR_PICTURE --precision int8 -o results"
    return Group(table, Text(f"try it on a picture of yours: {command}"))


def _is_ours(folder: Path) -> bool:
    own = {"scenes-calibration", "scenes-evaluation", "yolact-tiny.bundle", "engines", "results", "parity"}
    return not folder.exists() or {path.name for path in folder.iterdir()} <= own


def _export(folder: Path, calibration: Path, progress: Callable[[str], None]) -> Bundle:
    options = ExportOptions(
        replace=True,
        calibration=CalibrationRequest(images=calibration / "images", count=CALIBRATED_ON),
        progress=progress,
    )
    packaged = resources.files("edgewise.models") / "pretrained" / CHECKPOINT
    with resources.as_file(packaged) as checkpoint:
        return export_checkpoint(checkpoint, folder / "yolact-tiny.bundle", options)


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
            f"the self test in {precision.value} failed: {worst.quantity} is {worst.value:.4g}, "
            f"the limit is {worst.limit:.4g}",
            where=worst.where,
        )


def _run(bundle: Bundle, images: Path, output: Path) -> None:
    from edgewise.runtime.cli import run

    run(bundle.path, str(images), output=output, precision=Precision.INT8, force=True)

"""The demo's one page: three kinds of result on the same scenes, with what each precision costs and keeps."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.engines.build import CHECKS_ONLY
from edgewise.models.tasks.keypoints.dataset import CocoKeypoints
from edgewise.runtime.command.sinks import OVERLAY_FOLDER, OVERLAY_SUFFIX
from edgewise.runtime.contract.manifest import Precision, Target
from edgewise.runtime.frames.images import read_image

if TYPE_CHECKING:
    from edgewise.exporter.demo.demo import Demo, ModelDemo
    from edgewise.exporter.parity import ParityReport

TEMPLATE = "page.html.j2"
SCENES_SHOWN = 6
JPEG_QUALITY = 88


@dataclass(frozen=True)
class PrecisionRow:
    """One precision of one model.

    Attributes:
        metric: On the evaluation scenes, 0..1.
        drop: What FP32 torch has more.
        limit: The largest drop that the budget allows.
        milliseconds: Median of a look at a frame on this machine's CPU.
        engine: Megabytes of the TensorRT-RTX engine.
        layers: Its layers by the type that they compute in.
    """

    precision: Precision
    metric: float
    drop: float
    limit: float
    milliseconds: float | None
    engine: float
    layers: str


@dataclass(frozen=True)
class Column:
    """One model."""

    name: str
    task: str
    metric: str
    torch: float
    precisions: tuple[PrecisionRow, ...]
    checks: str
    report: str
    seconds: float


@dataclass(frozen=True)
class SceneRow:
    """One scene: the frame, then each model's overlay, as data URIs."""

    name: str
    pictures: tuple[str, ...]


def render_page(made: Demo) -> str:
    """The whole page as HTML that loads nothing from elsewhere."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = (files("edgewise.exporter.demo") / TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text).render(
        columns=[_column(made, model) for model in made.models],
        scenes=_scenes(made),
        images=made.models[0].report.images,
        int8_engine=CHECKS_ONLY[Target.TENSORRT_RTX, Precision.INT8],
        seconds=made.seconds,
    )


def _column(made: Demo, model: ModelDemo) -> Column:
    report, manifest = model.report, model.bundle.manifest
    reference = report.stage(report.reference)
    checks = [check for comparison in report.comparisons for check in comparison.checks]
    return Column(
        name=manifest.name,
        task=manifest.task,
        metric=report.metric,
        torch=_metric(report, report.reference),
        precisions=tuple(_precision_row(model, precision, reference.name) for precision in Precision),
        checks=f"{sum(check.passed for check in checks)} of {len(checks)} parity checks hold",
        report=model.report_page.relative_to(made.folder).as_posix(),
        seconds=model.seconds,
    )


def _precision_row(model: ModelDemo, precision: Precision, reference: str) -> PrecisionRow:
    report = model.report
    metric = _metric(report, precision.value)
    record = next(record for record in model.engines if record.key.precision is precision)
    return PrecisionRow(
        precision=precision,
        metric=metric,
        drop=_metric(report, reference) - metric,
        limit=model.bundle.manifest.budget(precision).metric_drop,
        milliseconds=report.stage(precision.value).milliseconds,
        engine=record.size / 1e6,
        layers=", ".join(f"{number} {kind}" for kind, number in record.realised.layers.items()),
    )


def _metric(report: ParityReport, stage: str) -> float:
    """NaN where the stage has no figure, which the page shows as such."""
    value = report.stage(stage).metrics.get(report.metric)
    return float("nan") if value is None else value


def _scenes(made: Demo) -> list[SceneRow]:
    """A spread of the evaluation scenes that have a person, so that every model has something to show."""
    dataset = CocoKeypoints.open(made.scenes)
    peopled = [index for index in range(len(dataset)) if len(dataset.boxes(index) or ())]
    places = np.linspace(0, len(peopled) - 1, min(SCENES_SHOWN, len(peopled))).round().astype(int).tolist()
    return [_scene(made, dataset.path(peopled[place])) for place in places]


def _scene(made: Demo, path: Path) -> SceneRow:
    overlays = (
        (model.results / OVERLAY_FOLDER / path.name).with_suffix(OVERLAY_SUFFIX) for model in made.models
    )
    return SceneRow(path.name, tuple(_data_uri(read_image(each)) for each in (path, *overlays)))


def _data_uri(picture: NDArray[np.uint8]) -> str:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()

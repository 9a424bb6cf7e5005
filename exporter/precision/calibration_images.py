"""Which images calibrate a bundle and which judge the result; no image does both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgewise.calibration.samples import CalibrationSet, Sample
from edgewise.exporter.bundle.goldens import Picture, read_frames
from edgewise.exporter.precision.agreement import TaskMetric
from edgewise.models.measuring.tasks import TASKS
from edgewise.runtime.contract.manifest import Budget, CalibrationMethod, Manifest, Precision
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.system.errors import CalibrationError

HELD_OUT = 16
"""Images beside the calibration set on which FP16 and INT8 are judged."""


@dataclass(frozen=True)
class CalibrationRequest:
    """What to calibrate on, and how.

    Attributes:
        images: Folder of images, a folder of scenes with the task's annotation file, or a COCO json. A model
            of crops looks at annotated boxes where there are annotations, else at whole images.
        count: Images that the observers see.
        seed: Chooses them.
        method: How ranges are chosen from what was observed.
        validation: Annotated dataset on which INT8 must keep FP32's metric of the task; None judges by
            decoded results on held-out images alone.
        precisions: What to make; FP16 needs the ranges too.
        budgets: What each precision may differ by, in place of what the bundle states; none leaves that.
        held_out: Further images, on which the result is judged; None takes a quarter of `count`, 4 to 16.

    Raises:
        CalibrationError: FP32 among the precisions, or none; no image to judge on.
    """

    images: Path
    count: int = 64
    seed: int = 0
    method: CalibrationMethod = CalibrationMethod.ENTROPY
    validation: Path | None = None
    precisions: tuple[Precision, ...] = (Precision.FP16, Precision.INT8)
    held_out: int | None = None
    budgets: tuple[Budget, ...] = ()

    def __post_init__(self) -> None:
        if not self.precisions or Precision.FP32 in self.precisions:
            raise CalibrationError(
                f"calibration makes fp16 and int8, not {[each.value for each in self.precisions]}",
                hint="every bundle holds fp32 already",
            )
        if self.held_out is not None and self.held_out < 1:
            raise CalibrationError(
                f"{self.held_out} images to judge the result on", hint="give 1 or more, or leave it out"
            )


@dataclass(frozen=True)
class ChosenImages:
    """Which images do what; none does two things.

    Attributes:
        calibration: The observers see these.
        held_out: FP16 and INT8 are judged on these.
        task: The annotated dataset, where one is given.
    """

    calibration: CalibrationSet
    held_out: tuple[Sample, ...]
    task: TaskMetric | None


def choose_images(request: CalibrationRequest, manifest: Manifest) -> ChosenImages:
    """Choose `request.count` images and, further down the same seeded order, those to judge on.

    Args:
        manifest: Its task says which annotations count, its preprocessing whether boxes are looked at.

    Raises:
        CalibrationError: Missing, too few, unfit images, or images of the validation dataset.
        DatasetError: The validation dataset is missing or broken.
    """
    task = None
    if request.validation is not None:
        task = TaskMetric.of_dataset(manifest.task, request.validation)
    exclude = task.images if task is not None else []
    further = request.held_out or max(4, min(HELD_OUT, request.count // 4))
    try:
        together = _take(request, manifest, request.count + further, exclude)
    except CalibrationError as error:
        _take(request, manifest, request.count, exclude)  # what is wrong with these comes first
        raise CalibrationError(
            f"{further} images beside the {request.count} are needed to judge INT8: {error.what}",
            where=error.where,
            hint=f"add images, or calibrate on fewer than {request.count}",
        ) from None
    chosen = replace(together, samples=together.samples[: request.count])
    return ChosenImages(chosen, together.samples[request.count :], task)


def pictures_of(samples: Sequence[Sample]) -> list[Picture]:
    """The frames of calibration samples, with the box that each looks at.

    Raises:
        SourceError: A file that is missing or no image.
    """
    frames = read_frames([sample.path for sample in samples])
    return [
        Picture(frame, None if sample.box is None else _only_box(sample.box))
        for frame, sample in zip(frames, samples, strict=True)
    ]


def _only_box(box: tuple[float, float, float, float]) -> FrameBoxes:
    return FrameBoxes(np.array([box], np.float64), np.ones(1, np.float32))


def _take(request: CalibrationRequest, manifest: Manifest, count: int, exclude: list[Path]) -> CalibrationSet:
    folder, annotations = request.images, request.images
    if folder.is_dir() and manifest.task in TASKS:
        annotations = folder / TASKS[manifest.task].dataset.file_name
    if not annotations.is_file():
        return CalibrationSet.from_folder(folder, count=count, seed=request.seed, exclude=exclude)
    beside = annotations.parent / "images"
    return CalibrationSet.from_coco(
        annotations,
        beside if beside.is_dir() else annotations.parent,
        count=count,
        seed=request.seed,
        exclude=exclude,
        boxes=manifest.preprocess.needs_boxes,
    )

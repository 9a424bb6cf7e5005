"""Which images calibrate a bundle and which judge the result; no image does both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgewise.calibration.samples import CalibrationSet
from edgewise.exporter.agreement import TaskMetric
from edgewise.exporter.goldens import read_frames
from edgewise.runtime.errors import CalibrationError
from edgewise.runtime.manifest import CalibrationMethod, Precision

HELD_OUT = 8
"""Images beside the calibration set on which FP16 and INT8 are judged."""


@dataclass(frozen=True)
class CalibrationRequest:
    """What to calibrate on, and how.

    Attributes:
        images: Folder of images, or a COCO json.
        count: Images that the observers see.
        seed: Chooses them.
        method: How ranges are chosen from what was observed.
        validation: COCO dataset on which INT8 must keep FP32's mask AP; None judges by decoded results on
            held-out images alone.
        precisions: What to make; FP16 needs the ranges too.

    Raises:
        CalibrationError: FP32 among the precisions, or none.
    """

    images: Path
    count: int = 64
    seed: int = 0
    method: CalibrationMethod = CalibrationMethod.ENTROPY
    validation: Path | None = None
    precisions: tuple[Precision, ...] = (Precision.FP16, Precision.INT8)

    def __post_init__(self) -> None:
        if not self.precisions or Precision.FP32 in self.precisions:
            raise CalibrationError(
                f"calibration makes fp16 and int8, not {[each.value for each in self.precisions]}",
                hint="every bundle holds fp32 already",
            )

    def first_frames(self, count: int) -> list[np.ndarray]:
        """The first frames of the calibration set, for a bundle's goldens; uint8 BGR."""
        return read_frames([sample.path for sample in choose_images(self).calibration.samples[:count]])


@dataclass(frozen=True)
class ChosenImages:
    """Which images do what; none does two things.

    Attributes:
        calibration: The observers see these.
        held_out: FP16 and INT8 are judged on these.
        task: The annotated dataset, where one is given.
    """

    calibration: CalibrationSet
    held_out: list[Path]
    task: TaskMetric | None


def choose_images(request: CalibrationRequest) -> ChosenImages:
    """Choose `request.count` images and, further down the same seeded order, those to judge on.

    Raises:
        CalibrationError: Missing, too few, unfit images, or images of the validation dataset.
        DatasetError: The validation dataset is missing or broken.
    """
    task = TaskMetric.of_dataset(request.validation) if request.validation is not None else None
    exclude = [path for _, path in task.frames] if task is not None else []
    chosen = _take(request, request.count, exclude)
    further = max(4, min(HELD_OUT, request.count // 4))
    try:
        together = _take(request, request.count + further, exclude)
    except CalibrationError as error:
        raise CalibrationError(
            f"{further} images beside the {request.count} are needed to judge INT8: {error.what}",
            where=error.where,
            hint=f"add images, or calibrate on fewer than {request.count}",
        ) from None
    held_out = [sample.path for sample in together.samples[request.count :]]
    return ChosenImages(chosen, held_out, task)


def _take(request: CalibrationRequest, count: int, exclude: list[Path]) -> CalibrationSet:
    folder, annotations = request.images, request.images
    if (folder / "instances.json").is_file():
        annotations = folder / "instances.json"
    if annotations.is_file():
        beside = annotations.parent / "images"
        images = beside if beside.is_dir() else annotations.parent
        return CalibrationSet.from_coco(annotations, images, count=count, seed=request.seed, exclude=exclude)
    return CalibrationSet.from_folder(folder, count=count, seed=request.seed, exclude=exclude)

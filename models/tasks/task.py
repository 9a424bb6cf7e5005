"""What a task is: a row that names its dataset and its metric, and what both are asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgewise.models.data.dataset import Dataset
from edgewise.runtime.results.result import Result


@dataclass(frozen=True)
class Measured:
    """A task's metric on some images.

    Attributes:
        name: Of the metric.
        value: 0..1; NaN where there is no ground truth to measure on.
        parts: What else is worth knowing, by name; the parts of one class or keypoint are its name.
        images: How many images were measured, those without objects or results included.
        unsettled: On how many of them the suppression ran out of rounds.
    """

    name: str
    value: float
    parts: dict[str, float] = field(default_factory=dict)
    images: int = 0
    unsettled: int = 0


class Measuring(Protocol):
    """A metric while results come in."""

    def add(self, index: int, result: Result) -> None:
        """Judge what was found in image `index` of the dataset; only images that are added are measured.

        Raises:
            DatasetError: The dataset has no such image, it was added before, or the result is not one of its
                task, belongs to a picture of another size, is of a category that the dataset does not list,
                or has a score that is not a number.
        """
        ...

    def value(self) -> Measured:
        """The metric on all images added so far; DatasetError where there are none."""
        ...


class Metric(Protocol):
    """One number for how right the results of a task are."""

    @property
    def name(self) -> str: ...

    def begin(self, dataset: Dataset) -> Measuring:
        """Start to measure against the ground truth of a dataset; DatasetError where it is another task's."""
        ...


class DatasetFormat(Protocol):
    """How the annotations of a task are read: a dataset's class, by its `open`."""

    @property
    def file_name(self) -> str:
        """The annotation file in a folder that holds several."""
        ...

    def open(self, data: Path, images: Path | None = None, *, keep: bool = False) -> Dataset:
        """Read and check the annotations.

        Args:
            data: An annotation file, or a folder with the task's file (say `instances.json`) and `images/`.
            images: The image folder; by default `images/` beside the annotation file, or its own folder.
            keep: Keep decoded images in memory, for training over many epochs.

        Raises:
            DatasetError: The files cannot be used.
        """
        ...


@dataclass(frozen=True)
class Task:
    """One row of the tasks.

    Attributes:
        name: As manifests and training definitions call it.
        dataset: Ground truth; it also makes the training targets and varies the samples of its task.
        metric: How right results are.
    """

    name: str
    dataset: DatasetFormat
    metric: Metric

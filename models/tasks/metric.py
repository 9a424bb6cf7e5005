"""What a metric says, and what a metric is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgewise.models.data.dataset import Dataset

Records = Sequence[dict[str, Any]]
"""COCO result records, as `Result.records` gives them, of all images together."""


@dataclass(frozen=True)
class Measured:
    """A task's metric on some images.

    Attributes:
        name: Of the metric.
        value: 0..1; NaN where there is no ground truth to measure on.
        parts: What else is worth knowing, by name; the parts of one class or keypoint are its name.
        images: How many images were measured, those without objects or results included.
    """

    name: str
    value: float
    parts: dict[str, float] = field(default_factory=dict)
    images: int = 0


class Metric(Protocol):
    """One number for how right the results of a task are."""

    @property
    def name(self) -> str: ...

    def measure(self, dataset: Dataset, records: Records, image_ids: Iterable[int] | None = None) -> Measured:
        """Measure results against a dataset of the task.

        Args:
            dataset: The ground truth.
            records: Results of the measured images; may be empty.
            image_ids: Measure on these images only; by default on all of the dataset.

        Raises:
            DatasetError: Another task's dataset, an image that the dataset does not list, a result of an
                image that is not measured, of an unknown category, or with a score that is not a number.
        """
        ...

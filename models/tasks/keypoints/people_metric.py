"""COCO's keypoint average precision of models that find the people themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgewise.models.data.dataset import Dataset
from edgewise.models.tasks.keypoints.metric import SHARE, Distances, measured_people, oks_ap, within
from edgewise.models.tasks.keypoints.people_dataset import CocoPeople
from edgewise.models.tasks.measured_images import MeasuredImages
from edgewise.models.tasks.task import Measured
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import DatasetError


@dataclass(frozen=True)
class PeoplePrecision:
    """Mean precision over thresholds .50:.05:.95 of the object keypoint similarity (OKS), 20 people an image.

    Its part is the PCK@0.1 of everybody who is annotated, in which people who were not found count as missed.
    """

    name: str = "OKS AP"

    def begin(self, dataset: Dataset) -> PeopleMeasuring:
        """See `Metric.begin`."""
        if not isinstance(dataset, CocoPeople) or not dataset.layout.sigmas:
            raise DatasetError(
                f"{self.name} needs keypoint ground truth whose similarity constants are known",
                where=str(dataset.json),
                hint="give a folder with keypoints.json and images/ whose keypoints have COCO's names",
            )
        return PeopleMeasuring(self.name, dataset, MeasuredImages(dataset))


@dataclass
class PeopleMeasuring:
    """The precision while results come in, kept as records: the evaluator sorts all of them together."""

    name: str
    dataset: CocoPeople
    images: MeasuredImages
    _distances: list[Distances] = field(default_factory=list, repr=False)
    _records: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def add(self, index: int, result: Result) -> None:
        """See `Measuring.add`; DatasetError too where people have another number of points."""
        image, found, distances = measured_people(self.dataset, self.images, index, result)
        self._distances.append(distances)
        self._records += found.records(image.id)

    def value(self) -> Measured:
        """See `Measuring.value`."""
        chosen = self.images.ids
        parts = {f"PCK@{SHARE}": within(np.concatenate(self._distances), SHARE)}
        return Measured(self.name, oks_ap(self.dataset, self._records, chosen), parts, len(chosen))

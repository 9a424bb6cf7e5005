"""COCO's average precision of scored things, by faster-coco-eval: of their masks or of their boxes."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from edgewise.models.data.coco_objects import CocoObjects
from edgewise.models.data.dataset import Dataset
from edgewise.models.tasks.measured_images import MeasuredImages
from edgewise.models.tasks.task import Measured
from edgewise.runtime.results.result import Result, Scored
from edgewise.runtime.system.errors import DatasetError

_PARTS = ("AP50", "AP75", "small", "medium", "large")
"""The evaluator's figures after the AP itself, in its order."""


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's average precision, the metric of instance segmentation and of detection.

    The value is the mean over IoU thresholds .50:.05:.95, classes and recalls, of 100 detections an image.
    The parts are AP50 and AP75 (at one IoU), small (objects under 32^2 pixels), medium (to 96^2), large, and
    each class.

    Attributes:
        name: Of the metric.
        overlap: What the evaluator compares: "segm" for masks, "bbox" for boxes.
        wants: The dataset's type.
        found: The result's type.
        truth: What such a dataset holds, for the refusal of another one.
        hint: What to give instead.
    """

    name: str
    overlap: str
    wants: type[CocoObjects]
    found: type[Scored]
    truth: str
    hint: str

    def begin(self, dataset: Dataset) -> Precision:
        """See `Metric.begin`."""
        if not isinstance(dataset, self.wants):
            raise DatasetError(f"{self.name} needs {self.truth}", where=str(dataset.json), hint=self.hint)
        return Precision(self, dataset, MeasuredImages(dataset))


@dataclass
class Precision:
    """Average precision while results come in, kept as records: the evaluator sorts all of them together."""

    metric: AveragePrecision
    dataset: CocoObjects
    images: MeasuredImages
    _records: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def add(self, index: int, result: Result) -> None:
        """See `Measuring.add`."""
        image, found = self.images.add(index, result, self.metric.found)
        self._records += found.records(image.id)

    def value(self) -> Measured:
        """See `Measuring.value`."""
        chosen = self.images.ids
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(ground_truth(self.dataset, self.images.indices))
            # The evaluator adds keys to the records it is given.
            records = [dict(record) for record in self._records]
            found = truth.loadRes(records) if records else _no_results(truth)
            evaluator = COCOeval_faster(truth, found, self.metric.overlap)
            evaluator.params.imgIds = chosen
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        names = {category["id"]: category["name"] for category in truth.loadCats(truth.getCatIds())}
        # [IoU, recall, class, area range, detection limit], -1 where there is none
        precision = evaluator.eval["precision"]
        value, *parts = (float(stat) if stat > -1 else math.nan for stat in evaluator.stats[:6])
        classes = {
            names[category]: _mean(precision[:, :, index, 0, -1])
            for index, category in enumerate(evaluator.params.catIds)
        }
        return Measured(
            self.metric.name, value, {**dict(zip(_PARTS, parts, strict=True)), **classes}, len(chosen)
        )


def ground_truth(dataset: CocoObjects, indices: Iterable[int]) -> dict[str, Any]:
    """Some images of a dataset as a COCO document for evaluators.

    Annotations are numbered anew, from 1: evaluators take a match with number 0 for none.
    """
    chosen = list(indices)
    images = [dataset.images[index] for index in chosen]
    records = (record for index in chosen for record in dataset.records(index))
    return {
        "images": [{"id": one.id, "width": one.width, "height": one.height} for one in images],
        "annotations": [{"id": number, **record} for number, record in enumerate(records, start=1)],
        "categories": [{"id": label.id, "name": label.name} for label in dataset.vocabulary.classes],
    }


def _no_results(truth: COCO) -> COCO:
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _mean(precision: NDArray[np.float64]) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else math.nan

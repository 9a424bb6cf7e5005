"""COCO's mask average precision, by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from edgewise.models.data.dataset import Dataset
from edgewise.models.tasks.metric import Measured, Records
from edgewise.models.tasks.records import chosen_ids, records_by_image
from edgewise.runtime.system.errors import DatasetError


@dataclass(frozen=True)
class MaskAp:
    """COCO's mask average precision, 0..1; NaN where there is no ground truth to measure on.

    Attributes:
        ap: Mean over IoU thresholds .50:.05:.95, classes and recalls, 100 detections an image.
        ap50: At IoU .50.
        ap75: At IoU .75.
        small: `ap` for objects under 32^2 pixels.
        medium: `ap` for objects from 32^2 to 96^2 pixels.
        large: `ap` for larger objects.
        images: How many images were measured, those without objects or results included.
        classes: `ap` by class name.
    """

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float
    images: int
    classes: dict[str, float] = field(default_factory=dict)


def mask_ap(
    ground_truth: Path, results: Sequence[dict[str, Any]], *, image_ids: Iterable[int] | None = None
) -> MaskAp:
    """Measure COCO results against a COCO annotation file.

    Args:
        ground_truth: Annotation file with instance masks.
        results: Records with image_id, category_id, score and a compressed RLE `segmentation`; may be empty.
        image_ids: Measure on these images only; by default on all of the file.

    Raises:
        DatasetError: No such file, a result for an image that is not measured, an unknown category, a score
            that is not a number, or no images.
    """
    if not ground_truth.is_file():
        raise DatasetError(
            "no such annotation file",
            where=str(ground_truth),
            hint="give the COCO json of the evaluation set",
        )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ground_truth))
    chosen = chosen_ids(truth.getImgIds(), image_ids)
    records_by_image(results, chosen, set(truth.getImgIds()), set(truth.getCatIds()), ground_truth)
    for annotation in truth.dataset["annotations"]:
        annotation.setdefault("iscrowd", 0)
    with contextlib.redirect_stdout(io.StringIO()):
        # The evaluator adds keys to the records it is given.
        found = truth.loadRes([dict(result) for result in results]) if results else _no_results(truth)
        evaluator = COCOeval_faster(truth, found, "segm")
        evaluator.params.imgIds = chosen
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    names = {category["id"]: category["name"] for category in truth.loadCats(truth.getCatIds())}
    precision = evaluator.eval["precision"]  # [IoU, recall, class, area range, detection limit], -1 = none
    stats = [float(value) if value > -1 else math.nan for value in evaluator.stats[:6]]
    return MaskAp(
        *stats,
        images=len(chosen),
        classes={
            names[category]: _mean(precision[:, :, index, 0, -1])
            for index, category in enumerate(evaluator.params.catIds)
        },
    )


@dataclass(frozen=True)
class MaskApMetric:
    """`mask_ap` as the metric of instance segmentation."""

    name: str = "mask AP"

    def measure(self, dataset: Dataset, records: Records, image_ids: Iterable[int] | None = None) -> Measured:
        """See `Metric.measure`; the parts are AP50, AP75, the sizes and each class."""
        found = mask_ap(dataset.json, records, image_ids=image_ids)
        parts = {
            "AP50": found.ap50,
            "AP75": found.ap75,
            "small": found.small,
            "medium": found.medium,
            "large": found.large,
            **found.classes,
        }
        return Measured(self.name, found.ap, parts, found.images)


def _no_results(truth: COCO) -> COCO:
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _mean(precision: NDArray[np.float64]) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else math.nan

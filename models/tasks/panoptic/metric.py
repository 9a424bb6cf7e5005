"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019), by panopticapi's definition.

For each class, PQ = sum of IoU over matched pairs / (TP + FP/2 + FN/2) = SQ x RQ, where

- a predicted and a true segment of one class match where their IoU is greater than 0.5, which makes the pair
  unique. The union leaves out what of the predicted segment lies on pixels without ground truth (void);
- a true crowd region is never matched and never missed;
- a predicted segment that is not matched is wrong, unless more than half of it lies on void or on crowd
  regions of its class;
- counts are summed over all images before the division; a class with no segment on either side is left out of
  the means.

Where an image has several crowd regions of one class all of them excuse; panopticapi keeps the last (COCO has
one at most).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.models.data.dataset import Dataset
from edgewise.models.tasks.measured_images import MeasuredImages
from edgewise.models.tasks.panoptic.dataset import CocoPanoptic, Segments
from edgewise.models.tasks.task import Measured
from edgewise.runtime.contract.manifest import ClassKind, ClassLabel
from edgewise.runtime.kinds.panoptic.result import Panoptic
from edgewise.runtime.pixels.label_maps import LabelMap
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import DatasetError


@dataclass(frozen=True)
class PanopticCounts:
    """What matched, by class.

    Attributes:
        iou: float64 [C], sum over the matched pairs.
        matched: int64 [C], true positives.
        wrong: int64 [C], false positives.
        missed: int64 [C], false negatives.
    """

    iou: NDArray[np.float64]
    matched: NDArray[np.int64]
    wrong: NDArray[np.int64]
    missed: NDArray[np.int64]

    @classmethod
    def none(cls, classes: int) -> PanopticCounts:
        """Nothing seen yet."""
        empty = np.zeros(classes, np.int64)
        return cls(np.zeros(classes), empty, empty, empty)

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        return PanopticCounts(
            self.iou + other.iou,
            self.matched + other.matched,
            self.wrong + other.wrong,
            self.missed + other.missed,
        )

    @property
    def weights(self) -> NDArray[np.float64]:
        """float64 [C], TP + FP/2 + FN/2."""
        return self.matched + 0.5 * self.wrong + 0.5 * self.missed

    @property
    def seen(self) -> NDArray[np.bool_]:
        """bool [C], classes with a segment on either side."""
        return self.weights > 0

    def quality(self) -> NDArray[np.float64]:
        """PQ float64 [C]; NaN for classes that were not seen."""
        return _ratio(self.iou, self.weights)

    def segmentation(self) -> NDArray[np.float64]:
        """SQ float64 [C], mean IoU of the matched; 0 where nothing matched, NaN where nothing was seen."""
        return np.where(self.seen, self.iou / np.maximum(self.matched, 1), np.nan)

    def recognition(self) -> NDArray[np.float64]:
        """RQ float64 [C], the F1 of the segments; NaN for classes that were not seen."""
        return _ratio(self.matched.astype(np.float64), self.weights)


def count_matches(
    truth: Segments, found: LabelMap, classes: NDArray[np.int64], class_count: int
) -> PanopticCounts:
    """Compare the segments of one image with the true ones.

    Args:
        truth: The ground truth.
        found: Integers [h, w], 0 for void, i + 1 for segment i; every segment has a pixel.
        classes: int64 [m], class of each segment.
        class_count: C.
    """
    rows, columns = len(truth.classes) + 1, len(classes) + 1
    pairs = truth.places.astype(np.int64) * columns + found
    shared = np.bincount(pairs.ravel(), minlength=rows * columns).reshape(rows, columns)
    true_area, found_area = shared.sum(axis=1)[1:], shared.sum(axis=0)[1:]
    on_void, both = shared[0, 1:], shared[1:, 1:]
    same = truth.classes[:, None] == classes[None, :]
    union = true_area[:, None] + found_area[None, :] - both - on_void[None, :]
    iou = both / np.maximum(union, 1)
    match = same & ~truth.crowd[:, None] & (iou > 0.5)
    excused = on_void + (both * (same & truth.crowd[:, None])).sum(axis=0)
    missed = ~match.any(axis=1) & ~truth.crowd
    wrong = ~match.any(axis=0) & (2 * excused <= found_area)
    best = np.where(match, iou, 0).sum(axis=0)
    return PanopticCounts(
        np.bincount(classes, best, minlength=class_count),
        np.bincount(classes[match.any(axis=0)], minlength=class_count),
        np.bincount(classes[wrong], minlength=class_count),
        np.bincount(truth.classes[missed], minlength=class_count),
    )


def summarise(counts: PanopticCounts, labels: Sequence[ClassLabel]) -> tuple[float, dict[str, float]]:
    """PQ, and its parts: SQ, RQ, PQ_th, PQ_st and the PQ of each class by name."""
    quality = counts.quality()
    things = np.array([label.kind is ClassKind.THING for label in labels], np.bool_)
    parts = {
        "SQ": _mean(counts.segmentation()),
        "RQ": _mean(counts.recognition()),
        "PQ_th": _mean(quality[things]),
        "PQ_st": _mean(quality[~things]),
        **{label.name: float(value) for label, value in zip(labels, quality, strict=True)},
    }
    return _mean(quality), parts


@dataclass(frozen=True)
class PanopticQuality:
    """PQ as the metric of panoptic segmentation; its parts are those of `summarise`."""

    name: str = "PQ"

    def begin(self, dataset: Dataset) -> PanopticMeasuring:
        """See `Metric.begin`."""
        if not isinstance(dataset, CocoPanoptic):
            raise DatasetError(
                "panoptic quality needs panoptic ground truth",
                where=str(dataset.json),
                hint="give a folder with panoptic.json and panoptic/",
            )
        counts = PanopticCounts.none(len(dataset.vocabulary.classes))
        return PanopticMeasuring(self.name, dataset, MeasuredImages(dataset), counts)


@dataclass
class PanopticMeasuring:
    """PQ while results come in; memory does not grow with the images."""

    name: str
    dataset: CocoPanoptic
    images: MeasuredImages
    counts: PanopticCounts

    def add(self, index: int, result: Result) -> None:
        """See `Measuring.add`."""
        _, found = self.images.add(index, result, Panoptic)
        labels = self.dataset.vocabulary.classes
        class_of = {label.id: class_index for class_index, label in enumerate(labels)}
        # Only classes that occur were looked up in the dataset; -1 stands for the others and is never chosen.
        classes = np.array([class_of.get(label.id, -1) for label in found.labels], np.int64)[found.classes]
        self.counts += count_matches(self.dataset.segments(index), found.segments, classes, len(labels))

    def value(self) -> Measured:
        """See `Measuring.value`."""
        value, parts = summarise(self.counts, self.dataset.vocabulary.classes)
        return Measured(self.name, value, parts, len(self.images.ids))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _mean(values: NDArray[np.float64]) -> float:
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if measured.size else float("nan")

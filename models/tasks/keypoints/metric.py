"""PCK: the share of labelled keypoints that were found within a part of the person's size.

A keypoint counts as found where it lies within `share` x the longer side of the annotated person box from its
place. Each annotated person belongs to the result whose box overlaps theirs most (boxes that are closer
first, at least half in IoU, one result a person); the keypoints of a person with no result are all missed.
Hidden keypoints that are labelled count like visible ones.

The object keypoint similarity AP of COCO, by faster-coco-eval, is among the parts where the similarity
constants of the keypoints are known; so are NME of faces, and PCKh of people whose head is measured.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from edgewise.models.data.coco_file import CocoImage, corners
from edgewise.models.data.dataset import Dataset
from edgewise.models.tasks.keypoints.annotations import CocoPerson
from edgewise.models.tasks.keypoints.dataset import PIXEL_CENTRE, CocoKeypoints
from edgewise.models.tasks.keypoints.yardsticks import NOT_JUDGED, PCKH, PCKH_SHARE, mean_error, yardsticks
from edgewise.models.tasks.measured_images import MeasuredImages
from edgewise.models.tasks.task import Measured
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import DatasetError

SHARE = 0.1
OTHER_SHARES = (0.05, 0.2)
SAME_PERSON = 0.5
"""Least IoU of a result's box with the annotated box of its person."""
Distances = NDArray[np.float64]


@dataclass(frozen=True)
class KeypointAccuracy:
    """PCK@0.1 as the metric of keypoint models that are given the annotated boxes.

    Its parts are PCK at other shares, OKS AP, NME or PCKh where they are known, and each keypoint's PCK@0.1.
    """

    name: str = f"PCK@{SHARE}"

    def begin(self, dataset: Dataset) -> KeypointMeasuring:
        """See `Metric.begin`."""
        if not isinstance(dataset, CocoKeypoints):
            raise DatasetError(
                "keypoint accuracy needs keypoint ground truth",
                where=str(dataset.json),
                hint="give a folder with keypoints.json and images/",
            )
        return KeypointMeasuring(self.name, dataset, MeasuredImages(dataset))


@dataclass
class KeypointMeasuring:
    """PCK while results come in; it keeps distances by every yardstick, and records for the similarity."""

    name: str
    dataset: CocoKeypoints
    images: MeasuredImages
    _distances: list[Distances] = field(default_factory=list, repr=False)
    _by_yardstick: dict[str, list[Distances]] = field(default_factory=dict, repr=False)
    _records: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def add(self, index: int, result: Result) -> None:
        """See `Measuring.add`; DatasetError too where people have another number of points."""
        image, found, distances = measured_people(self.dataset, self.images, index, result)
        self._distances.append(distances)
        people = self.dataset.people(index)
        pixels = distances * np.array([max(one.bbox[2:]) for one in people]).reshape(-1, 1)
        for name, lengths in yardsticks(people, self.dataset.layout).items():
            self._by_yardstick.setdefault(name, []).append(pixels / lengths[:, None])
        if self.dataset.layout.sigmas:
            self._records += found.records(image.id)

    def value(self) -> Measured:
        """See `Measuring.value`."""
        chosen, layout = self.images.ids, self.dataset.layout
        every = np.concatenate(self._distances)
        parts = {f"PCK@{share}": within(every, share) for share in OTHER_SHARES}
        if layout.sigmas:
            parts["OKS AP"] = oks_ap(self.dataset, self._records, chosen)
        for name, errors in self._by_yardstick.items():
            parts[name] = self._judged(name, np.concatenate(errors))
        parts |= {name: within(every[:, index], SHARE) for index, name in enumerate(layout.names)}
        return Measured(self.name, within(every, SHARE), parts, len(chosen))

    def _judged(self, name: str, errors: Distances) -> float:
        if name != PCKH:
            return mean_error(errors)
        counted = [name not in NOT_JUDGED for name in self.dataset.layout.names]
        return within(errors[:, counted], PCKH_SHARE)


def measured_people(
    dataset: CocoKeypoints, images: MeasuredImages, index: int, result: Result
) -> tuple[CocoImage, Keypoints, Distances]:
    """Image `index`, its result, and how far the keypoints of its annotated people are off.

    Raises:
        DatasetError: As `MeasuredImages.add`, or people have another number of points.
    """
    count = len(dataset.layout.names)
    if isinstance(result, Keypoints) and result.points.shape[1] != count:
        raise images.refusal(f"a result has {result.points.shape[1]} keypoints, not {count}")
    image, found = images.add(index, result, Keypoints)
    return image, found, relative_distances(dataset.people(index), found.points, found.boxes)


def relative_distances(
    people: tuple[CocoPerson, ...], points: NDArray[np.float32], boxes: NDArray[np.float32]
) -> Distances:
    """How far each keypoint of each annotated person is off, as a part of the person's size.

    Args:
        people: The annotated people of an image.
        points: [n, k, 2], where n results have their keypoints, in continuous pixels.
        boxes: [n, 4], xyxy of the results.

    Returns:
        float64 [people, k]; infinite where no result belongs to the person, NaN where the keypoint is not
        labelled.
    """
    result = np.full((len(people), points.shape[1]), np.inf)
    unlabelled = np.array([one.points[:, 2] == 0 for one in people], np.bool_).reshape(result.shape)
    for person, number in _matches(corners([one.bbox for one in people]), boxes.astype(np.float64)):
        offsets = points[number].astype(np.float64) - PIXEL_CENTRE - people[person].points[:, :2]
        result[person] = np.hypot(offsets[:, 0], offsets[:, 1]) / max(people[person].bbox[2:])
    result[unlabelled] = np.nan
    return result


def oks_ap(dataset: CocoKeypoints, records: list[dict[str, Any]], image_ids: list[int]) -> float:
    """COCO's keypoint AP (OKS .50:.05:.95), 0..1; NaN where there is nobody to find."""
    people = [
        {
            "id": 0,
            "image_id": dataset.images[index].id,
            "category_id": one.category_id,
            "bbox": list(one.bbox),
            "area": one.extent,
            "keypoints": one.keypoints,
            "num_keypoints": int((one.points[:, 2] > 0).sum()),
            "iscrowd": int(one.iscrowd),
        }
        for index in range(len(dataset))
        for one in dataset.judged(index)
    ]
    for number, person in enumerate(people, start=1):  # evaluators take a match with number 0 for none
        person["id"] = number
    if not people:
        return float("nan")
    content = {
        "images": [{"id": one.id, "width": one.width, "height": one.height} for one in dataset.images],
        "annotations": people,
        "categories": [{"id": label.id, "name": label.name} for label in dataset.vocabulary.classes],
    }
    if not records:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(content)
        found = truth.loadRes([dict(record) for record in records])
        evaluator = COCOeval_faster(truth, found, "keypoints")
        evaluator.params.imgIds = image_ids
        evaluator.params.kpt_oks_sigmas = np.array(dataset.layout.sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    value = float(evaluator.stats[0])
    return value if value > -1 else float("nan")


def _matches(people: NDArray[np.float64], found: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of (person, result), each in one pair at most, closest boxes first."""
    iou = _box_iou(people, found)
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(-iou, axis=None, kind="stable").tolist():
        person, record = divmod(flat, iou.shape[1])
        if iou[person, record] >= SAME_PERSON:
            pairs.append((person, record))
            iou[person] = iou[:, record] = -1
    return pairs


def _box_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-12)


def within(distances: Distances, share: float) -> float:
    """The share of labelled keypoints that are off by at most `share`; NaN where none is labelled."""
    labelled = distances[~np.isnan(distances)]
    return float((labelled <= share).mean()) if labelled.size else float("nan")

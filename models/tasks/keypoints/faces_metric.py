"""How right found faces are: average precision of their boxes, and how far their points are off."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from edgewise.models.data.dataset import Dataset
from edgewise.models.tasks.keypoints.faces_dataset import CocoFaces
from edgewise.models.tasks.keypoints.metric import measured_people
from edgewise.models.tasks.keypoints.yardsticks import BOX, mean_error
from edgewise.models.tasks.measured_images import MeasuredImages
from edgewise.models.tasks.task import Measured
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import DatasetError

IOU = 0.5
"""From which overlap on a face counts as found, as on WIDER FACE."""
_MOST = 750
"""Faces of one image that are judged."""


@dataclass(frozen=True)
class FacePrecision:
    """Average precision of boxes at an IoU of 0.5.

    Its part is the mean error of the points as a share of the root of the box's area, over the faces that
    were found.
    """

    name: str = "AP50"

    def begin(self, dataset: Dataset) -> FaceMeasuring:
        """See `Metric.begin`."""
        if not isinstance(dataset, CocoFaces):
            raise DatasetError(
                f"{self.name} of faces needs boxes with points as ground truth",
                where=str(dataset.json),
                hint="give a folder with keypoints.json and images/, or a label.txt of WIDER FACE",
            )
        return FaceMeasuring(self.name, dataset, MeasuredImages(dataset))


@dataclass
class FaceMeasuring:
    """The precision while results come in, kept as records: the evaluator sorts all of them together."""

    name: str
    dataset: CocoFaces
    images: MeasuredImages
    _errors: list[NDArray[np.float64]] = field(default_factory=list, repr=False)
    _records: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def add(self, index: int, result: Result) -> None:
        """See `Measuring.add`; DatasetError too where faces have another number of points."""
        image, found, distances = measured_people(self.dataset, self.images, index, result)
        sides = np.array([one.bbox[2:] for one in self.dataset.people(index)], np.float64).reshape(-1, 2)
        scale = sides.max(axis=1, initial=0.0) / np.sqrt(sides.prod(axis=1))
        self._errors.append(distances * scale[:, None])
        self._records += [
            {key: value for key, value in record.items() if key != "keypoints"}
            for record in found.records(image.id)
        ]

    def value(self) -> Measured:
        """See `Measuring.value`."""
        chosen = self.images.ids
        parts = {BOX: mean_error(np.concatenate(self._errors))}
        return Measured(self.name, self._precision(chosen), parts, len(chosen))

    def _precision(self, chosen: list[int]) -> float:
        faces = [
            {
                "image_id": self.dataset.images[index].id,
                "category_id": one.category_id,
                "bbox": list(one.bbox),
                "area": one.extent,
                "iscrowd": int(one.iscrowd or not min(one.bbox[2:])),
            }
            for index in self.images.indices
            for one in self.dataset.judged(index)
        ]
        if all(face["iscrowd"] for face in faces):
            return float("nan")
        if not self._records:
            return 0.0
        content = {
            "images": [
                {"id": one.id, "width": one.width, "height": one.height} for one in self.dataset.images
            ],
            # evaluators take a match with number 0 for none
            "annotations": [{"id": number, **face} for number, face in enumerate(faces, start=1)],
            "categories": [{"id": one.id, "name": one.name} for one in self.dataset.vocabulary.classes],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(content)
            found = truth.loadRes([dict(record) for record in self._records])
            evaluator = COCOeval_faster(truth, found, "bbox")
            evaluator.params.imgIds = chosen
            evaluator.params.iouThrs = np.array([IOU])
            evaluator.params.maxDets = [1, 10, _MOST]
            evaluator.evaluate()
            evaluator.accumulate()
        precision = evaluator.eval["precision"][0, :, 0, 0, -1]
        return float(precision[precision > -1].mean()) if (precision > -1).any() else float("nan")

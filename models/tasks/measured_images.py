"""The images that a metric has seen, and a look at what would make its figure meaningless."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from edgewise.models.data.coco_file import CocoImage
from edgewise.models.data.dataset import Dataset
from edgewise.runtime.results.result import Result, Scored
from edgewise.runtime.system.errors import DatasetError

Found = TypeVar("Found", bound=Scored)


@dataclass
class MeasuredImages:
    """Images of a dataset whose results are judged, each once."""

    dataset: Dataset
    _ids: dict[int, int] = field(default_factory=dict)

    def add(self, index: int, result: Result, wanted: type[Found]) -> tuple[CocoImage, Found]:
        """Image `index` and its result, which is of the wanted type and belongs to it.

        Raises:
            DatasetError: As `Measuring.add`.
        """
        if not 0 <= index < len(self.dataset):
            raise self.refusal(f"the file does not list an image number {index}")
        image = self.dataset.images[index]
        problem = ""
        if index in self._ids:
            problem = f"image {image.id} is measured already"
        elif not isinstance(result, wanted):
            problem = f"the result for image {image.id} is of {type(result).__name__}, not {wanted.__name__}"
        elif result.frame_size != (image.height, image.width):
            height, width = result.frame_size
            problem = (
                f"the result for image {image.id} is of {height} x {width} pixels, not "
                f"{image.height} x {image.width}"
            )
        else:
            self._refuse_odd_scores(image, result)
            self._ids[index] = image.id
            return image, result
        raise self.refusal(problem)

    @property
    def indices(self) -> list[int]:
        """Places of the images in the dataset, in the dataset's order."""
        return sorted(self._ids)

    @property
    def ids(self) -> list[int]:
        """Ids of the images, rising; DatasetError where there are none."""
        if not self._ids:
            raise self.refusal("there are no images to measure on")
        return sorted(self._ids.values())

    def refusal(self, problem: str) -> DatasetError:
        """The error for results that do not belong to the dataset."""
        return DatasetError(
            problem,
            where=str(self.dataset.json),
            hint="measure results on the dataset that they were made from",
        )

    def _refuse_odd_scores(self, image: CocoImage, result: Scored) -> None:
        listed = self.dataset.vocabulary.names_by_id
        for class_index in np.unique(result.classes).tolist():
            category = result.labels[class_index].id
            if category not in listed:
                raise self.refusal(f"a result names category {category}, which the file does not list")
        odd = result.scores[~np.isfinite(result.scores)]
        if odd.size:
            raise self.refusal(f"a result for image {image.id} has the score {odd[0]}")

"""Annotated people and faces, whatever form of file they come from: as COCO writes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgewise.models.data.coco_file import Box, CocoImage
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.runtime.contract.parts import Id
from edgewise.runtime.frames.coco import Flag
from edgewise.runtime.frames.images import read_image
from edgewise.runtime.system.errors import DatasetError, SourceError


class CocoPerson(msgspec.Struct, frozen=True):
    """A person of a keypoint file; `keypoints` are x, y, visibility, one after another.

    `head_size` is the length in pixels that PCKh measures by, where the file states one (MPII).
    """

    id: Id
    image_id: Id
    category_id: Id
    bbox: Box
    keypoints: list[float]
    area: float | None = None
    iscrowd: Flag = 0
    head_size: float | None = None

    @property
    def points(self) -> NDArray[np.float64]:
        """float64 [k, 3], x, y (pixel indices) and visibility (0 unlabelled, 1 hidden, 2 visible)."""
        return np.array(self.keypoints, np.float64).reshape(-1, 3)

    @property
    def extent(self) -> float:
        """The area that the similarity of keypoints is measured by; the box's where the file states none."""
        return self.bbox[2] * self.bbox[3] if self.area is None else self.area

    @property
    def usable(self) -> bool:
        """Whether there is a box to look at and a labelled point to learn or to measure."""
        return not self.iscrowd and self.bbox[2] > 0 and self.bbox[3] > 0 and any(self.keypoints[2::3])


@dataclass(frozen=True)
class AnnotatedPeople:
    """What a file annotates, checked.

    Attributes:
        file: The annotation file itself.
        images: Of the file, in its order.
        people: Of these images.
        vocabulary: One class with its keypoints.
    """

    file: Path
    images: tuple[CocoImage, ...]
    people: tuple[CocoPerson, ...]
    vocabulary: Vocabulary


def measure_images(names: Iterable[str], folder: Path) -> tuple[CocoImage, ...]:
    """Images by name, numbered from 1, with the sizes that their files have: for forms that state none.

    Raises:
        DatasetError: One is missing or cannot be read.
    """
    found: list[CocoImage] = []
    for number, name in enumerate(names, start=1):
        try:
            height, width = read_image(folder / name).shape[:2]
        except SourceError as error:
            raise DatasetError(
                f"an annotated image cannot be used: {error.what}",
                where=str(folder / name),
                hint="give the folder of the images, or fetch them again",
            ) from None
        found.append(CocoImage(id=number, file_name=name, height=height, width=width))
    return tuple(found)

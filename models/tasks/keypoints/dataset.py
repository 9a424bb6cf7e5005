"""COCO keypoint datasets: one training sample a person, cropped as the device crops it.

COCO counts keypoints in whole pixels; here they are continuous, at the centre of the pixel that they name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.models.data.annotated_images import AnnotatedImages
from edgewise.models.data.augment import Augmentation, swapped
from edgewise.models.data.coco_file import (
    by_image,
    corners,
    image_folder,
    refuse_missing,
)
from edgewise.models.data.example import Image
from edgewise.models.data.images import ImageFiles
from edgewise.models.tasks.keypoints.annotations import CocoPerson
from edgewise.models.tasks.keypoints.augment_crop import vary_crop
from edgewise.models.tasks.keypoints.reading import read_people
from edgewise.models.tasks.keypoints.targets import KeypointTargets
from edgewise.runtime.contract.manifest import KeypointLayout
from edgewise.runtime.contract.preprocessing import AffineCrop, Preprocess, SquareCrop
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.frames.preprocessing import crop_geometry, crop_source
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.kinds.keypoints.sides import without_partner
from edgewise.runtime.system.errors import DatasetError

PIXEL_CENTRE = 0.5
"""From COCO's index of a pixel to its centre in continuous coordinates."""


@dataclass
class CocoKeypoints(AnnotatedImages):
    """A COCO keypoint dataset of one category.

    Attributes:
        json: The annotation file.
        files: The images, in the file's order.
        vocabulary: The category and its keypoint layout.
    """

    file_name: ClassVar[str] = "keypoints.json"

    _everybody: tuple[tuple[CocoPerson, ...], ...]
    _samples: tuple[tuple[int, CocoPerson], ...]

    @classmethod
    def open(cls, data: Path, images: Path | None = None, *, keep: bool = False) -> CocoKeypoints:
        """Read and check the annotations.

        Args:
            data: A COCO keypoint file, or a folder that holds `keypoints.json` and `images/`; or another form
                of file that `reading.py` knows.
            images: The image folder; by default `images/` beside the annotation file, or its own folder.
            keep: Keep decoded images in memory (up to 3 GiB), for training over many epochs.

        Raises:
            DatasetError: No such file, not COCO, not exactly one category, two images of one id, annotations
                that name an unknown image or category or have an impossible box or odd keypoints (all of them
                at once), no images, or an image file that is missing.
        """
        found = read_people(data, images, cls.file_name)
        people = by_image(found.images, found.people)
        folder = image_folder(found.file, images)
        refuse_missing([image.file_name for image in found.images], folder)
        everybody = tuple(tuple(people[image.id]) for image in found.images)
        return cls(
            found.file,
            ImageFiles(folder, found.images, keep),
            found.vocabulary,
            everybody,
            tuple((index, one) for index, persons in enumerate(everybody) for one in persons if one.usable),
        )

    @property
    def layout(self) -> KeypointLayout:
        """Names, flip pairs, limbs and similarity constants of the keypoints."""
        assert self.vocabulary.keypoints is not None
        return self.vocabulary.keypoints

    @property
    def remarks(self) -> tuple[str, ...]:
        """That crops are not mirrored, where no names or not all of them tell left from right."""
        return (f"crops are not mirrored: {self.one_sided}",) if self.one_sided else ()

    @cached_property
    def one_sided(self) -> str:
        """Why a mirrored person would be labelled wrongly, in words; empty where it would not."""
        pairs = self.layout.flip_pairs
        if not pairs:
            return "no two keypoint names are a left and a right"
        alone = without_partner(self.layout.names, pairs)
        return f"the other side of {', '.join(alone)} has no keypoint" if alone else ""

    @property
    def object_count(self) -> int:
        """How many people have a box and a labelled keypoint, crowds left out."""
        return len(self._samples)

    @property
    def sample_count(self) -> int:
        """One training sample a person."""
        return len(self._samples)

    def people(self, index: int) -> tuple[CocoPerson, ...]:
        """The people of image `index` with a box and a labelled keypoint, crowds left out."""
        return tuple(one for one in self._everybody[index] if one.usable)

    def judged(self, index: int) -> tuple[CocoPerson, ...]:
        """The people of image `index` that results are measured against."""
        return self.people(index)

    def boxes(self, index: int) -> FrameBoxes:
        """The annotated boxes of `people(index)`."""
        boxes = corners([one.bbox for one in self.people(index)])
        return FrameBoxes(boxes, np.ones(len(boxes), np.float32))

    def truth(self, index: int) -> Keypoints:
        """The annotated people of image `index`; unlabelled points score 0, the others 1."""
        image, people = self.images[index], self.people(index)
        points = np.stack([one.points for one in people]) if people else self._no_points()
        return Keypoints(
            points=(points[..., :2] + PIXEL_CENTRE).astype(np.float32),
            point_scores=(points[..., 2] > 0).astype(np.float32),
            boxes=corners([one.bbox for one in people]).astype(np.float32),
            scores=np.ones(len(people), np.float32),
            classes=np.zeros(len(people), np.int32),
            labels=self.vocabulary.classes,
            layout=self.layout,
            frame_size=(image.height, image.width),
        )

    def training_pair(
        self, rng: np.random.Generator, sample: int, spec: Preprocess, augmentation: Augmentation
    ) -> tuple[Image, KeypointTargets]:
        """The varied crop around person `sample`, and its keypoints in it.

        Args:
            rng: Decides the variation.
            sample: Below `sample_count`.
            spec: The model's preprocessing, an `AffineCrop` or a `SquareCrop`.
            augmentation: How strongly to vary.

        Raises:
            DatasetError: The model does not look at crops, or as `frame`.
        """
        if not isinstance(spec, AffineCrop | SquareCrop):
            raise DatasetError(
                "people's keypoints train models that look at crops, not at whole frames",
                where=str(self.json),
                hint="choose a model whose preprocessing is a crop around boxes",
            )
        index, person = self._samples[sample]
        frame = self.frame(index)
        x1, y1, x2, y2 = corners([person.bbox])[0].tolist()
        box = x1, y1, x2, y2
        geometry = crop_geometry(spec, (frame.shape[0], frame.shape[1]), box)
        source = crop_source(spec, frame, box)
        if self.one_sided:
            augmentation = replace(augmentation, mirror=0.0)
        crop, geometry, mirrored = vary_crop(rng, source, spec, geometry, augmentation)
        points = person.points
        if mirrored:
            points = swapped(points, self.layout.flip_pairs)
        points[:, :2] = geometry.to_network(points[:, :2] + PIXEL_CENTRE)
        height, width = spec.size
        inside = (points[:, :2] >= 0).all(axis=1) & (points[:, :2] < (width, height)).all(axis=1)
        points[~inside | (points[:, 2] == 0)] = 0
        return crop, KeypointTargets(torch.from_numpy(points.astype(np.float32)))

    def _no_points(self) -> NDArray[np.float64]:
        return np.zeros((0, len(self.layout.names), 3), np.float64)

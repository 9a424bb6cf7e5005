"""COCO keypoint datasets for models that find the people themselves: one training sample an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgewise.models.data.augment import Augmentation, augment
from edgewise.models.data.coco_file import corners
from edgewise.models.data.example import Example, Image
from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.data.network_input import to_network
from edgewise.models.tasks.keypoints.annotations import CocoPerson
from edgewise.models.tasks.keypoints.dataset import PIXEL_CENTRE, CocoKeypoints
from edgewise.runtime.contract.preprocessing import Preprocess


@dataclass
class CocoPeople(CocoKeypoints):
    """The file of `CocoKeypoints`, looked at as whole frames.

    Images without anybody whose keypoints are labelled take no part in training, as in torchvision's and
    detectron2's. People without a labelled keypoint are there to be found all the same. Crowds, and people
    with an empty box, count as neither right nor wrong.
    """

    @property
    def remarks(self) -> tuple[str, ...]:
        """That images are not mirrored, where no names or not all of them tell left from right."""
        return (f"images are not mirrored: {self.one_sided}",) if self.one_sided else ()

    @property
    def sample_count(self) -> int:
        """One training sample an image in which somebody has a labelled keypoint."""
        return len(self._peopled)

    @cached_property
    def _peopled(self) -> tuple[int, ...]:
        return tuple(index for index in range(len(self)) if self.people(index))

    def judged(self, index: int) -> tuple[CocoPerson, ...]:
        """Everybody who is annotated in image `index`, crowds too."""
        return self._everybody[index]

    def boxes(self, index: int) -> None:
        """Nothing: whole frames are looked at."""

    def training_pair(
        self, rng: np.random.Generator, sample: int, spec: Preprocess, augmentation: Augmentation
    ) -> tuple[Image, InstanceTargets]:
        """The image of sample `sample`, varied and at network size, with its people in network pixels."""
        if self.one_sided:
            augmentation = replace(augmentation, mirror=0.0)
        return to_network(augment(rng, self.example(self._peopled[sample]), augmentation), spec)

    def example(self, index: int) -> Example:
        """Image `index` with its people; a person's mask is the box.

        Raises:
            DatasetError: As `frame`.
        """
        frame = self.frame(index)
        people = [one for one in self._everybody[index] if _is_person(one)]
        regions = [one for one in self._everybody[index] if not _is_person(one)]
        boxes = corners([one.bbox for one in people])
        points = np.stack([one.points for one in people]) if people else self._no_points()
        points[..., :2] += PIXEL_CENTRE
        return Example(
            frame,
            boxes,
            np.zeros(len(people), np.int64),
            _box_masks(boxes, frame.shape[:2]),
            corners([one.bbox for one in regions]),
            points=points,
            flip_pairs=self.layout.flip_pairs,
        )


def _is_person(one: CocoPerson) -> bool:
    return not one.iscrowd and min(one.bbox[2:]) > 0


def _box_masks(boxes: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.bool_]:
    masks = np.zeros((len(boxes), *size), np.bool_)
    low = np.floor(boxes[:, :2]).clip(0).astype(int)
    high = np.ceil(boxes[:, 2:]).clip(0).astype(int)
    for mask, (left, top), (right, bottom) in zip(masks, low.tolist(), high.tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return masks

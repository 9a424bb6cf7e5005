"""COCO DensePose datasets: people with boxes, coarse masks and points of known part, U and V.

An annotation has `dp_masks`, up to fourteen run lengths of 256 x 256 cells over the box (a coarse part each,
empty where it is not seen), and five lists of one length: `dp_x` and `dp_y`, 256ths of the box, `dp_I`, the
part, and `dp_U` and `dp_V`. People without them are people still, without a surface.

Pictures are not mirrored in training: what a mirror does to the charts of DensePose's body is data that
cannot be shipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.models.data.annotated_images import AnnotatedImages
from edgewise.models.data.augment import Augmentation, vary_colour
from edgewise.models.data.coco_file import (
    Box,
    CocoCategory,
    CocoImage,
    annotation_file,
    by_image,
    classes_of,
    corners,
    image_folder,
    object_faults,
    read_file,
    refuse_faults,
    refuse_lists,
    refuse_missing,
)
from edgewise.models.data.example import Image
from edgewise.models.data.images import ImageFiles
from edgewise.models.data.segmentation import CocoRle, decode_segmentation, segmentation_fault
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.tasks.surface.targets import SurfaceTargets
from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.contract.parts import Id
from edgewise.runtime.contract.preprocessing import Preprocess
from edgewise.runtime.frames.coco import Flag
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.kinds.surface.crops import SurfaceCrops, whole_places
from edgewise.runtime.kinds.surface.result import Surface

MASK_SIDE = 256
"""Cells of a coarse mask, and steps of a point's place, along an axis of the box."""
MOST_PARTS = 24
_COARSE = 14
_HINT = "give a COCO DensePose file, or a folder with surface.json and images/"


class CocoPerson(msgspec.Struct, frozen=True):
    """A person of a DensePose file."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: Box
    area: float | None = None
    iscrowd: Flag = 0
    dp_masks: list[CocoRle | list[float]] = []
    dp_x: list[float] = []
    dp_y: list[float] = []
    dp_I: list[float] = []
    dp_U: list[float] = []
    dp_V: list[float] = []


class _File(msgspec.Struct, frozen=True):
    images: list[CocoImage]
    annotations: list[CocoPerson]
    categories: list[CocoCategory]


@dataclass(frozen=True, eq=False)
class People:
    """The people of one image, crowds left out.

    Attributes:
        boxes: float64 [n, 4], x1 y1 x2 y2 in continuous source pixels.
        classes: int64 [n].
        points: Of each float64 [p, 5]: x, y in source pixels, part, U, V.
        masks: uint8 [n, 256, 256], the coarse part of each cell of the box.
        crowd_boxes: float64 [c, 4].
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    points: tuple[NDArray[np.float64], ...]
    masks: NDArray[np.uint8]
    crowd_boxes: NDArray[np.float64]


@dataclass
class CocoSurfaces(AnnotatedImages):
    """A COCO DensePose dataset; `people(i)` are those of image i."""

    file_name: ClassVar[str] = "surface.json"

    _annotations: dict[int, list[CocoPerson]]
    _classes: dict[int, int]
    _masks: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    @classmethod
    def open(cls, data: Path, images: Path | None = None, *, keep: bool = False) -> CocoSurfaces:
        """Read and check the annotations.

        Args:
            data: A COCO DensePose file, or a folder that holds `surface.json` and `images/`.
            images: The image folder; by default `images/` beside the annotation file, or its own folder.
            keep: Keep decoded images and masks in memory, for training over many epochs.

        Raises:
            DatasetError: No such file, not COCO, no images or categories, two of one id, annotations that
                name an unknown image or category or have an impossible box, point or mask (all of them at
                once), or an image file that is missing.
        """
        json = annotation_file(data, cls.file_name)
        file = read_file(json, _File, "DensePose", _HINT)
        refuse_lists(file.images, file.categories, json)
        categories = classes_of(file.categories, {one.category_id for one in file.annotations})
        classes = {category.id: index for index, category in enumerate(categories)}
        listed = {image.id: image for image in file.images}
        refuse_faults(
            [*object_faults(file.annotations, listed, classes), *_surface_faults(file.annotations)], json
        )
        annotations = by_image(file.images, file.annotations)
        folder = image_folder(json, images)
        refuse_missing([image.file_name for image in file.images], folder)
        vocabulary = Vocabulary(
            tuple(ClassLabel(id=category.id, name=category.name) for category in categories)
        )
        return cls(json, ImageFiles(folder, tuple(file.images), keep), vocabulary, annotations, classes)

    @property
    def object_count(self) -> int:
        """How many people are annotated, crowds left out."""
        return sum(not one.iscrowd for people in self._annotations.values() for one in people)

    @property
    def parts(self) -> int:
        """The highest part that is annotated anywhere."""
        return max(
            (int(max(one.dp_I)) for people in self._annotations.values() for one in people if one.dp_I),
            default=1,
        )

    def people(self, index: int) -> People:
        """The people of image `index`."""
        annotations = self._annotations[self.images[index].id]
        people = [one for one in annotations if not one.iscrowd]
        if index not in self._masks:
            masks = np.zeros((len(people), MASK_SIDE, MASK_SIDE), np.uint8)
            for mask, one in zip(masks, people, strict=True):
                for part, runs in enumerate(one.dp_masks, start=1):
                    if isinstance(runs, CocoRle):
                        mask[decode_segmentation(runs, (MASK_SIDE, MASK_SIDE))] = part
            if self.files.keep:
                self._masks[index] = masks
        else:
            masks = self._masks[index]
        return People(
            corners([one.bbox for one in people]),
            np.array([self._classes[one.category_id] for one in people], np.int64),
            tuple(_points(one) for one in people),
            masks,
            corners([one.bbox for one in annotations if one.iscrowd]),
        )

    def truth(self, index: int) -> Surface:
        """The people of image `index` as a result: each pixel of a person shows what the nearest annotated
        point does. People without points have no pixel."""
        image, people = self.images[index], self.people(index)
        size = (image.height, image.width)
        boxes = np.clip(people.boxes, 0, [image.width, image.height, image.width, image.height])
        boxes = boxes.astype(np.float32)
        places = whole_places(boxes)
        places[:, :2] = np.minimum(places[:, :2], np.array([image.width, image.height]) - 1)
        crops = [
            _spread(points, mask, place)
            for points, mask, place in zip(people.points, people.masks, places.tolist(), strict=True)
        ]
        return Surface(
            boxes=boxes,
            scores=np.ones(len(boxes), np.float32),
            classes=people.classes.astype(np.int32),
            crops=SurfaceCrops.of(crops, places, size),
            parts=MOST_PARTS,
            labels=self.vocabulary.classes,
            frame_size=size,
        )

    def training_pair(
        self, rng: np.random.Generator, sample: int, spec: Preprocess, augmentation: Augmentation
    ) -> tuple[Image, SurfaceTargets]:
        """Image `sample` with its colours varied, at network size, and its targets in network pixels."""
        frame = vary_colour(rng, self.frame(sample), augmentation)
        tensor, geometry = preprocess(spec, frame)
        people = self.people(sample)
        height, width = geometry.network_size

        def mapped(boxes: NDArray[np.float64]) -> torch.Tensor:
            found = geometry.to_network(boxes.reshape(-1, 2, 2)).reshape(-1, 4)
            return torch.from_numpy(np.clip(found, 0, [width, height, width, height]).astype(np.float32))

        points = [
            np.concatenate([geometry.to_network(each[:, :2]), each[:, 2:]], axis=1) for each in people.points
        ]
        return tensor[0], SurfaceTargets(
            mapped(people.boxes),
            torch.from_numpy(people.classes),
            mapped(people.crowd_boxes),
            tuple(torch.from_numpy(each.astype(np.float32)) for each in points),
            torch.from_numpy(people.masks),
        )


def _points(person: CocoPerson) -> NDArray[np.float64]:
    x, y, width, height = person.bbox
    columns = np.array(person.dp_x, np.float64) * width / MASK_SIDE + x
    rows = np.array(person.dp_y, np.float64) * height / MASK_SIDE + y
    return np.stack([columns, rows, *(np.array(each, np.float64) for each in _charted(person))], axis=1)


def _charted(person: CocoPerson) -> tuple[list[float], list[float], list[float]]:
    return person.dp_I, person.dp_U, person.dp_V


def _spread(
    points: NDArray[np.float64], mask: NDArray[np.uint8], place: list[int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Labels [h, w] and uv [2, h, w] of a crop at x, y, w, h: those of the nearest point, inside the mask."""
    x, y, w, h = place
    labels, uv = np.zeros((h, w), np.uint8), np.zeros((2, h, w), np.float32)
    columns = np.clip(np.floor(points[:, 0]).astype(int) - x, 0, w - 1)
    rows = np.clip(np.floor(points[:, 1]).astype(int) - y, 0, h - 1)
    if not len(points):
        return labels, uv
    far = np.ones((h, w), np.uint8)
    far[rows, columns] = 0
    _, found = cv2.distanceTransformWithLabels(
        far, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    zones = np.asarray(found, np.int64)
    nearest = np.zeros(int(zones.max()) + 1, np.int64)
    nearest[zones[rows, columns]] = np.arange(len(points))
    inside = np.asarray(cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST)) > 0
    inside[rows, columns] = True
    chosen = points[nearest[zones]]
    labels[inside] = chosen[inside, 2].astype(np.uint8)
    uv[:, inside] = chosen[inside, 3:].T.astype(np.float32)
    return labels, uv


def _surface_faults(annotations: list[CocoPerson]) -> Iterator[str]:
    """What is wrong with the points and coarse masks."""
    for one in annotations:
        lists: Mapping[str, list[float]] = {
            "dp_x": one.dp_x,
            "dp_y": one.dp_y,
            "dp_I": one.dp_I,
            "dp_U": one.dp_U,
            "dp_V": one.dp_V,
        }
        if len({len(each) for each in lists.values()}) != 1:
            counts = ", ".join(f"{len(each)} {name}" for name, each in lists.items())
            yield f"annotation {one.id} has lists of points of different length: {counts}"
        elif not all(0 <= place <= MASK_SIDE for place in (*one.dp_x, *one.dp_y)):
            yield f"annotation {one.id} has a point outside 0..{MASK_SIDE} of its box"
        elif not all(part in range(1, MOST_PARTS + 1) for part in one.dp_I):
            yield f"annotation {one.id} has a point of no part in 1..{MOST_PARTS}"
        elif not all(0 <= place <= 1 for place in (*one.dp_U, *one.dp_V)):
            yield f"annotation {one.id} has a point whose U or V is not in 0..1"
        elif len(one.dp_masks) > _COARSE:
            yield f"annotation {one.id} has {len(one.dp_masks)} coarse masks, more than {_COARSE}"
        for runs in one.dp_masks:
            fault = isinstance(runs, CocoRle) and segmentation_fault(runs, (MASK_SIDE, MASK_SIDE))
            if fault:
                yield f"a coarse mask of annotation {one.id} is broken: {fault}"

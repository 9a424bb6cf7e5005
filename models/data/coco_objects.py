"""Objects of COCO files: boxes with masks or without, read strictly and decoded lazily.

Boxes are (x1, y1, x2, y2) in continuous source pixels (pixel column j covers [j, j + 1)), which is COCO's
(x, y, width, height) with the width and height added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgewise.models.data.annotated_images import AnnotatedImages
from edgewise.models.data.augment import Augmentation, augment
from edgewise.models.data.coco_file import (
    CocoAnnotation,
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
    segmentation_faults,
)
from edgewise.models.data.example import Example, Image
from edgewise.models.data.images import ImageFiles
from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.data.network_input import to_network
from edgewise.models.data.segmentation import decode_segmentation
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.contract.preprocessing import Preprocess

if TYPE_CHECKING:
    from typing_extensions import Self

_HINT = "give a COCO annotation file, or a folder with instances.json and images/"


class _File(msgspec.Struct, frozen=True):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


@dataclass
class CocoObjects(AnnotatedImages):
    """A COCO file of objects; `example(i)` decodes image i when it is asked for. A task adds `truth`.

    Attributes:
        json: The annotation file.
        files: The images, in the file's order.
        vocabulary: One class a category, by rising id.
    """

    file_name: ClassVar[str] = "instances.json"
    masks_needed: ClassVar[bool] = True
    """Whether an object without a segmentation is a fault; where it is none, its mask is its box."""

    _annotations: dict[int, list[CocoAnnotation]]
    _classes: dict[int, int]
    _masks: dict[int, list[tuple[int, int, NDArray[np.bool_]]]] = field(default_factory=dict)

    @classmethod
    def open(cls, data: Path, images: Path | None = None, *, keep: bool = False) -> Self:
        """Read and check the annotations.

        Args:
            data: A COCO annotation file, or a folder that holds `instances.json` and `images/`.
            images: The image folder; by default `images/` beside the annotation file, or its own folder.
            keep: Keep decoded images and masks in memory (up to 3 GiB), for training over many epochs.

        Raises:
            DatasetError: No such file, not COCO, no images or categories, two of one id, annotations that
                name an unknown image or category or have an impossible box or a broken segmentation (all of
                them at once), or an image file that is missing.
        """
        json = annotation_file(data, cls.file_name)
        file = read_file(json, _File, "instance", _HINT)
        refuse_lists(file.images, file.categories, json)
        categories = classes_of(file.categories, {one.category_id for one in file.annotations})
        classes = {category.id: index for index, category in enumerate(categories)}
        listed = {image.id: image for image in file.images}
        faults = object_faults(file.annotations, listed, classes)
        masked = [one for one in file.annotations if cls.masks_needed or one.segmentation]
        refuse_faults([*faults, *segmentation_faults(masked, listed)], json)
        annotations = by_image(file.images, file.annotations)
        folder = image_folder(json, images)
        refuse_missing([image.file_name for image in file.images], folder)
        vocabulary = Vocabulary(
            tuple(ClassLabel(id=category.id, name=category.name) for category in categories)
        )
        return cls(json, ImageFiles(folder, tuple(file.images), keep), vocabulary, annotations, classes)

    @property
    def object_count(self) -> int:
        """How many objects are annotated, crowd regions left out."""
        return sum(not one.iscrowd for objects in self._annotations.values() for one in objects)

    def records(self, index: int) -> list[dict[str, Any]]:
        """The annotations of image `index`, crowds among them, as COCO's evaluators want them, without ids.

        An area that the file does not state is the mask's, or without a mask the box's.
        """
        image = self.images[index]
        return [
            {
                "image_id": image.id,
                "category_id": one.category_id,
                "bbox": list(one.bbox),
                "area": _area(one, image),
                "iscrowd": int(one.iscrowd),
                **({"segmentation": msgspec.to_builtins(one.segmentation)} if one.segmentation else {}),
            }
            for one in self._annotations[image.id]
        ]

    def training_pair(
        self, rng: np.random.Generator, sample: int, spec: Preprocess, augmentation: Augmentation
    ) -> tuple[Image, InstanceTargets]:
        """Image `sample`, varied and at network size, with its targets in network pixels."""
        return to_network(augment(rng, self.example(sample), augmentation), spec)

    def example(self, index: int) -> Example:
        """Image `index` with its objects.

        Raises:
            DatasetError: As `frame`.
        """
        # First, for it is the frame that proves the annotated size, by which masks are allocated.
        frame = self.frame(index)
        image = self.images[index]
        annotations = self._annotations[image.id]
        objects = [annotation for annotation in annotations if not annotation.iscrowd]
        if index not in self._masks:
            crops = [_crop(_mask(annotation, image)) for annotation in objects]
            if self.files.keep:
                self._masks[index] = crops
        else:
            crops = self._masks[index]
        masks = np.zeros((len(objects), image.height, image.width), np.bool_)
        for mask, (top, left, crop) in zip(masks, crops, strict=True):
            mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        return Example(
            frame,
            corners([one.bbox for one in objects]),
            np.array([self._classes[annotation.category_id] for annotation in objects], np.int64),
            masks,
            corners([one.bbox for one in annotations if one.iscrowd]),
        )


def _area(annotation: CocoAnnotation, image: CocoImage) -> float:
    if annotation.area is not None:
        return annotation.area
    return int(_mask(annotation, image).sum()) if annotation.segmentation else math.prod(annotation.bbox[2:])


def _mask(annotation: CocoAnnotation, image: CocoImage) -> NDArray[np.bool_]:
    if annotation.segmentation:
        return decode_segmentation(annotation.segmentation, (image.height, image.width))
    mask = np.zeros((image.height, image.width), np.bool_)
    x, y, width, height = annotation.bbox
    left, top = max(0, math.floor(x)), max(0, math.floor(y))
    mask[top : max(top, math.ceil(y + height)), left : max(left, math.ceil(x + width))] = True
    return mask


def _crop(mask: NDArray[np.bool_]) -> tuple[int, int, NDArray[np.bool_]]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0, 0, mask[:0, :0].copy()
    top, left = int(rows[0]), int(columns[0])
    return top, left, mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1].copy()

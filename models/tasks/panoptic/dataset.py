"""COCO panoptic datasets: an image of segment ids beside each picture, and a table of the segments."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgewise.models.data.annotated_images import AnnotatedImages
from edgewise.models.data.augment import Augmentation, augment, tight_box
from edgewise.models.data.coco_file import (
    CocoCategory,
    CocoImage,
    annotation_file,
    classes_of,
    image_folder,
    read_annotated,
    read_file,
    refuse_faults,
    refuse_lists,
    refuse_missing,
)
from edgewise.models.data.example import Example, Image
from edgewise.models.data.images import ImageFiles
from edgewise.models.data.network_input import instance_targets, semantic_targets
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.tasks.panoptic.targets import PanopticTargets
from edgewise.runtime.contract.manifest import ClassKind, ClassLabel
from edgewise.runtime.contract.parts import Id
from edgewise.runtime.contract.preprocessing import Preprocess
from edgewise.runtime.frames.coco import Flag
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.kinds.panoptic.result import Panoptic
from edgewise.runtime.system.errors import DatasetError

VOID = -1
"""Semantic index of pixels that belong to no segment, or to a crowd."""
_HINT = "give a COCO panoptic json with its folder of segment images beside it (panoptic.json, panoptic/)"


class CocoSegment(msgspec.Struct, frozen=True):
    id: Id
    category_id: Id
    iscrowd: Flag = 0


class CocoPanopticAnnotation(msgspec.Struct, frozen=True):
    """The segments of one picture; `file_name` is the PNG in which a pixel is R + 256 G + 65536 B = id."""

    image_id: Id
    file_name: str
    segments_info: list[CocoSegment]


class _File(msgspec.Struct, frozen=True):
    images: list[CocoImage]
    annotations: list[CocoPanopticAnnotation]
    categories: list[CocoCategory]


@dataclass(frozen=True)
class Segments:
    """The true segments of one picture.

    Attributes:
        places: uint8 or uint16 [h, w], 0 where nothing is known, i + 1 for segment i.
        classes: int64 [n], index into the vocabulary's classes.
        crowd: bool [n], a group of things that are not told apart.
    """

    places: NDArray[np.unsignedinteger]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]


@dataclass
class CocoPanoptic(AnnotatedImages):
    """A COCO panoptic dataset.

    Attributes:
        json: The annotation file.
        files: The pictures, in the file's order.
        segment_folder: Where the segment images lie.
        vocabulary: Things by rising id, then stuff by rising id.
    """

    file_name: ClassVar[str] = "panoptic.json"

    segment_folder: Path
    _annotations: tuple[CocoPanopticAnnotation, ...]
    _classes: dict[int, int]
    _kept: dict[int, Segments] = field(default_factory=dict)

    @classmethod
    def open(cls, data: Path, images: Path | None = None, *, keep: bool = False) -> CocoPanoptic:
        """Read and check the annotations.

        Args:
            data: A COCO panoptic file, or a folder that holds `panoptic.json`, `panoptic/` and `images/`. The
                segment images lie in the folder beside the file that has its name without `.json`.
            images: The folder of the pictures; by default `images/` beside the annotation file, or its own.
            keep: Keep decoded pictures and segments in memory, for training over many epochs.

        Raises:
            DatasetError: No such file, not COCO, a picture with no annotation or two, an unknown image or
                category, a segment id twice, no pictures, or a file that is missing.
        """
        json = annotation_file(data, cls.file_name)
        file = read_file(json, _File, "panoptic", _HINT)
        refuse_lists(file.images, file.categories, json)
        used = {one.category_id for picture in file.annotations for one in picture.segments_info}
        labels = _labels(classes_of(file.categories, used))
        classes = {label.id: index for index, label in enumerate(labels)}
        annotations = _by_image(file, classes, json)
        folder, segment_folder = image_folder(json, images), json.with_suffix("")
        refuse_missing([image.file_name for image in file.images], folder)
        refuse_missing([annotation.file_name for annotation in annotations], segment_folder)
        return cls(
            json,
            ImageFiles(folder, tuple(file.images), keep),
            Vocabulary(labels),
            segment_folder,
            annotations,
            classes,
        )

    @property
    def object_count(self) -> int:
        """How many segments are annotated, crowds left out."""
        return sum(not one.iscrowd for picture in self._annotations for one in picture.segments_info)

    def segments(self, index: int) -> Segments:
        """The true segments of picture `index`.

        Raises:
            DatasetError: The segment image cannot be decoded, has another size than the picture, or holds
                other ids than the annotation lists.
        """
        if index in self._kept:
            return self._kept[index]
        annotation = self._annotations[index]
        path = self.segment_folder / annotation.file_name
        coded = read_annotated(path, self.images[index])
        ids = coded[..., 2] + (coded[..., 1].astype(np.uint32) << 8) + (coded[..., 0].astype(np.uint32) << 16)
        segments = annotation.segments_info
        listed = np.array([0, *(one.id for one in segments)], np.uint32)
        order = np.argsort(listed, kind="stable")
        rank = np.minimum(np.searchsorted(listed[order], ids.ravel()), len(listed) - 1)
        places = order[rank]
        problem = ""
        if (strange := ids.ravel()[listed[places] != ids.ravel()]).size:
            problem = f"the segment image holds the id {strange[0]}, which the annotation does not list"
        elif (empty := np.flatnonzero(np.bincount(places, minlength=len(listed))[1:] == 0)).size:
            problem = f"segment {segments[int(empty[0])].id} has no pixel in the segment image"
        if problem:
            raise DatasetError(
                problem, where=str(path), hint="use the segment images that belong to the annotation file"
            )
        width = np.uint8 if len(listed) <= 256 else np.uint16
        found = Segments(
            places.astype(width).reshape(ids.shape),
            np.array([self._classes[one.category_id] for one in segments], np.int64),
            np.array([one.iscrowd for one in segments], np.bool_),
        )
        if self.files.keep:
            self._kept[index] = found
        return found

    def truth(self, index: int) -> Panoptic:
        """The true segments of picture `index` as a result; crowds are void."""
        found = self.segments(index)
        numbers = np.concatenate([[0], np.where(found.crowd, 0, np.arange(1, len(found.classes) + 1))])
        return Panoptic.of_segments(
            numbers.astype(np.uint16)[found.places],
            classes=found.classes,
            scores=np.ones(len(found.classes)),
            labels=self.vocabulary.classes,
        )

    def example(self, index: int) -> Example:
        """Picture `index` with its things as masks, crowds as regions without a class, and its class map."""
        found = self.segments(index)
        things = found.classes < len(self.vocabulary.things)
        objects, crowds = np.flatnonzero(things & ~found.crowd), np.flatnonzero(things & found.crowd)
        known = np.array([VOID, *np.where(found.crowd, VOID, found.classes)], np.int16)
        masks = found.places[None] == (objects + 1)[:, None, None]
        return Example(
            self.frame(index),
            np.array([tight_box(mask) for mask in masks], np.float64).reshape(-1, 4),
            found.classes[objects],
            masks,
            np.array([tight_box(found.places == one + 1) for one in crowds], np.float64).reshape(-1, 4),
            known[found.places],
        )

    def training_pair(
        self, rng: np.random.Generator, sample: int, spec: Preprocess, augmentation: Augmentation
    ) -> tuple[Image, PanopticTargets]:
        """Picture `sample`, varied and at network size, with its targets in network pixels."""
        example = augment(rng, self.example(sample), augmentation)
        assert example.semantic is not None
        tensor, geometry = preprocess(spec, example.frame)
        targets = PanopticTargets(
            instance_targets(example, geometry), semantic_targets(example.semantic, geometry)
        )
        return tensor[0], targets


def _labels(categories: list[CocoCategory]) -> tuple[ClassLabel, ...]:
    ordered = sorted(categories, key=lambda category: (not category.isthing, category.id))
    return tuple(
        ClassLabel(
            id=category.id,
            name=category.name,
            kind=ClassKind.THING if category.isthing else ClassKind.STUFF,
        )
        for category in ordered
    )


def _by_image(file: _File, classes: dict[int, int], json: Path) -> tuple[CocoPanopticAnnotation, ...]:
    """The annotation of each image, in the order of the images."""
    wanted = {image.id for image in file.images}
    found: dict[int, CocoPanopticAnnotation] = {}
    faults: list[str] = []
    for annotation in file.annotations:
        ids = [segment.id for segment in annotation.segments_info]
        unknown = [one.category_id for one in annotation.segments_info if one.category_id not in classes]
        problem = ""
        if annotation.image_id not in wanted:
            problem = "is of an image that the file does not list"
        elif annotation.image_id in found:
            problem = "is given twice"
        elif unknown:
            problem = f"names category {unknown[0]}, which the file does not list"
        elif len(set(ids)) != len(ids) or not all(0 < one < 1 << 24 for one in ids):
            problem = "has a segment id twice, or one outside 1..16777215"
        if problem:
            faults.append(f"the annotation of image {annotation.image_id} {problem}")
        found[annotation.image_id] = annotation
    refuse_faults(faults, json)
    if missing := sorted(wanted - found.keys()):
        raise DatasetError(
            f"{len(missing)} images have no annotation, image {missing[0]} first",
            where=str(json),
            hint="leave images without segments out of the file",
        )
    return tuple(found[image.id] for image in file.images)

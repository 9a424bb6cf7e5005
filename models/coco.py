"""COCO-format instance datasets: read strictly, decoded lazily, brought to the network as on the device.

Boxes are (x1, y1, x2, y2) in continuous source pixels (pixel column j covers [j, j + 1)), which is COCO's
(x, y, width, height) with the width and height added.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import msgspec
import numpy as np
import torch
from faster_coco_eval import mask as coco_mask
from numpy.typing import NDArray

from edgewise.models.instance_targets import InstanceTargets
from edgewise.runtime.errors import DatasetError, ResultError
from edgewise.runtime.geometry import Geometry
from edgewise.runtime.manifest import ClassLabel, Preprocess
from edgewise.runtime.preprocess import preprocess
from edgewise.runtime.rle import rle_counts

Image = NDArray[np.uint8]
INSTANCES_FILE, IMAGE_FOLDER = "instances.json", "images"
SMALLEST_SIDE = 4 / 550
"""Objects thinner than this part of the network input are left out of training, as in the paper's code."""
_CACHE_LIMIT = 3 << 30


class CocoRle(msgspec.Struct, frozen=True):
    """Run lengths in column-major order: numbers, or COCO's compressed text."""

    size: tuple[int, int]
    counts: str | list[int]


class CocoAnnotation(msgspec.Struct, frozen=True):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    segmentation: list[list[float]] | CocoRle
    iscrowd: int = 0


class CocoImage(msgspec.Struct, frozen=True):
    id: int
    file_name: str
    height: int
    width: int


class CocoCategory(msgspec.Struct, frozen=True):
    id: int
    name: str


class _File(msgspec.Struct, frozen=True):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


@dataclass(frozen=True)
class Example:
    """One image with its ground truth in its own pixels.

    Attributes:
        frame: uint8 [h, w, 3] BGR.
        boxes: float64 [n, 4], x1 y1 x2 y2.
        classes: int64 [n], index into the dataset's labels.
        masks: bool [n, h, w].
        crowd_boxes: float64 [c, 4], regions to be left out of the loss.
    """

    frame: Image
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    masks: NDArray[np.bool_]
    crowd_boxes: NDArray[np.float64]


@dataclass
class CocoInstances:
    """A COCO instance dataset; `example(i)` decodes image i when it is asked for.

    Attributes:
        json: The annotation file.
        folder: Where the images lie.
        labels: One a category, by rising id; the position is the class index.
        images: In the file's order.
    """

    json: Path
    folder: Path
    labels: tuple[ClassLabel, ...]
    images: tuple[CocoImage, ...]
    _annotations: dict[int, list[CocoAnnotation]]
    _classes: dict[int, int]
    _keep: bool = False
    _frames: dict[int, Image] = field(default_factory=dict)
    _masks: dict[int, list[tuple[int, int, NDArray[np.bool_]]]] = field(default_factory=dict)
    _kept_bytes: int = 0

    @classmethod
    def open(cls, data: Path, images: Path | None = None, *, keep: bool = False) -> CocoInstances:
        """Read and check the annotations.

        Args:
            data: A COCO annotation file, or a folder that holds `instances.json` and `images/`.
            images: The image folder; by default `images/` beside the annotation file, or its own folder.
            keep: Keep decoded images and masks in memory (up to 3 GiB), for training over many epochs.

        Raises:
            DatasetError: No such file, not COCO, an annotation that names an unknown image or category or has
                an impossible box, no images, or an image file that is missing.
        """
        json = data / INSTANCES_FILE if data.is_dir() else data
        file = _read(json)
        beside = json.parent / IMAGE_FOLDER
        folder = images or (beside if beside.is_dir() else json.parent)
        if not file.images:
            raise DatasetError("the dataset lists no images", where=str(json), hint="check the export")
        if not file.categories:
            raise DatasetError("the dataset lists no categories", where=str(json), hint="check the export")
        categories = sorted(file.categories, key=lambda category: category.id)
        classes = {category.id: index for index, category in enumerate(categories)}
        annotations: dict[int, list[CocoAnnotation]] = {image.id: [] for image in file.images}
        for annotation in file.annotations:
            _check(annotation, annotations, classes, json)
            annotations[annotation.image_id].append(annotation)
        _refuse_missing(file.images, folder)
        labels = tuple(ClassLabel(id=category.id, name=category.name) for category in categories)
        return cls(json, folder, labels, tuple(file.images), annotations, classes, keep)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def object_count(self) -> int:
        """How many objects are annotated, crowd regions left out."""
        return sum(not one.iscrowd for objects in self._annotations.values() for one in objects)

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return self.folder / self.images[index].file_name

    def frame(self, index: int) -> Image:
        """Image `index`, uint8 [h, w, 3] BGR.

        Raises:
            DatasetError: It cannot be decoded, or its size is not the annotated one.
        """
        if index in self._frames:
            return self._frames[index]
        image, path = self.images[index], self.path(index)
        frame = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if frame is None:
            raise DatasetError("the image cannot be decoded", where=str(path), hint="fetch the file again")
        if frame.shape[:2] != (image.height, image.width):
            raise DatasetError(
                f"the image is {frame.shape[1]}x{frame.shape[0]} pixels, annotated as "
                f"{image.width}x{image.height}",
                where=str(path),
                hint="use the images that the annotations were made for",
            )
        frame = np.asarray(frame, np.uint8)
        if self._keep and self._kept_bytes + frame.nbytes <= _CACHE_LIMIT:
            self._kept_bytes += frame.nbytes
            self._frames[index] = frame
        return frame

    def example(self, index: int) -> Example:
        """Image `index` with its objects.

        Raises:
            DatasetError: As `frame`, or a segmentation that cannot be decoded.
        """
        image = self.images[index]
        annotations = self._annotations[image.id]
        objects = [annotation for annotation in annotations if not annotation.iscrowd]
        if index not in self._masks:
            crops = [_crop(self._decode(annotation, image)) for annotation in objects]
            if self._keep:
                self._masks[index] = crops
        else:
            crops = self._masks[index]
        masks = np.zeros((len(objects), image.height, image.width), np.bool_)
        for mask, (top, left, crop) in zip(masks, crops, strict=True):
            mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        return Example(
            self.frame(index),
            _corners(objects),
            np.array([self._classes[annotation.category_id] for annotation in objects], np.int64),
            masks,
            _corners([annotation for annotation in annotations if annotation.iscrowd]),
        )

    def _decode(self, annotation: CocoAnnotation, image: CocoImage) -> NDArray[np.bool_]:
        try:
            return decode_segmentation(annotation.segmentation, (image.height, image.width))
        except ValueError as error:
            raise DatasetError(
                f"the segmentation of annotation {annotation.id} is broken: {error}",
                where=str(self.json),
                hint="correct or remove the annotation",
            ) from None


def decode_segmentation(
    segmentation: list[list[float]] | CocoRle, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """A COCO segmentation as bool [h, w].

    Polygons are filled by COCO's own rule (five-fold oversampled outlines).

    Raises:
        ValueError: Run lengths that do not fill the image, a size that is not the image's, or a polygon with
            fewer than three corners or an odd number of coordinates.
    """
    height, width = size
    if isinstance(segmentation, CocoRle):
        if tuple(segmentation.size) != size:
            raise ValueError(f"it is made for {list(segmentation.size)}, the image is {list(size)}")
        counts = segmentation.counts
        try:
            runs = rle_counts(counts) if isinstance(counts, str) else np.array(counts, np.int64)
        except ResultError as error:
            raise ValueError(error.what) from None
        if (runs < 0).any() or runs.sum() != height * width:
            raise ValueError(f"its runs cover {int(runs.sum())} of {height * width} pixels")
        values = np.arange(len(runs)) % 2 == 1
        return np.repeat(values, runs).reshape(width, height).T
    if not segmentation:
        raise ValueError("it has neither polygons nor runs")
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise ValueError(f"a polygon has {len(polygon)} coordinates")
    merged = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return np.asarray(coco_mask.decode(merged), np.bool_)


def to_network(example: Example, spec: Preprocess) -> tuple[Image, InstanceTargets]:
    """Bring an example to the network's input through the runtime's preprocessing.

    Returns:
        uint8 [h, w, 3] and the targets in network pixels. Objects that are thinner than `SMALLEST_SIDE` of
        the input, or lose all their mask, are left out.
    """
    tensor, geometry = preprocess(spec, example.frame)
    height, width = geometry.network_size
    boxes = _map_boxes(geometry, example.boxes)
    masks = [_map_mask(geometry, mask) for mask in example.masks]
    sides = (boxes[:, 2:] - boxes[:, :2]) / (width, height)
    kept = [index for index, mask in enumerate(masks) if sides[index].min() >= SMALLEST_SIDE and mask.any()]
    stacked = np.stack([masks[index] for index in kept]) if kept else np.zeros((0, height, width), np.bool_)
    targets = InstanceTargets(
        torch.from_numpy(boxes[kept].astype(np.float32)),
        torch.from_numpy(example.classes[kept]),
        torch.from_numpy(stacked),
        torch.from_numpy(_map_boxes(geometry, example.crowd_boxes).astype(np.float32)),
    )
    return tensor[0], targets


def _map_boxes(geometry: Geometry, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width = geometry.network_size
    corners = geometry.to_network(boxes.reshape(-1, 2, 2)).reshape(-1, 4)
    return np.clip(corners, 0, (width, height, width, height))


def _map_mask(geometry: Geometry, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # cv2.warpAffine counts from the centre of the first pixel.
    centred = geometry.matrix.copy()
    centred[:, 2] += 0.5 * centred[:, :2].sum(axis=1) - 0.5
    height, width = geometry.network_size
    warped = cv2.warpAffine(mask.view(np.uint8) * np.uint8(255), centred, (width, height))
    return np.asarray(warped >= 128, np.bool_)


def _read(json: Path) -> _File:
    hint = "give a COCO annotation file, or a folder with instances.json and images/"
    try:
        data = json.read_bytes()
    except OSError:
        raise DatasetError("no such annotation file", where=str(json), hint=hint) from None
    try:
        return msgspec.json.decode(data, type=_File)
    except msgspec.MsgspecError as error:
        raise DatasetError(f"not a COCO instance dataset: {error}", where=str(json), hint=hint) from None


def _check(
    annotation: CocoAnnotation, images: dict[int, list[CocoAnnotation]], classes: dict[int, int], json: Path
) -> None:
    left, top, width, height = annotation.bbox
    problem = ""
    if annotation.image_id not in images:
        problem = f"names image {annotation.image_id}, which the file does not list"
    elif annotation.category_id not in classes:
        problem = f"names category {annotation.category_id}, which the file does not list"
    elif not (np.isfinite(left + top + width + height) and width >= 0 and height >= 0):
        problem = f"has the impossible box {list(annotation.bbox)}"
    if problem:
        raise DatasetError(
            f"annotation {annotation.id} {problem}", where=str(json), hint="correct or remove the annotation"
        )


def _refuse_missing(images: list[CocoImage], folder: Path) -> None:
    present: dict[str, set[str]] = {}
    for image in images:
        parent, name = os.path.split(image.file_name)
        if parent not in present:
            place = folder / parent
            present[parent] = set(os.listdir(place)) if place.is_dir() else set()
        if name not in present[parent]:
            raise DatasetError(
                "an annotated image is missing",
                where=str(folder / image.file_name),
                hint="give the folder of the images, or fetch them again",
            )


def _corners(annotations: list[CocoAnnotation]) -> NDArray[np.float64]:
    boxes = np.array([annotation.bbox for annotation in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _crop(mask: NDArray[np.bool_]) -> tuple[int, int, NDArray[np.bool_]]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0, 0, mask[:0, :0].copy()
    top, left = int(rows[0]), int(columns[0])
    return top, left, mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1].copy()

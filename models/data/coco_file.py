"""COCO annotation files: read strictly, so that a broken one is a clear error before anything is decoded."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import msgspec
import numpy as np
from faster_coco_eval import mask as coco_mask
from numpy.typing import NDArray

from edgewise.models.data.example import Image
from edgewise.runtime.pixels.rle import fill_runs, runs_of
from edgewise.runtime.system.documents import decode_json
from edgewise.runtime.system.errors import DatasetError, ResultError

IMAGE_FOLDER = "images"
File = TypeVar("File")


class CocoRle(msgspec.Struct, frozen=True):
    """Run lengths in column-major order: numbers, or COCO's compressed text."""

    size: tuple[int, int]
    counts: str | list[int]


class CocoImage(msgspec.Struct, frozen=True):
    id: int
    file_name: str
    height: int
    width: int


class CocoCategory(msgspec.Struct, frozen=True):
    """A class; `isthing` is written by panoptic files, names and limbs of keypoints by keypoint files."""

    id: int
    name: str
    isthing: int = 1
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()


class CocoAnnotation(msgspec.Struct, frozen=True):
    """An object of an instance file."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    segmentation: list[list[float]] | CocoRle
    iscrowd: int = 0


def read_file(json: Path, form: type[File], kind: str, hint: str) -> File:
    """Decode an annotation file.

    Args:
        json: The file.
        form: The struct that it must be.
        kind: What it should have been, for the error.
        hint: What to give instead, for the error.

    Raises:
        DatasetError: No such file, or not of that form.
    """
    try:
        data = json.read_bytes()
    except OSError:
        raise DatasetError("no such annotation file", where=str(json), hint=hint) from None
    return decode_json(
        data,
        form,
        lambda reason: DatasetError(f"not a COCO {kind} dataset: {reason}", where=str(json), hint=hint),
    )


def annotation_file(data: Path, name: str) -> Path:
    """The annotation file that a path means: itself, or the file `name` in a folder."""
    return data / name if data.is_dir() else data


def image_folder(json: Path, images: Path | None) -> Path:
    """Where the images lie: as told, or `images/` beside the annotation file, or its own folder."""
    beside = json.parent / IMAGE_FOLDER
    return images or (beside if beside.is_dir() else json.parent)


def refuse_empty(images: Sequence[CocoImage], categories: Sequence[CocoCategory], json: Path) -> None:
    """Raise DatasetError where a file lists no images or no categories."""
    for name, listed in (("images", images), ("categories", categories)):
        if not listed:
            raise DatasetError(f"the dataset lists no {name}", where=str(json), hint="check the export")


def refuse_unknown(
    annotation: int, image: int, category: int, images: Container[int], categories: Container[int], json: Path
) -> None:
    """Raise DatasetError where an annotation names an image or category that the file does not list."""
    if image not in images:
        raise _broken(annotation, f"names image {image}, which the file does not list", json)
    if category not in categories:
        raise _broken(annotation, f"names category {category}, which the file does not list", json)


def refuse_impossible_box(annotation: int, bbox: tuple[float, float, float, float], json: Path) -> None:
    """Raise DatasetError where a box x y w h is not finite or has a negative side."""
    left, top, width, height = bbox
    if not (np.isfinite(left + top + width + height) and width >= 0 and height >= 0):
        raise _broken(annotation, f"has the impossible box {list(bbox)}", json)


def refuse_missing(names: Sequence[str], folder: Path) -> None:
    """Raise DatasetError where one of the files is not in the folder; each folder is listed once."""
    present: dict[str, set[str]] = {}
    for file_name in names:
        parent, name = os.path.split(file_name)
        if parent not in present:
            place = folder / parent
            present[parent] = set(os.listdir(place)) if place.is_dir() else set()
        if name not in present[parent]:
            raise DatasetError(
                "an annotated image is missing",
                where=str(folder / file_name),
                hint="give the folder of the images, or fetch them again",
            )


def read_image(path: Path, image: CocoImage) -> Image:
    """An image file of the annotated size, uint8 [h, w, 3] BGR.

    Raises:
        DatasetError: It cannot be decoded, or its size is not the annotated one.
    """
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
    return np.asarray(frame, np.uint8)


def corners(boxes: Sequence[tuple[float, float, float, float]]) -> NDArray[np.float64]:
    """float64 [n, 4] x1 y1 x2 y2 of COCO's x y w h."""
    found = np.array(boxes, np.float64).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    return found


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
        try:
            return fill_runs(runs_of(segmentation.counts, size), size)
        except ResultError as error:
            raise ValueError(error.what) from None
    if not segmentation:
        raise ValueError("it has neither polygons nor runs")
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise ValueError(f"a polygon has {len(polygon)} coordinates")
    merged = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return np.asarray(coco_mask.decode(merged), np.bool_)


def _broken(annotation: int, problem: str, json: Path) -> DatasetError:
    return DatasetError(
        f"annotation {annotation} {problem}", where=str(json), hint="correct or remove the annotation"
    )

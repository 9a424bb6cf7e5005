"""COCO annotation files: read strictly, so that a broken one is a clear error before anything is decoded.

What is wrong with single annotations is found for all of them at once, each with its id.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgewise.models.data.example import Image
from edgewise.models.data.segmentation import Segmentation, segmentation_fault
from edgewise.runtime.contract.parts import Id
from edgewise.runtime.frames.coco import CategoryEntry, Flag, ImageEntry, doubled, read_coco
from edgewise.runtime.frames.images import read_image
from edgewise.runtime.system.errors import DatasetError, SourceError

IMAGE_FOLDER = "images"
MOST_SHOWN = 20
"""Faults that an error describes; of the others it gives the number."""
FARTHEST = 1e6
"""Pixels that a box may lie from an image's corner."""
File = TypeVar("File")
Side = Annotated[int, Meta(ge=1, le=1 << 20)]
Box = tuple[float, float, float, float]
"""x, y, width, height."""


class CocoImage(ImageEntry, frozen=True):
    height: Side
    width: Side


class CocoCategory(CategoryEntry, frozen=True):
    """A class; `isthing` is written by panoptic files, names and limbs of keypoints by keypoint files."""

    isthing: Flag = 1
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[Id, Id], ...] = ()


class CocoAnnotation(msgspec.Struct, frozen=True):
    """An object of an instance file."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: Box
    segmentation: Segmentation | None = None
    area: float | None = None
    iscrowd: Flag = 0


class ObjectAnnotation(Protocol):
    """What annotations of objects share."""

    @property
    def id(self) -> int: ...
    @property
    def image_id(self) -> int: ...
    @property
    def category_id(self) -> int: ...
    @property
    def bbox(self) -> Box: ...
    @property
    def area(self) -> float | None: ...


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
    return read_coco(
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


def refuse_lists(images: Sequence[CocoImage], categories: Sequence[CocoCategory], json: Path) -> None:
    """Raise DatasetError where a file lists no images or no categories, or two of one id."""
    listed: dict[str, Sequence[ImageEntry | CategoryEntry]] = {"images": images, "categories": categories}
    for name, entries in listed.items():
        if not entries:
            raise DatasetError(f"the dataset lists no {name}", where=str(json), hint="check the export")
        if twice := doubled(entry.id for entry in entries):
            raise DatasetError(
                f"several {name} have the same id: {_listing(twice)}",
                where=str(json),
                hint="number them anew, with their annotations; files that were joined need this",
            )


def classes_of(categories: Sequence[CocoCategory], used: Container[int]) -> list[CocoCategory]:
    """The categories that are classes, by rising id.

    A heading is none: a category that no annotation names and that another one names as its supercategory, as
    Roboflow writes the project's name.

    Args:
        categories: All of the file.
        used: Ids that annotations name.
    """
    headings = {(one.supercategory, one.id) for one in categories}
    return sorted(
        (
            one
            for one in categories
            if one.id in used or not any(name == one.name and of != one.id for name, of in headings)
        ),
        key=lambda category: category.id,
    )


Annotation = TypeVar("Annotation", bound="ObjectAnnotation")


def by_image(images: Iterable[CocoImage], annotations: Iterable[Annotation]) -> dict[int, list[Annotation]]:
    """The annotations of every image by its id, in the file's order; none of an image is an empty list."""
    grouped: dict[int, list[Annotation]] = {image.id: [] for image in images}
    for one in annotations:
        grouped[one.image_id].append(one)
    return grouped


def object_faults(
    annotations: Sequence[ObjectAnnotation], images: Container[int], categories: Container[int]
) -> Iterator[str]:
    """What is wrong with annotations of objects, whatever else they hold: ids, boxes and areas."""
    for number in doubled(one.id for one in annotations):
        yield f"annotation {number} is there more than once"
    for one in annotations:
        if one.image_id not in images:
            yield f"annotation {one.id} names image {one.image_id}, which the file does not list"
        elif one.category_id not in categories:
            yield f"annotation {one.id} names category {one.category_id}, which the file does not list"
        elif not all(abs(side) <= FARTHEST for side in one.bbox) or min(one.bbox[2:]) < 0:
            yield f"annotation {one.id} has the impossible box {list(one.bbox)}"
        elif one.area is not None and not 0 <= one.area <= FARTHEST**2:
            yield f"annotation {one.id} has the impossible area {one.area}"


def segmentation_faults(
    annotations: Iterable[CocoAnnotation], images: Mapping[int, CocoImage]
) -> Iterator[str]:
    """What is wrong with the segmentations of annotations whose images are listed."""
    for one in annotations:
        image = images.get(one.image_id)
        fault = image and segmentation_fault(one.segmentation, (image.height, image.width))
        if fault:
            yield f"the segmentation of annotation {one.id} is broken: {fault}"


def refuse_faults(faults: Iterable[str], json: Path) -> None:
    """Raise one DatasetError that names everything that was found in a file."""
    found = list(faults)
    if not found:
        return
    what = found[0]
    if len(found) > 1:
        rest = [f"and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
        what = "\n    ".join([f"{len(found)} faults in the annotations:", *found[:MOST_SHOWN], *rest])
    raise DatasetError(what, where=str(json), hint="correct or remove the annotation")


def refuse_missing(names: Sequence[str], folder: Path) -> None:
    """Raise DatasetError where one of the files is not in the folder; each folder is listed once."""
    present: dict[str, set[str]] = {}
    for file_name in names:
        parent, name = os.path.split(file_name)
        if parent not in present:
            present[parent] = _names_in(folder / parent)
        if name not in present[parent]:
            raise DatasetError(
                "an annotated image is missing",
                where=str(folder / file_name),
                hint="give the folder of the images, or fetch them again",
            )


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (OSError, ValueError):
        return set()


def read_annotated(path: Path, image: CocoImage) -> Image:
    """An image file of the annotated size, uint8 [h, w, 3] BGR, as `runtime/frames/images.py` reads it.

    Raises:
        DatasetError: It cannot be read, or its size is not the annotated one.
    """
    try:
        frame = read_image(path)
    except SourceError as error:
        raise DatasetError(
            f"an annotated image cannot be used: {error.what}", where=str(path), hint=error.hint
        ) from None
    height, width = frame.shape[:2]
    if (height, width) == (image.height, image.width):
        return frame
    turned = (width, height) == (image.height, image.width)
    raise DatasetError(
        f"the image is {width}x{height} pixels, annotated as {image.width}x{image.height}",
        where=str(path),
        hint="the file may say that it is shown turned (EXIF orientation), which every reader here follows: "
        "annotate the picture as it is shown, or save it without the orientation"
        if turned
        else "use the images that the annotations were made for",
    )


def corners(boxes: Sequence[Box]) -> NDArray[np.float64]:
    """float64 [n, 4] x1 y1 x2 y2 of COCO's x y w h."""
    found = np.array(boxes, np.float64).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    return found


def _listing(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:MOST_SHOWN]))
    return shown + (f" and {len(ids) - MOST_SHOWN} more" if len(ids) > MOST_SHOWN else "")

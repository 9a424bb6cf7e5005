"""Reading COCO result records of one image, for the kinds that write their results so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.contract.parts import Coordinate, Id
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.pixels.masks import BoolArray, IntArray, MaskCrops, crop_dense
from edgewise.runtime.pixels.rle import decode_rle
from edgewise.runtime.results.result import Record
from edgewise.runtime.system.errors import ResultError


@dataclass(frozen=True, eq=False)
class RecordedThings:
    """What every COCO result record holds.

    Attributes:
        boxes: float32 [n, 4], xyxy in continuous source pixels.
        scores: float32 [n].
        classes: int32 [n], index into the labels.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]


def read_records(records: Sequence[Record], labels: tuple[ClassLabel, ...]) -> RecordedThings:
    """Box, score and category of each record.

    Raises:
        ResultError: A record lacks one of them, or names a category that no label has.
    """
    index_of = {label.id: index for index, label in enumerate(labels)}
    things = as_records(records, _Thing, "box, score and category")
    if unknown := [one.category_id for one in things if one.category_id not in index_of]:
        raise ResultError(f"not a COCO result record of this model: no class has the id {unknown[0]}")
    boxes = np.array([one.bbox for one in things], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return RecordedThings(
        boxes.astype(np.float32),
        np.array([one.score for one in things], np.float32),
        np.array([index_of[one.category_id] for one in things], np.int32),
    )


def read_masks(records: Sequence[Record], frame_size: Size) -> MaskCrops:
    """The compressed RLE masks, decoded one at a time.

    Raises:
        ResultError: A record has none, or one of another frame size.
    """
    pieces: list[BoolArray] = [np.zeros(0, np.bool_)]
    places: list[IntArray] = [np.zeros((0, 4), np.int64)]
    for record in as_records(records, _Masked, "an RLE mask"):
        size = record.segmentation.size
        if size != tuple(frame_size):
            raise ResultError(f"a mask is of a {size} frame, the image is {tuple(frame_size)}")
        crop = crop_dense(decode_rle(record.segmentation.counts, frame_size)[None])
        pieces.append(crop.data)
        places.append(crop.places)
    return MaskCrops(np.concatenate(pieces), np.concatenate(places), frame_size)


Form = TypeVar("Form", bound=msgspec.Struct)


def as_records(records: Sequence[Record], form: type[Form], wanted: str) -> list[Form]:
    """The records as structs; ResultError names what was wanted where one does not fit."""
    try:
        return msgspec.convert(list(records), list[form])
    except (msgspec.ValidationError, OverflowError) as error:
        raise ResultError(
            f"not a COCO result record with {wanted}: {error}", hint="export the bundle again"
        ) from None


class _Thing(msgspec.Struct):
    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    score: Coordinate
    category_id: Id


class _Rle(msgspec.Struct):
    size: tuple[int, int]
    counts: str


class _Masked(msgspec.Struct):
    segmentation: _Rle

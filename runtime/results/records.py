"""Reading COCO result records of one image, for the kinds that write their results so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassLabel
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
    try:
        boxes = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return RecordedThings(
            boxes.astype(np.float32),
            np.array([record["score"] for record in records], np.float32),
            np.array([index_of[record["category_id"]] for record in records], np.int32),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise not_a_record("box, score and category", error) from None


def read_masks(records: Sequence[Record], frame_size: Size) -> MaskCrops:
    """The compressed RLE masks, decoded one at a time.

    Raises:
        ResultError: A record has none, or one of another frame size.
    """
    pieces: list[BoolArray] = [np.zeros(0, np.bool_)]
    places: list[IntArray] = [np.zeros((0, 4), np.int64)]
    try:
        for record in records:
            size, counts = tuple(record["segmentation"]["size"]), record["segmentation"]["counts"]
            if size != tuple(frame_size):
                raise ResultError(f"a mask is of a {size} frame, the image is {tuple(frame_size)}")
            crop = crop_dense(decode_rle(counts, frame_size)[None])
            pieces.append(crop.data)
            places.append(crop.places)
    except (KeyError, TypeError, ValueError) as error:
        raise not_a_record("an RLE mask", error) from None
    return MaskCrops(np.concatenate(pieces), np.concatenate(places), frame_size)


def not_a_record(wanted: str, error: Exception) -> ResultError:
    """The error of a record without what was wanted."""
    return ResultError(f"not a COCO result record with {wanted}: {error!r}", hint="export the bundle again")

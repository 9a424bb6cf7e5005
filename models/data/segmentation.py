"""COCO's segmentations: polygons, or run lengths as numbers or as compressed text."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from faster_coco_eval import mask as coco_mask
from numpy.typing import NDArray

from edgewise.runtime.pixels.rle import fill_runs, runs_of
from edgewise.runtime.system.errors import ResultError


class CocoRle(msgspec.Struct, frozen=True):
    """Run lengths in column-major order: numbers, or COCO's compressed text."""

    size: tuple[int, int]
    counts: str | list[int]


Segmentation = list[list[float]] | CocoRle


def segmentation_fault(segmentation: Segmentation | None, size: tuple[int, int]) -> str:
    """What keeps a segmentation from being a mask of an image of (height, width); empty where nothing does.

    No library that allocates by what a segmentation says may see one that was not asked about here.
    """
    if isinstance(segmentation, CocoRle):
        if tuple(segmentation.size) != size:
            return f"it is made for {list(segmentation.size)}, the image is {list(size)}"
        try:
            runs_of(segmentation.counts, size)
        except ResultError as error:
            return error.what
        return ""
    if not segmentation:
        return "it has neither polygons nor runs"
    side = max(size)
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            return f"a polygon has {len(polygon)} coordinates, not the pairs of three corners or more"
        low, high = min(polygon), max(polygon)
        if not (math.isfinite(low + high) and -side <= low and high <= 2 * side):
            return f"a polygon has a corner far outside the image ({low:g} to {high:g} of {side} pixels)"
    return ""


def decode_segmentation(segmentation: Segmentation | None, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A COCO segmentation as bool [h, w].

    Polygons are filled by COCO's own rule (five-fold oversampled outlines).

    Raises:
        ValueError: It has a fault.
    """
    if fault := segmentation_fault(segmentation, size):
        raise ValueError(fault)
    if isinstance(segmentation, CocoRle):
        return fill_runs(runs_of(segmentation.counts, size), size)
    height, width = size
    merged = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return np.asarray(coco_mask.decode(merged), np.bool_)

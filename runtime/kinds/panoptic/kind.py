"""The rows of panoptic segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgewise.runtime.contract.manifest import ClassKind, Manifest
from edgewise.runtime.contract.postprocessing import PanopticFusion, PanopticSegments
from edgewise.runtime.kinds.panoptic.fusion import decode_fusion
from edgewise.runtime.kinds.panoptic.result import Panoptic
from edgewise.runtime.kinds.panoptic.segments import decode_segments
from edgewise.runtime.kinds.panoptic.sink import PANOPTIC_FILES
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.results.kind import Kind, Likeness, Nouns, OutputRoles
from edgewise.runtime.results.outputs import Outputs
from edgewise.runtime.results.records import read_masks, read_records
from edgewise.runtime.results.result import Record
from edgewise.runtime.system.errors import ResultError

UNKNOWN, IMPOSSIBLE = -1, -2
"""In a class map: a pixel that the panoptic head leaves open, and a code that it cannot mean."""

PanopticSpec = PanopticSegments | PanopticFusion


def read_panoptic(
    spec: PanopticSpec, manifest: Manifest, records: Sequence[Record], frame_size: Size
) -> Panoptic:
    """The segments of one image's COCO records.

    Raises:
        ResultError: A record does not fit, or segments overlap.
    """
    found = read_records(records, manifest.classes)
    masks = read_masks(records, frame_size)
    segments = np.zeros(frame_size, np.int64)
    for number, (mask, (x, y, w, h)) in enumerate(zip(masks, masks.places.tolist(), strict=True), start=1):
        segments[y : y + h, x : x + w][mask] = number
    if np.count_nonzero(segments) != int(masks.areas().sum()):
        raise ResultError("segments overlap", hint="export the bundle again")
    return Panoptic.of_segments(
        segments, found.classes, found.scores, manifest.classes, spec.display_threshold
    )


def alike(first: Panoptic, second: Panoptic) -> Likeness:
    """Intersection over union of the segments, counted on both maps at once."""
    rows, columns = len(first) + 1, len(second) + 1
    pairs = first.segments.astype(np.int64) * columns + second.segments
    shared = np.bincount(pairs.ravel(), minlength=rows * columns).reshape(rows, columns)[1:, 1:]
    union = first.areas[:, None] + second.areas[None] - shared
    iou = shared / np.maximum(union, 1)
    return Likeness(iou, iou)


def compared_segments(spec: PanopticSegments, manifest: Manifest, outputs: Outputs) -> OutputRoles:
    """A map of slots as a map of their classes: which slot a thing has is a matter of near-equal scores."""
    stuff = [index for index, label in enumerate(manifest.classes) if label.kind is ClassKind.STUFF]
    meaning = np.array([*stuff, *outputs[spec.classes].ravel().tolist(), UNKNOWN], np.int64)
    codes = outputs[spec.segments].astype(np.int64)
    known = (codes >= 0) & (codes < len(meaning))
    classes = np.where(known, meaning[codes.clip(0, len(meaning) - 1)], IMPOSSIBLE)
    maps = {spec.segments: classes, spec.semantic: outputs[spec.semantic].astype(np.int64)}
    return OutputRoles(spec.scores, maps)


def compared_fusion(spec: PanopticFusion, manifest: Manifest, outputs: Outputs) -> OutputRoles:
    """Semantic logits as the channel of the largest."""
    del manifest
    semantic = outputs[spec.semantic]
    logits = np.issubdtype(semantic.dtype, np.floating)
    channels = semantic.argmax(axis=1) if logits else semantic.astype(np.int64)
    return OutputRoles(spec.scores, {spec.semantic: channels})


def extent(found: Panoptic) -> tuple[str, list[str]]:
    """The area of each segment."""
    return "pixels", [str(area) for area in found.areas.tolist()]


_SHARED: dict[str, Any] = {
    "nouns": Nouns("segment", "segments", "segment IoU"),
    "read": read_panoptic,
    "alike": alike,
    "extent": extent,
    "sinks": (PANOPTIC_FILES,),
}

PANOPTIC_SEGMENTS: Kind[PanopticSegments, Panoptic] = Kind(
    spec=PanopticSegments, decode=decode_segments, compared=compared_segments, **_SHARED
)
PANOPTIC_FUSION: Kind[PanopticFusion, Panoptic] = Kind(
    spec=PanopticFusion, decode=decode_fusion, compared=compared_fusion, **_SHARED
)

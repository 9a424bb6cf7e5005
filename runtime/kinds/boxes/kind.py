"""The rows of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import CentredBoxes, DetectedBoxes
from edgewise.runtime.kinds.boxes.centres import decode_centred_boxes
from edgewise.runtime.kinds.boxes.decode import decode_boxes
from edgewise.runtime.kinds.boxes.result import Boxes
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.results.kind import Kind, Likeness, Nouns, OutputRoles
from edgewise.runtime.results.outputs import Outputs
from edgewise.runtime.results.overlap import box_likeness
from edgewise.runtime.results.records import read_records
from edgewise.runtime.results.result import Record


def read_boxes(spec: DetectedBoxes, manifest: Manifest, records: Sequence[Record], frame_size: Size) -> Boxes:
    """The boxes of one image's COCO records."""
    found = read_records(records, manifest.classes)
    return Boxes(
        boxes=found.boxes,
        scores=found.scores,
        classes=found.classes,
        labels=manifest.classes,
        frame_size=frame_size,
        display_threshold=spec.display_threshold,
    )


def alike(first: Boxes, second: Boxes) -> Likeness:
    """Intersection over union of the boxes; a side has at least a pixel."""
    ious = box_likeness(first.boxes.astype(np.float64), second.boxes.astype(np.float64))
    return Likeness(ious, ious)


def compared(spec: DetectedBoxes, manifest: Manifest, outputs: Outputs) -> OutputRoles:
    """Boxes lie in sorted slots."""
    del manifest, outputs
    return OutputRoles(slots=spec.scores)


def extent(found: Boxes) -> tuple[str, list[str]]:
    """The sides of each box."""
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    return "width x height", [f"{width:.0f} x {height:.0f}" for width, height in sides.tolist()]


DETECTED_BOXES: Kind[DetectedBoxes, Boxes] = Kind(
    spec=DetectedBoxes,
    nouns=Nouns("box", "boxes", "box IoU"),
    decode=decode_boxes,
    read=read_boxes,
    alike=alike,
    compared=compared,
    extent=extent,
)

CENTRED_BOXES: Kind[CentredBoxes, Boxes] = Kind(
    spec=CentredBoxes,
    nouns=DETECTED_BOXES.nouns,
    decode=decode_centred_boxes,
    read=read_boxes,
    alike=alike,
    compared=compared,
    extent=extent,
)

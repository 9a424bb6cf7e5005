"""The rows of instances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import PastedInstances, PrototypeInstances
from edgewise.runtime.kinds.instances.decode import decode_instances
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.results.kind import Kind, Likeness, Nouns, OutputRoles
from edgewise.runtime.results.outputs import Outputs
from edgewise.runtime.results.overlap import mask_likeness
from edgewise.runtime.results.records import read_masks, read_records
from edgewise.runtime.results.result import Record

InstancesSpec = PrototypeInstances | PastedInstances


def read_instances(
    spec: InstancesSpec, manifest: Manifest, records: Sequence[Record], frame_size: Size
) -> Instances:
    """The instances of one image's COCO records."""
    found = read_records(records, manifest.classes)
    return Instances(
        boxes=found.boxes,
        scores=found.scores,
        classes=found.classes,
        masks=read_masks(records, frame_size),
        labels=manifest.classes,
        frame_size=frame_size,
        display_threshold=spec.display_threshold,
    )


def alike(first: Instances, second: Instances) -> Likeness:
    """Intersection over union of the masks."""
    boxes = [each.boxes.astype(np.float64) for each in (first, second)]
    return mask_likeness(first.masks, boxes[0], second.masks, boxes[1])


def compared(spec: InstancesSpec, manifest: Manifest, outputs: Outputs) -> OutputRoles:
    """Instances lie in sorted slots."""
    del manifest, outputs
    return OutputRoles(slots=spec.scores)


def extent(found: Instances) -> tuple[str, list[str]]:
    """The area of each mask."""
    return "pixels", [str(area) for area in found.masks.areas().tolist()]


_SHARED: dict[str, Any] = {
    "nouns": Nouns("instance", "instances", "mask IoU"),
    "decode": decode_instances,
    "read": read_instances,
    "alike": alike,
    "compared": compared,
    "extent": extent,
}

PROTOTYPE_INSTANCES: Kind[PrototypeInstances, Instances] = Kind(spec=PrototypeInstances, **_SHARED)
PASTED_INSTANCES: Kind[PastedInstances, Instances] = Kind(spec=PastedInstances, **_SHARED)

"""Slots become boxes (RetinaNet, Faster R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import DetectedBoxes
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.kinds.boxes.result import Boxes
from edgewise.runtime.results.outputs import Outputs, only_look
from edgewise.runtime.results.slots import read_boxed_things


def decode_boxes(spec: DetectedBoxes, manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]) -> Boxes:
    """The boxes of the one look at a whole frame; see `read_boxed_things` for the rule.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite, or there are several looks.
    """
    geometry, only = only_look(looks, outputs)
    found = read_boxed_things(spec, len(manifest.classes), only, geometry)
    return Boxes(
        boxes=found.boxes,
        scores=found.scores,
        classes=found.classes,
        labels=manifest.classes,
        frame_size=geometry.source_size,
        display_threshold=spec.display_threshold,
        settled=found.settled,
    )

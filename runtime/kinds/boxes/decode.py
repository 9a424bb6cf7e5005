"""Slots become boxes (RetinaNet, Faster R-CNN, CenterNet, CornerNet)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import DetectedBoxes
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.kinds.boxes.result import Boxes
from edgewise.runtime.kinds.boxes.soft_suppression import suppress_softly
from edgewise.runtime.results.outputs import Outputs, only_look
from edgewise.runtime.results.slots import read_boxed_things


def decode_boxes(spec: DetectedBoxes, manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]) -> Boxes:
    """The boxes of the one look at a whole frame; see `read_boxed_things` for the rule.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite, or there are several looks.
    """
    geometry, only = only_look(looks, outputs)
    found = read_boxed_things(spec, len(manifest.classes), only, geometry)
    boxes, scores, classes = found.boxes, found.scores, found.classes
    if spec.soft_suppression is not None:
        kept, lowered = suppress_softly(
            boxes.astype(np.float64), scores.astype(np.float64), classes, spec.soft_suppression
        )
        boxes, scores, classes = boxes[kept], lowered.astype(np.float32), classes[kept]
    return Boxes(
        boxes=boxes,
        scores=scores,
        classes=classes,
        labels=manifest.classes,
        frame_size=geometry.source_size,
        display_threshold=spec.display_threshold,
        settled=found.settled,
    )

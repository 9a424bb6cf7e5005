"""Slots become boxes (RetinaNet, Faster R-CNN, CenterNet, CornerNet)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import DetectedBoxes
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.kinds.boxes.result import Boxes
from edgewise.runtime.kinds.boxes.soft_suppression import suppress_softly
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.results.outputs import Outputs, only_look
from edgewise.runtime.results.slots import read_boxed_things


def decode_boxes(spec: DetectedBoxes, manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]) -> Boxes:
    """The boxes of the one look at a whole frame; see `read_boxed_things` for the rule.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite, or there are several looks.
    """
    geometry, only = only_look(looks, outputs)
    found = read_boxed_things(spec, len(manifest.classes), only, geometry)
    size, scores = geometry.source_size, found.scores.astype(np.float64)
    return boxes_of(spec, manifest, size, found.boxes, scores, found.classes, settled=found.settled)


def boxes_of(
    spec: DetectedBoxes,
    manifest: Manifest,
    frame_size: Size,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float64],
    classes: NDArray[np.int32],
    *,
    settled: bool = True,
) -> Boxes:
    """The result, after the soft suppression that `spec` may ask for.

    Args:
        boxes: float32 [n, 4], corner form, frame pixels.
        scores: float64 [n], falling.
        classes: int32 [n].
    """
    if spec.soft_suppression is not None:
        kept, scores = suppress_softly(boxes.astype(np.float64), scores, classes, spec.soft_suppression)
        boxes, classes = boxes[kept], classes[kept]
    return Boxes(
        boxes=boxes,
        scores=scores.astype(np.float32),
        classes=classes,
        labels=manifest.classes,
        frame_size=frame_size,
        display_threshold=spec.display_threshold,
        settled=settled,
    )

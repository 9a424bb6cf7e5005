"""Fixed slots of box, score, class and mask become instances of the frame (YOLACT, Mask R-CNN)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.contract.postprocessing import PastedInstances, PrototypeInstances
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.pixels.geometry import Geometry
from edgewise.runtime.pixels.masks import IntArray, MaskCrops
from edgewise.runtime.pixels.paste import paste_box_masks, paste_prototype_masks
from edgewise.runtime.results.outputs import Outputs, read_output, read_scores, require, require_settled
from edgewise.runtime.system.errors import ResultError


def prototype_instances(
    spec: PrototypeInstances, labels: tuple[ClassLabel, ...], outputs: Outputs, geometry: Geometry
) -> Instances:
    """Slots whose masks cover the whole network input (YOLACT's decoding, after its NMS in the graph).

    Slots with a score above the threshold are kept in descending order of score, equal ones in slot order.
    Boxes go to the frame, their corners are put in order, and both corners are held inside the frame. (The
    paper's code clamps one side of each only and leaves a box outside the picture with a negative extent;
    here a box that has no extent inside the frame is dropped with its mask.)

    Args:
        spec: Output names and thresholds.
        labels: The manifest's classes.
        outputs: boxes float32 [1, K, 4] xyxy in network pixels, scores float32 [1, K], classes int32 or int64
            [1, K], masks float32 [1, K, h, w] probabilities, settled int [1] where `spec` names it.
        geometry: What preprocessing did to the frame.

    Raises:
        ResultError: See `edgewise.runtime.decoding.decode.postprocess`.
    """
    return _instances(
        spec,
        labels,
        outputs,
        geometry,
        lambda masks, _: paste_prototype_masks(masks, geometry, spec.mask_threshold),
    )


def pasted_instances(
    spec: PastedInstances, labels: tuple[ClassLabel, ...], outputs: Outputs, geometry: Geometry
) -> Instances:
    """Slots whose masks fill their boxes (Mask R-CNN); otherwise as `prototype_instances`.

    The mask is sampled in the box before the box is held inside the frame.
    """
    return _instances(
        spec,
        labels,
        outputs,
        geometry,
        lambda masks, boxes: paste_box_masks(masks, boxes, geometry.source_size, spec.mask_threshold),
    )


@dataclass(frozen=True)
class _Slots:
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: IntArray
    masks: NDArray[np.float32]


def _instances(
    spec: PrototypeInstances | PastedInstances,
    labels: tuple[ClassLabel, ...],
    outputs: Outputs,
    geometry: Geometry,
    paste: Callable[[NDArray[np.float32], NDArray[np.float64]], MaskCrops],
) -> Instances:
    slots = _read(spec, outputs, len(labels))
    order = np.argsort(-slots.scores, kind="stable")
    order = order[slots.scores[order] > spec.score_threshold]
    corners = geometry.to_source(slots.boxes[order].reshape(-1, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    height, width = geometry.source_size
    inside = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    seen = (inside[:, 2:] > inside[:, :2]).all(axis=1)
    order = order[seen]
    try:
        masks = paste(_rows(slots.masks, order), boxes[seen])
    except ResultError as error:
        raise ResultError(error.what, where=f"output {spec.masks!r}", hint=error.hint) from None
    return Instances(
        boxes=inside[seen],
        scores=slots.scores[order],
        classes=slots.classes[order].astype(np.int32),
        masks=masks,
        labels=labels,
        frame_size=geometry.source_size,
        display_threshold=spec.display_threshold,
    )


def _rows(masks: NDArray[np.float32], order: IntArray) -> NDArray[np.float32]:
    # Graphs give their slots in descending order, so the leading slots are the usual case; no copy then.
    leading = np.array_equal(order, np.arange(len(order)))
    return masks[: len(order)] if leading else masks[order]


def _read(spec: PrototypeInstances | PastedInstances, outputs: Outputs, classes: int) -> _Slots:
    scores = read_scores(outputs, spec.scores)
    slots = len(scores)
    boxes = read_output(outputs, spec.boxes, (1, slots, 4), np.float32)[0]
    kinds = read_output(outputs, spec.classes, (1, slots), np.int32, np.int64)[0]
    masks = read_output(outputs, spec.masks, (1, slots, None, None), np.float32)[0]
    require_settled(outputs, spec.settled)
    taken = scores > spec.score_threshold
    require(np.isfinite(boxes[taken]).all(), spec.boxes, "holds a coordinate that is not finite")
    known = (kinds[taken] >= 0) & (kinds[taken] < classes)
    require(known.all(), spec.classes, f"holds an index outside the manifest's {classes} classes")
    return _Slots(boxes, scores, kinds.astype(np.int64), masks)

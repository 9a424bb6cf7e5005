"""Fixed slots of box, score and class, with or without a mask, become things of the frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.postprocessing import PASTE_RULES, MaskRule
from edgewise.runtime.pixels.geometry import Geometry
from edgewise.runtime.pixels.masks import IntArray, MaskCrops
from edgewise.runtime.pixels.paste import paste_box_masks, paste_padded_masks, paste_prototype_masks
from edgewise.runtime.results.outputs import Outputs, read_output, read_scores, read_settled, require
from edgewise.runtime.system.errors import ResultError


class BoxedSlots(Protocol):
    """What a kind of postprocessing states about its slots."""

    @property
    def boxes(self) -> str: ...
    @property
    def scores(self) -> str: ...
    @property
    def classes(self) -> str: ...
    @property
    def settled(self) -> str | None: ...
    @property
    def score_threshold(self) -> float: ...


class MaskedSlots(BoxedSlots, Protocol):
    """The same where every slot has a mask."""

    @property
    def masks(self) -> str: ...
    @property
    def mask_threshold(self) -> float: ...
    @property
    def mask_rule(self) -> MaskRule: ...


@dataclass(frozen=True, eq=False)
class BoxedThings:
    """n things of one frame, in descending order of score, equal ones in slot order.

    Attributes:
        boxes: float32 [n, 4], xyxy in continuous frame pixels, inside the frame.
        scores: float32 [n].
        classes: int32 [n], index into the manifest's classes.
        settled: Whether the graph's suppression rounds were enough.
        slots: int64 [n], where each came from.
        reaching: float64 [n, 4], the boxes before they were held inside the frame.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    settled: bool
    slots: IntArray
    reaching: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Things:
    """As `BoxedThings`, with a mask each."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    masks: MaskCrops
    settled: bool


def read_boxed_things(spec: BoxedSlots, classes: int, outputs: Outputs, geometry: Geometry) -> BoxedThings:
    """The slots with a score above the threshold, in the frame.

    Boxes go to the frame, their corners are put in order, and both corners are held inside the frame; a box
    that has no extent inside it is dropped. (YOLACT's code clamps one side of each only and leaves a box
    outside the picture with a negative extent.)

    Args:
        spec: Output names and the threshold.
        classes: How many the manifest has.
        outputs: boxes float32 [1, K, 4] xyxy in network pixels, scores float32 [1, K], classes int32 or int64
            [1, K], settled int [1] where `spec` names it.
        geometry: What preprocessing did to the frame.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite.
    """
    scores = read_scores(outputs, spec.scores)
    boxes = read_output(outputs, spec.boxes, (1, len(scores), 4), np.float32)[0]
    indices = read_output(outputs, spec.classes, (1, len(scores)), np.int32, np.int64)[0]
    settled = read_settled(outputs, spec.settled)
    taken = scores > spec.score_threshold
    require(np.isfinite(boxes[taken]).all(), spec.boxes, "holds a coordinate that is not finite")
    known = (indices[taken] >= 0) & (indices[taken] < classes)
    require(known.all(), spec.classes, f"holds an index outside the manifest's {classes} classes")
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > spec.score_threshold]
    corners = geometry.to_source(boxes[order].reshape(-1, 2, 2))
    reaching = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    height, width = geometry.source_size
    inside = np.clip(reaching, 0, [width, height, width, height]).astype(np.float32)
    seen = (inside[:, 2:] > inside[:, :2]).all(axis=1)
    order = order[seen]
    return BoxedThings(
        inside[seen], scores[order], indices[order].astype(np.int32), settled, order, reaching[seen]
    )


def read_things(spec: MaskedSlots, classes: int, outputs: Outputs, geometry: Geometry) -> Things:
    """`read_boxed_things` with their masks.

    A mask that fills its box (Mask R-CNN) is sampled before the box is held inside the frame; otherwise masks
    cover the whole network input (YOLACT).

    Args:
        spec: Output names, thresholds and the rule of the masks.
        classes: How many the manifest has.
        outputs: Besides those of `read_boxed_things` masks float32 [1, K, h, w], probabilities.
        geometry: What preprocessing did to the frame.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite.
    """
    found = read_boxed_things(spec, classes, outputs, geometry)
    slots = outputs[spec.scores].shape[-1]
    masks = read_output(outputs, spec.masks, (1, slots, None, None), np.float32)[0]
    paste = _paste(spec, geometry)
    try:
        crops = paste(_rows(masks, found.slots), found.reaching)
    except ResultError as error:
        raise ResultError(error.what, where=f"output {spec.masks!r}", hint=error.hint) from None
    return Things(found.boxes, found.scores, found.classes, crops, found.settled)


Paste = Callable[[NDArray[np.float32], NDArray[np.float64]], MaskCrops]


def _paste(spec: MaskedSlots, geometry: Geometry) -> Paste:
    if spec.mask_rule in PASTE_RULES:
        paste = paste_padded_masks if spec.mask_rule is MaskRule.PASTE_PADDED else paste_box_masks
        return lambda masks, boxes: paste(masks, boxes, geometry.source_size, spec.mask_threshold)
    return lambda masks, boxes: paste_prototype_masks(masks, geometry, spec.mask_threshold)


def _rows(masks: NDArray[np.float32], order: IntArray) -> NDArray[np.float32]:
    # Graphs give their slots in descending order, so the leading slots are the usual case; no copy then.
    leading = np.array_equal(order, np.arange(len(order)))
    return masks[: len(order)] if leading else masks[order]

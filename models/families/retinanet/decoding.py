"""From the maps of the two towers to a fixed number of boxes, with no data-dependent shape.

torchvision's order of steps: level by level the pairs of anchor and class whose score passes the threshold,
the best of them decoded and clipped; all levels together suppressed class by class; the best of the rest.

Equal scores: ONNX's TopK takes the lower index first; torch.topk promises no order among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edgewise.models.families.retinanet.config import DecodingConfig
from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.rows import anchor_rows, rows
from edgewise.models.layers.slots import best_survivors, filled


class Detections(NamedTuple):
    """K slots for each of N images, best first; a slot with score 0 is empty and all zero."""

    boxes: Tensor
    """float32 [N, K, 4], corner form, input pixels, inside the canvas."""
    scores: Tensor
    """float32 [N, K]."""
    classes: Tensor
    """int64 [N, K], 0-based."""
    settled: Tensor
    """bool [N]: proven to be the sequential result of all candidates."""


class Candidates(NamedTuple):
    """The best pairs of one level, by falling score."""

    boxes: Tensor
    """float32 [N, k, 4], clipped."""
    scores: Tensor
    """float32 [N, k]; 0 where not above the threshold."""
    classes: Tensor
    """int64 [N, k]."""


def detect(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    extent: tuple[int, int],
    config: DecodingConfig,
) -> Detections:
    """Choose detections.

    Args:
        logits: float32 [N, A * classes, h, w] of each level.
        deltas: float32 [N, 4 A, h, w] of each level.
        anchors: float32 [h * w * A, 4] of each level, corner form.
        extent: (height, width) that boxes are clipped to.
        config: Counts and thresholds.
    """
    levels = [
        _candidates(level, regression, boxes, extent, config)
        for level, regression, boxes in zip(logits, deltas, anchors, strict=True)
    ]
    scores = torch.cat([level.scores for level in levels], dim=1)
    taken = min(config.suppressed, scores.shape[1])
    ranked, place = scores.topk(taken, dim=1)
    boxes = rows(torch.cat([level.boxes for level in levels], dim=1), place)
    classes = rows(torch.cat([level.classes for level in levels], dim=1)[..., None], place)[..., 0]
    found = best_survivors(
        boxes,
        classes,
        ranked,
        config.slots,
        config.iou_threshold,
        config.rounds,
        more=taken < scores.shape[1],
    )
    boxes, classes = rows(boxes, found.places), rows(classes[..., None], found.places)[..., 0]
    best, boxes, classes = filled(found.scores, config.slots, boxes, classes)
    return Detections(boxes, best, classes, found.settled)


def _candidates(
    logits: Tensor, deltas: Tensor, anchors: Tensor, extent: tuple[int, int], config: DecodingConfig
) -> Candidates:
    """The best pairs of anchor and class of a level.

    They come from as many anchors, the best by their best class: a pair of any other anchor scores no more
    than the best pair of each of those. So TopK never runs over anchors times classes.
    """
    cells = logits.shape[2] * logits.shape[3]
    per_cell = deltas.shape[1] // 4
    by_anchor = logits.reshape(logits.shape[0], per_cell, -1, cells)
    class_count = by_anchor.shape[2]
    best = by_anchor.amax(dim=2).flatten(1)
    _, chosen = best.topk(min(config.candidates, best.shape[1]), dim=1)
    pairs = anchor_rows(logits, chosen, class_count).flatten(1)
    ranked, place = pairs.topk(min(config.candidates, pairs.shape[1]), dim=1)
    rank = torch.div(place, class_count, rounding_mode="floor")
    anchor = rows(chosen[..., None], rank)[..., 0]
    # Anchors are stored cell by cell, the maps anchor by anchor.
    of_cell = torch.div(anchor, cells, rounding_mode="floor")
    stored = (anchor - of_cell * cells) * per_cell + of_cell
    own = anchors.index_select(0, stored.flatten()).reshape(*stored.shape, 4)
    coding = BoxCoding()
    boxes = coding.clip(coding.decode(anchor_rows(deltas, anchor, 4), own), extent)
    scores = torch.sigmoid(ranked)
    valid = (scores > config.score_threshold).to(scores.dtype)
    return Candidates(boxes, scores * valid, place - rank * class_count)

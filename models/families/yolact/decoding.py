"""From raw YOLACT predictions to a fixed number of detections, with no data-dependent shape.

What takes no part has score 0, by multiplication: a product of two floats is cheaper on every runtime than a
choice by a broadcast condition.

Equal scores: ONNX's TopK takes the lower index first (the earlier prior; in the final ranking the earlier
class, then the better rank in it); torch.topk promises no order among them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from edgewise.models.families.yolact.config import DecodingConfig, Suppression
from edgewise.models.layers.nms import fast_nms
from edgewise.models.layers.rows import rows
from edgewise.models.layers.slots import best_survivors, filled


class Detections(NamedTuple):
    """K slots for each of N images, best first; a slot with score 0 is empty and all zero."""

    boxes: Tensor
    """float32 [N, K, 4], corner form, in the units of the boxes given."""
    scores: Tensor
    """float32 [N, K]."""
    classes: Tensor
    """int64 [N, K], 0-based."""
    priors: Tensor
    """int64 [N, K]: which prior it came from."""
    settled: Tensor | None
    """bool [N], sequential suppression only: the result is proven to be the sequential one."""


def decode_detections(conf: Tensor, boxes: Tensor, config: DecodingConfig) -> Detections:
    """Choose detections from class logits [N, P, 1 + C] and decoded boxes [N, P, 4], input pixels."""
    scores = torch.softmax(conf, dim=-1)[..., 1:]
    if config.suppression is Suppression.FAST:
        return _fast(scores, boxes, config)
    if config.suppression is Suppression.CROSS_CLASS_FAST:
        return _cross_class(scores, boxes, config)
    return _greedy(scores, boxes, config)


def _fast(scores: Tensor, boxes: Tensor, config: DecodingConfig) -> Detections:
    """Per class: the best `candidates` of the priors whose best class passes the threshold, one round.

    As in the paper's code no second threshold is applied: a prior kept for one class competes in all.
    """
    images, prior_count, class_count = scores.shape
    kept = (scores.amax(dim=-1, keepdim=True) > config.score_threshold).to(scores.dtype)
    candidates = min(config.candidates, prior_count)
    ranked, index = (scores * kept).transpose(1, 2).topk(candidates, dim=-1)
    ranked_boxes = rows(boxes, index.flatten(1)).reshape(images, class_count, candidates, 4)
    survivors = fast_nms(ranked_boxes, config.iou_threshold)
    final = (ranked * survivors.to(ranked.dtype)).flatten(1)
    slots = min(config.slots, final.shape[1])
    best, place = final.topk(slots, dim=-1)
    classes = torch.div(place, candidates, rounding_mode="floor")
    priors = rows(index.flatten(1)[..., None], place)[..., 0]
    return _filled(rows(boxes, priors), best, classes, priors, None, config.slots)


def _cross_class(scores: Tensor, boxes: Tensor, config: DecodingConfig) -> Detections:
    """Each prior with its best class; the best `candidates` of all, one round regardless of class."""
    best_score, best_class = scores.max(dim=-1)
    candidates = min(config.candidates, scores.shape[1])
    kept = (best_score > config.score_threshold).to(best_score.dtype)
    ranked, index = (best_score * kept).topk(candidates, dim=-1)
    survivors = fast_nms(rows(boxes, index), config.iou_threshold)
    alive = ranked * survivors.to(ranked.dtype)
    best, place = alive.topk(min(config.slots, candidates), dim=-1)
    priors = rows(index[..., None], place)[..., 0]
    classes = rows(best_class[..., None], priors)[..., 0]
    return _filled(rows(boxes, priors), best, classes, priors, None, config.slots)


def _greedy(scores: Tensor, boxes: Tensor, config: DecodingConfig) -> Detections:
    """Per class, sequentially, over (prior, class) pairs whose own score passes the threshold.

    The best `greedy_candidates` pairs of all classes enter one matrix. They come from as many best priors:
    a pair of any other prior scores no more than the best pair of each of those. Settled says that the rounds
    reached the fixed point and that pairs left out cannot matter: the last pair taken is below the threshold,
    and so are all behind it, or better survivors fill every slot.
    """
    _, prior_count, class_count = scores.shape
    width = min(config.greedy_candidates, prior_count)
    _, chosen = scores.amax(dim=-1).topk(width, dim=-1)
    pairs = rows(scores, chosen).flatten(1)
    pair_count = min(config.greedy_candidates, pairs.shape[1])
    ranked, place = pairs.topk(pair_count, dim=-1)
    ranked = ranked * (ranked > config.score_threshold).to(ranked.dtype)
    classes = place % class_count
    priors = rows(chosen[..., None], torch.div(place, class_count, rounding_mode="floor"))[..., 0]
    found = best_survivors(
        rows(boxes, priors),
        classes,
        ranked,
        config.slots,
        config.iou_threshold,
        config.greedy_rounds,
        more=pair_count < prior_count * class_count,
        plus_one=config.suppression is Suppression.TRADITIONAL,
    )
    priors, classes = (rows(value[..., None], found.places)[..., 0] for value in (priors, classes))
    return _filled(rows(boxes, priors), found.scores, classes, priors, found.settled, config.slots)


def _filled(
    boxes: Tensor, scores: Tensor, classes: Tensor, priors: Tensor, settled: Tensor | None, slots: int
) -> Detections:
    """Zero the empty slots (score 0) and pad to `slots` where there are fewer candidates."""
    scores, boxes, classes, priors = filled(scores, slots, boxes, classes, priors)
    return Detections(boxes, scores, classes, priors, settled)

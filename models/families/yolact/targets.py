"""Which prior answers for which object: the matching of YOLACT's training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from edgewise.models.families.yolact.config import MatchingConfig
from edgewise.models.layers import boxes as box_ops

NEUTRAL = -1


class Matches(NamedTuple):
    """For each of P priors of one image."""

    classes: Tensor
    """int64 [P]: 0 background, 1 + class, or NEUTRAL."""
    objects: Tensor
    """int64 [P]: index of the ground-truth object; meaningful where `classes` > 0."""
    loc: Tensor
    """float32 [P, 4]: regression targets; meaningful where `classes` > 0."""


def match(
    priors: Tensor, boxes: Tensor, classes: Tensor, crowd_boxes: Tensor, config: MatchingConfig
) -> Matches:
    """Match one image's objects to priors.

    A prior takes the object it overlaps most: positive from `positive_iou`, background below `negative_iou`,
    neutral between. Every object keeps its best prior whatever the IoU; where two want the same one, the
    larger IoU has it and the other takes its next best. A prior that is not positive and lies in a crowd
    region by more than `crowd_coverage` of its area is neutral.

    Args:
        priors: float32 [P, 4], centre form, fractions of the input.
        boxes: float32 [n, 4], corner form, fractions; n may be 0.
        classes: int64 [n], 0-based.
        crowd_boxes: float32 [c, 4], corner form, fractions.
        config: Thresholds.
    """
    count = priors.shape[0]
    corners = box_ops.corners_from_centres(priors)
    if len(boxes):
        ious = box_ops.iou(boxes, corners)
        best, objects = ious.max(dim=0)
        for index, prior in enumerate(_forced_priors(ious)):
            best[prior] = 2.0
            objects[prior] = index
        wanted = classes[objects] + 1
        wanted = torch.where(best < config.positive_iou, NEUTRAL, wanted)
        wanted = torch.where(best < config.negative_iou, 0, wanted)
        loc = box_ops.encode(boxes[objects], priors)
    else:
        objects = torch.zeros(count, dtype=torch.int64, device=priors.device)
        wanted = torch.zeros(count, dtype=torch.int64, device=priors.device)
        loc = torch.zeros_like(priors)
    if len(crowd_boxes):
        crowded = box_ops.coverage(crowd_boxes, corners).amax(dim=0) > config.crowd_coverage
        wanted = torch.where(crowded & (wanted <= 0), NEUTRAL, wanted)
    return Matches(wanted, objects, loc)


def _forced_priors(ious: Tensor) -> list[int]:
    """The prior of each object, given out greedily by falling IoU over the whole [n, P] matrix."""
    objects = ious.shape[0]
    ious = ious.clone()
    best, prior = ious.max(dim=1)
    chosen = [-1] * objects
    for _ in range(objects):
        index = int(best.argmax())
        chosen[index] = taken = int(prior[index])
        best[index] = -1.0
        ious[:, taken] = -1.0
        # Only rows that wanted the prior just given away have to look again.
        for row in torch.nonzero((prior == taken) & (best >= 0)).flatten().tolist():
            best[row], prior[row] = ious[row].max(dim=0)
    return chosen

"""Which boxes answer for which object: foreground from one IoU on, background below another.

Boxes, objects and crowd regions are in corner form and network pixels, in the convention that the `BoxCoding`
names: with `plus_one` their ends are inclusive.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from edgewise.models.layers import boxes as box_ops
from edgewise.models.layers.box_coding import BoxCoding


class Thresholds(Protocol):
    """From which IoU with an object a box is foreground, below which with every one background."""

    @property
    def positive_iou(self) -> float: ...
    @property
    def negative_iou(self) -> float: ...
    @property
    def crowd_coverage(self) -> float:
        """A box that lies in a crowd region by more than this share is not background."""
        ...


class Matches(NamedTuple):
    """For each of P boxes of one image; what is neither positive nor negative takes no part."""

    positive: Tensor
    """bool [P]."""
    negative: Tensor
    """bool [P]."""
    objects: Tensor
    """int64 [P], index of the object it overlaps most; 0 where there is none."""


def match(
    candidates: Tensor,
    objects: Tensor,
    crowd_boxes: Tensor,
    thresholds: Thresholds,
    coding: BoxCoding,
    *,
    keep_best: bool,
) -> Matches:
    """Match the boxes of one image to its objects.

    Args:
        candidates: float32 [P, 4].
        objects: float32 [n, 4]; n may be 0.
        crowd_boxes: float32 [c, 4]; c may be 0.
        thresholds: Of foreground and background.
        coding: The corner convention.
        keep_best: Whether every box that shares an object's largest IoU is foreground too, whatever that is,
            unless it is 0; it still answers for the object that it overlaps most.
    """
    ious = _ious(objects, candidates, coding)
    if len(objects) == 0:
        best, matched = ious.new_zeros(len(candidates)), torch.zeros_like(candidates[:, 0], dtype=torch.int64)
    else:
        best, matched = ious.max(dim=0)
    positive = best >= thresholds.positive_iou
    if keep_best and ious.numel():
        positive = positive | ((ious == ious.amax(dim=1, keepdim=True)) & (ious > 0.0)).any(dim=0)
    crowded = _in_crowd(crowd_boxes, candidates, thresholds.crowd_coverage, coding)
    negative = (best < thresholds.negative_iou) & ~positive & ~crowded
    return Matches(positive, negative, matched)


def _ious(boxes: Tensor, others: Tensor, coding: BoxCoding) -> Tensor:
    """IoU [n, P] in the convention of the coding; 0 where neither has an area."""
    if coding.plus_one:
        boxes, others = box_ops.exclusive(boxes), box_ops.exclusive(others)
    return torch.nan_to_num(box_ops.iou(boxes, others), nan=0.0)


def _in_crowd(crowd_boxes: Tensor, boxes: Tensor, limit: float, coding: BoxCoding) -> Tensor:
    """bool [P]: which boxes lie in a crowd region by more than `limit` of their area."""
    if len(crowd_boxes) == 0:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if coding.plus_one:
        crowd_boxes, boxes = box_ops.exclusive(crowd_boxes), box_ops.exclusive(boxes)
    return box_ops.coverage(crowd_boxes, boxes).amax(dim=0) > limit

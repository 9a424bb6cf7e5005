"""What every anchor of an image is to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.retinanet.config import MatchingConfig
from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.matching import match


class Targets(NamedTuple):
    """Of P anchors of one image, F of them foreground."""

    taking: Tensor
    """int64 [T]: anchors that are foreground or background."""
    foreground: Tensor
    """int64 [F]: anchors that answer for an object."""
    rows: Tensor
    """int64 [F], the row of the object's class among the logits."""
    boxes: Tensor
    """float32 [F, 4], the object's box, corner form, input pixels."""


@torch.no_grad()
def targets_of(
    anchors: Tensor, truth: InstanceTargets, class_rows: Sequence[int], matching: MatchingConfig
) -> Targets:
    """Match anchors [P, 4] to the objects of an image; each object keeps its best anchors."""
    found = match(anchors, truth.boxes, truth.crowd_boxes, matching, BoxCoding(), keep_best=True)
    foreground = torch.nonzero(found.positive).flatten()
    objects = found.objects[foreground]
    rows = torch.tensor(class_rows, device=anchors.device)[truth.classes]
    taking = torch.nonzero(found.positive | found.negative).flatten()
    return Targets(taking, foreground, rows[objects], truth.boxes[objects])

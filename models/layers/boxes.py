"""Box arithmetic on the last axis of tensors.

Corner form is x1, y1, x2, y2 (continuous, pixel-corner convention); centre form is cx, cy, w, h. Both may be
in pixels or in fractions of the image, as long as the operands agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2
"""The scale of box regression targets (SSD, Liu et al., 2016)."""


def corners_from_centres(boxes: Tensor) -> Tensor:
    """Centre form [..., 4] -> corner form [..., 4]."""
    centres, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centres - half, centres + half), dim=-1)


def centres_from_corners(boxes: Tensor) -> Tensor:
    """Corner form [..., 4] -> centre form [..., 4]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    """Corner boxes [..., 4] against centre-form priors [..., 4] -> regression targets [..., 4]."""
    centres, sizes = centres_from_corners(boxes).split(2, dim=-1)
    offsets = (centres - priors[..., :2]) / (CENTRE_VARIANCE * priors[..., 2:])
    return torch.cat((offsets, torch.log(sizes / priors[..., 2:]) / SIZE_VARIANCE), dim=-1)


def decode(loc: Tensor, priors: Tensor) -> Tensor:
    """Regression outputs [..., 4] against centre-form priors [..., 4] -> corner boxes [..., 4]."""
    centres = priors[..., :2] + loc[..., :2] * (CENTRE_VARIANCE * priors[..., 2:])
    half = priors[..., 2:] * (torch.exp(SIZE_VARIANCE * loc[..., 2:]) / 2)
    return torch.cat((centres - half, centres + half), dim=-1)


def exclusive(boxes: Tensor) -> Tensor:
    """Corner boxes [..., 4] with inclusive ends -> the same pixels with continuous ends: x2 and y2 plus 1.

    Areas, overlaps and IoU of the legacy "+1" convention are those of the boxes that come out.
    """
    return torch.cat((boxes[..., :2], boxes[..., 2:] + 1.0), dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Area of corner boxes [..., 4] -> [...]; negative extents count as given."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """Areas of overlap of corner boxes [..., n, 4] and [..., m, 4] -> [..., n, m]."""
    sides = []
    for axis in (0, 1):
        low = torch.maximum(first[..., :, None, axis], second[..., None, :, axis])
        high = torch.minimum(first[..., :, None, axis + 2], second[..., None, :, axis + 2])
        sides.append((high - low).clamp(min=0))
    return sides[0] * sides[1]


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of corner boxes [..., n, 4] and [..., m, 4] -> [..., n, m].

    Two boxes with no area have IoU 0 or NaN as 0/0 comes out.
    """
    inter = intersection(first, second)
    return inter / (area(first)[..., :, None] + area(second)[..., None, :] - inter)


def coverage(regions: Tensor, boxes: Tensor) -> Tensor:
    """The share of each box [m, 4] that lies in each region [n, 4] -> [n, m] (COCO's crowd overlap)."""
    return intersection(regions, boxes) / area(boxes)

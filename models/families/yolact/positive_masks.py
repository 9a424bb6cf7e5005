"""The masks that the positives of an image stand for, beside those of their objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.yolact.network import Predictions
from edgewise.models.families.yolact.targets import Matches


class PositiveMasks(NamedTuple):
    """Of n positives of one image, on its prototypes."""

    logits: Tensor
    """float32 [n, Hp, Wp], assembled, not cropped."""
    truth: Tensor
    """float32 [n, Hp, Wp], 0 and 1."""
    inside: Tensor
    """float32 [n, Hp, Wp], 1 in the true box widened by one pixel."""
    areas: Tensor
    """float32 [n], of the true boxes in prototype pixels, at least 1."""
    classes: Tensor
    """int64 [n], 0-based."""
    stands_for: float
    """How many positives of the image each of these is."""


def positive_masks(
    predictions: Predictions,
    matches: Sequence[Matches],
    targets: Sequence[InstanceTargets],
    scale: Tensor,
    limit: int,
) -> list[PositiveMasks]:
    """One item an image that has positives: at most `limit` of them, drawn at random.

    Args:
        predictions: Of N images.
        matches: N.
        targets: N, in network pixels.
        scale: float32 [4], network pixels of the whole input, as a box has them.
        limit: Of positives.
    """
    found = []
    size = predictions.prototypes.shape[-2:]
    for index, (matched, truth) in enumerate(zip(matches, targets, strict=True)):
        positive = torch.nonzero(matched.classes > 0).flatten()
        count = len(positive)
        if count == 0:
            continue
        if count > limit:
            positive = positive[torch.randperm(count, device=positive.device)[:limit]]
        objects = matched.objects[positive]
        logits = predictions.coefficients[index, positive] @ predictions.prototypes[index].flatten(1)
        inside, areas = crop_windows(truth.boxes[objects] / scale, size)
        found.append(
            PositiveMasks(
                logits.unflatten(1, size),
                resized_masks(truth.masks, size)[objects],
                inside,
                areas,
                truth.classes[objects],
                count / len(positive),
            )
        )
    return found


def crop_windows(corners: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Windows of boxes on a prototype grid, one pixel wider on each side, and the areas of the boxes.

    Args:
        corners: float32 [n, 4], corner form, fractions.
        size: (height, width) of the grid.

    Returns:
        float32 [n, height, width] of 0 and 1; float32 [n] in grid pixels, at least 1.
    """
    height, width = size
    x1, y1, x2, y2 = (corners * corners.new_tensor([width, height, width, height])).unbind(dim=1)
    columns = torch.arange(width, device=corners.device, dtype=corners.dtype)
    rows = torch.arange(height, device=corners.device, dtype=corners.dtype)
    across = (columns >= (x1 - 1)[:, None]) & (columns < (x2 + 1)[:, None])
    down = (rows >= (y1 - 1)[:, None]) & (rows < (y2 + 1)[:, None])
    inside = (down[:, :, None] & across[:, None, :]).to(corners.dtype)
    return inside, ((x2 - x1) * (y2 - y1)).clamp(min=1.0)


def resized_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Binary masks [n, H, W] -> float32 [n, *size] of 0 and 1: bilinear, then above one half."""
    if len(masks) == 0:
        return torch.zeros(0, *size, device=masks.device)
    resized = F.interpolate(masks.float()[:, None], size=tuple(size), mode="bilinear")[:, 0]
    return (resized > 0.5).float()

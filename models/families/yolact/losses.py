"""The four losses of YOLACT's training: boxes, classes, masks, and the semantic side task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.yolact.config import LossConfig, YolactConfig
from edgewise.models.families.yolact.network import Predictions
from edgewise.models.families.yolact.targets import Matches, match


def losses(
    config: YolactConfig, priors: Tensor, predictions: Predictions, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """Weighted scalar terms `box`, `class`, `mask`, `semantic`; their sum is what training descends.

    The first three are sums over matched priors divided by the number of positives of the whole batch; images
    with no object add nothing to them and only background to the semantic term.

    Args:
        config: Sizes, thresholds and weights.
        priors: float32 [P, 4], centre form, fractions of the input.
        predictions: Of N images, in training mode.
        targets: One for each image, in network pixels.
    """
    height, width = config.input_size
    scale = priors.new_tensor([width, height, width, height])
    matches = [
        match(priors, item.boxes / scale, item.classes, item.crowd_boxes / scale, config.matching)
        for item in targets
    ]
    wanted = torch.stack([item.classes for item in matches])
    loc = torch.stack([item.loc for item in matches])
    positives = (wanted > 0).sum().clamp(min=1)
    weights = config.losses
    box = F.smooth_l1_loss(predictions.loc[wanted > 0], loc[wanted > 0], reduction="sum")
    return {
        "box": box * weights.box_weight / positives,
        "class": class_loss(predictions.conf, wanted, weights) * weights.class_weight / positives,
        "mask": mask_loss(predictions, matches, targets, scale, weights) * weights.mask_weight / positives,
        "semantic": semantic_loss(predictions.semantic, targets) * weights.semantic_weight,
    }


def class_loss(conf: Tensor, wanted: Tensor, config: LossConfig) -> Tensor:
    """Summed cross-entropy over positives and, per image, the hardest negatives.

    Hardness is -log p(background); `negatives_per_positive` times as many negatives as positives take part.

    Args:
        conf: float32 [N, P, 1 + C] logits.
        wanted: int64 [N, P], 0 background, NEUTRAL left out.
        config: Weights.
    """
    positive = wanted > 0
    with torch.no_grad():
        hardness = torch.logsumexp(conf, dim=-1) - conf[..., 0]
        hardness = hardness.masked_fill(wanted != 0, -torch.inf)
        rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
        allowed = config.negatives_per_positive * positive.sum(dim=1, keepdim=True)
        taken = positive | ((wanted == 0) & (rank < allowed.clamp(max=conf.shape[1] - 1)))
    return F.cross_entropy(conf[taken], wanted[taken], reduction="sum")


def mask_loss(
    predictions: Predictions,
    matches: Sequence[Matches],
    targets: Sequence[InstanceTargets],
    scale: Tensor,
    config: LossConfig,
) -> Tensor:
    """Summed binary cross-entropy of assembled masks inside their true boxes, each divided by the box's area.

    At most `mask_positives_limit` positives of an image take part, drawn at random; their sum is scaled up to
    stand for all. Areas are in prototype pixels and count as one at least.
    """
    total = predictions.coefficients.sum() * 0.0
    size = predictions.prototypes.shape[-2:]
    for index, (matched, truth) in enumerate(zip(matches, targets, strict=True)):
        positive = torch.nonzero(matched.classes > 0).flatten()
        count = len(positive)
        if count == 0:
            continue
        if count > config.mask_positives_limit:
            chosen = torch.randperm(count, device=positive.device)[: config.mask_positives_limit]
            positive = positive[chosen]
        objects = matched.objects[positive]
        logits = predictions.coefficients[index, positive] @ predictions.prototypes[index].flatten(1)
        masks = resized_masks(truth.masks, size)[objects].flatten(1)
        corners = truth.boxes[objects] / scale
        inside, areas = crop_windows(corners, size)
        entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        summed = (entropy * inside.flatten(1)).sum(dim=1) / areas
        total = total + summed.sum() * (count / len(positive))
    return total


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


def semantic_loss(semantic: Tensor | None, targets: Sequence[InstanceTargets]) -> Tensor:
    """Mean over images of the binary cross-entropy of class maps [N, C, h, w], summed over classes."""
    if semantic is None:
        raise ValueError("the semantic output exists only in training mode: call module.train() first")
    wanted = torch.zeros_like(semantic)
    for index, truth in enumerate(targets):
        for label, mask in zip(
            truth.classes.tolist(), resized_masks(truth.masks, semantic.shape[-2:]), strict=True
        ):
            wanted[index, label] = torch.maximum(wanted[index, label], mask)
    entropy = F.binary_cross_entropy_with_logits(semantic, wanted, reduction="sum")
    return entropy / (semantic.shape[0] * semantic.shape[2] * semantic.shape[3])

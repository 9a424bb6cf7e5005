"""The two losses of RetinaNet's training: the focal loss of the classes, and that of the boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.retinanet.config import BoxLoss, RetinanetConfig
from edgewise.models.families.retinanet.network import Predictions, level_anchors
from edgewise.models.families.retinanet.targets import targets_of
from edgewise.models.layers import boxes as box_ops
from edgewise.models.layers.anchors import per_anchor
from edgewise.models.layers.box_coding import BoxCoding


def losses(
    config: RetinanetConfig, predictions: Predictions, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """Scalar terms `class` and `box`: sums over the anchors of an image, divided by its foreground, then the
    mean over the images.

    Args:
        config: Sizes, thresholds and the box loss.
        predictions: Of N images.
        targets: One for each image, in network pixels.
    """
    logits = torch.cat([per_anchor(level, config.row_count) for level in predictions.logits], dim=1)
    deltas = torch.cat([per_anchor(level, 4) for level in predictions.deltas], dim=1)
    anchors = torch.cat(level_anchors(config)).to(logits.device)
    of_class, of_box = logits.new_zeros(()), logits.new_zeros(())
    for index, truth in enumerate(targets):
        wanted = targets_of(anchors, truth, predictions.class_rows, config.matching)
        labels = torch.zeros_like(logits[index])
        labels[wanted.foreground, wanted.rows] = 1.0
        taken = wanted.taking
        focal = focal_loss(
            logits[index, taken], labels[taken], config.losses.focal_alpha, config.losses.focal_gamma
        )
        count = max(len(wanted.foreground), 1)
        of_class = of_class + focal / count
        own = deltas[index, wanted.foreground], anchors[wanted.foreground]
        of_box = of_box + box_loss(*own, wanted.boxes, config.losses.box) / count
    return {"class": of_class / len(targets), "box": of_box / len(targets)}


def focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Summed binary cross-entropy, each term weighted by alpha_t (1 - p_t)^gamma (Lin et al., equation 5)."""
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    probability = torch.sigmoid(logits)
    missing = probability * (1 - labels) + (1 - probability) * labels
    weight = alpha * labels + (1 - alpha) * (1 - labels)
    return (weight * missing**gamma * entropy).sum()


def box_loss(deltas: Tensor, anchors: Tensor, boxes: Tensor, form: BoxLoss) -> Tensor:
    """Summed over foreground anchors: deltas [F, 4], anchors and boxes [F, 4] in corner form."""
    coding = BoxCoding()
    if form is BoxLoss.L1:
        return F.l1_loss(deltas, coding.encode(boxes, anchors), reduction="sum")
    return (1 - generalised_iou(coding.decode(deltas, anchors), boxes)).sum()


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU less the empty share of the hull, -1..1, of corner boxes [n, 4] pair by pair -> [n].

    Rezatofighi et al., 2019. A tiny term keeps boxes without area finite, as in the published code.
    """
    epsilon = 1e-7
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    union = box_ops.area(first) + box_ops.area(second) - shared
    outer = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    hull = outer.prod(dim=1)
    return shared / (union + epsilon) - (hull - union) / (hull + epsilon)

"""The losses of YOLACT's training: boxes, classes, masks, the semantic side task, and YOLACT++'s mask IoU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.yolact.config import LossConfig, YolactConfig
from edgewise.models.families.yolact.mask_iou import MaskIouNet
from edgewise.models.families.yolact.network import Predictions
from edgewise.models.families.yolact.positive_masks import PositiveMasks, positive_masks, resized_masks
from edgewise.models.families.yolact.targets import match


def losses(
    config: YolactConfig,
    priors: Tensor,
    predictions: Predictions,
    targets: Sequence[InstanceTargets],
    judge: MaskIouNet | None = None,
) -> dict[str, Tensor]:
    """Weighted scalar terms `box`, `class`, `mask`, `semantic`[, `mask_iou`]; training descends their sum.

    All but the semantic term are sums over matched priors divided by the number of positives of the whole
    batch; images with no object add nothing to them and only background to the semantic term.

    Args:
        config: Sizes, thresholds and weights.
        priors: float32 [P, 4], centre form, fractions of the input.
        predictions: Of N images, in training mode.
        targets: One for each image, in network pixels.
        judge: The network whose word on masks is trained too.
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
    chosen = positive_masks(predictions, matches, targets, scale, weights.mask_positives_limit)
    terms = {
        "box": box * weights.box_weight / positives,
        "class": class_loss(predictions.conf, wanted, weights) * weights.class_weight / positives,
        "mask": mask_loss(predictions, chosen) * weights.mask_weight / positives,
        "semantic": semantic_loss(predictions.semantic, targets) * weights.semantic_weight,
    }
    if judge is not None:
        terms["mask_iou"] = mask_iou_loss(judge, chosen, weights) * weights.mask_iou_weight / positives
    return terms


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


def mask_loss(predictions: Predictions, positives: Sequence[PositiveMasks]) -> Tensor:
    """Summed binary cross-entropy of assembled masks inside their true boxes, each divided by the box's area.

    The sum over a sample of an image's positives is scaled up to stand for all.
    """
    total = predictions.coefficients.sum() * 0.0
    for item in positives:
        entropy = F.binary_cross_entropy_with_logits(item.logits, item.truth, reduction="none")
        summed = (entropy * item.inside).sum(dim=(1, 2)) / item.areas
        total = total + summed.sum() * item.stands_for
    return total


def mask_iou_loss(judge: MaskIouNet, positives: Sequence[PositiveMasks], config: LossConfig) -> Tensor:
    """Summed smooth L1 between what the judge says of trained masks and their IoU with the truth.

    Judged are masks of objects of more than `mask_iou_area` prototype pixels. The gradient reaches the masks
    too, as in the paper's code. A sample of an image's positives stands here for itself alone.
    """
    total = next(judge.parameters()).new_zeros(())
    for item in positives:
        large = item.truth.sum(dim=(1, 2)) > config.mask_iou_area
        if not bool(large.any()):
            continue
        masks = (torch.sigmoid(item.logits) * item.inside)[large]
        said = judge.of_class(masks, item.classes[large])
        total = total + F.smooth_l1_loss(
            said, mask_iou(masks > 0.5, item.truth[large] > 0.5), reduction="sum"
        )
    return total


def mask_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of binary masks [n, H, W] and [n, H, W], pair by pair, float32 [n]; 0 where both are empty."""
    shared = (first & second).sum(dim=(1, 2))
    return shared / (first | second).sum(dim=(1, 2)).clamp(min=1)


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

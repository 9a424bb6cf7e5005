"""The losses of Faster R-CNN (Ren et al., 2015), Mask and Keypoint R-CNN (He et al., 2017): the stages' own
terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.rcnn.config import RcnnConfig
from edgewise.models.families.rcnn.network import Features, Rcnn
from edgewise.models.layers.two_stage.keypoint_stage import KeypointStage
from edgewise.models.layers.two_stage.mask_stage import MaskStage
from edgewise.models.layers.two_stage.sampling import Objects, Regions, sample_regions


def losses(
    config: RcnnConfig, module: Rcnn, images: Tensor, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """Scalar terms of equal weight; their sum is what training descends.

    `objectness`, `anchor_box`: of the proposal head; `class`, `box`: of sampled regions, the objects' own
    boxes among them; `mask`, `keypoint`: of their foreground, where the model has masks or points. Images
    with no object add to the proposal and class terms only.

    Args:
        config: Sizes and thresholds.
        module: In training mode.
        images: float32 [N, 3, H, W], normalised.
        targets: One for each image, in network pixels.
    """
    objects = [Objects(item.boxes, item.classes, item.masks, item.crowd_boxes) for item in targets]
    features = module(images)
    terms, regions = detector_losses(config, module, features, objects)
    if module.mask_head is not None and config.mask is not None:
        limit = config.mask.positives_limit
        terms["mask"] = _mask_loss(module.mask_head, limit, features, objects, regions)
    if module.keypoint_head is not None:
        limit = config.keypoints.positives_limit
        terms["keypoint"] = _keypoint_loss(module.keypoint_head, limit, features, targets, regions)
    return terms


def detector_losses(
    config: RcnnConfig, module: Rcnn, features: Features, objects: Sequence[Objects]
) -> tuple[dict[str, Tensor], Regions]:
    """The terms of boxes alone, and the regions that they and further branches learn from."""
    objectness, anchor_box = module.proposal_head.loss(features.proposals, objects)
    regions = _sample_regions(config, module, features, objects)
    label, box = module.box_head.loss(features.levels, regions)
    return {"objectness": objectness, "anchor_box": anchor_box, "class": label, "box": box}, regions


@torch.no_grad()
def _sample_regions(
    config: RcnnConfig, module: Rcnn, features: Features, objects: Sequence[Objects]
) -> Regions:
    found = module.proposal_head.propose(features.proposals, config.training.proposals, exact=True)
    return sample_regions(
        found.of_images(), objects, coding=module.box_head.config.coding, sampling=config.training.regions
    )


def _mask_loss(
    head: MaskStage, limit: int, features: Features, objects: Sequence[Objects], regions: Regions
) -> Tensor:
    """Of at most `limit` foreground regions an image."""
    boxes, chosen = _foreground(regions, limit)
    counts = [len(part) for part in chosen]
    classes = [image.classes[part] for image, part in zip(objects, chosen, strict=True)]
    logits = head.logits(features.levels, torch.cat(boxes), torch.cat(classes), _images(chosen))
    return head.loss(logits.split(counts), [image.masks for image in objects], boxes, chosen)


def _keypoint_loss(
    head: KeypointStage, limit: int, features: Features, targets: Sequence[InstanceTargets], regions: Regions
) -> Tensor:
    """Of at most `limit` foreground regions an image; a target without points has none that are labelled."""
    boxes, chosen = _foreground(regions, limit)
    points = [
        boxes[0].new_zeros(len(part), head.config.points, 3) if image.points is None else image.points[part]
        for image, part in zip(targets, chosen, strict=True)
    ]
    return head.loss(features.levels, torch.cat(boxes), _images(chosen), torch.cat(points))


def _foreground(regions: Regions, limit: int) -> tuple[list[Tensor], list[Tensor]]:
    """Of each image at most `limit` foreground regions and their objects; they come in random order."""
    counts = [min(item.foreground, limit) for item in regions.per_image]
    pairs = list(zip(regions.per_image, counts, strict=True))
    return [item.rois[:count] for item, count in pairs], [item.objects[:count] for item, count in pairs]


def _images(chosen: Sequence[Tensor]) -> Tensor:
    """Which image each of the chosen regions lies in."""
    return torch.cat([torch.full_like(part, index) for index, part in enumerate(chosen)])

"""The losses of Faster R-CNN (Ren et al., 2015) and Mask R-CNN (He et al., 2017): the stages' own terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.rcnn.config import RcnnConfig
from edgewise.models.families.rcnn.network import Features, Rcnn
from edgewise.models.layers.two_stage.mask_stage import MaskStage
from edgewise.models.layers.two_stage.sampling import Objects, Regions, sample_regions


def losses(
    config: RcnnConfig, module: Rcnn, images: Tensor, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """Scalar terms of equal weight; their sum is what training descends.

    `objectness`, `anchor_box`: of the proposal head; `class`, `box`: of sampled regions, the objects' own
    boxes among them; `mask`: of their foreground, where the model has masks. Images with no object add to the
    proposal and class terms only.

    Args:
        config: Sizes and thresholds.
        module: In training mode.
        images: float32 [N, 3, H, W], normalised.
        targets: One for each image, in network pixels.
    """
    objects = [Objects(item.boxes, item.classes, item.masks, item.crowd_boxes) for item in targets]
    features = module(images)
    objectness, anchor_box = module.proposal_head.loss(features.proposals, objects)
    regions = _sample_regions(config, module, features, objects)
    label, box = module.box_head.loss(features.levels, regions)
    terms = {"objectness": objectness, "anchor_box": anchor_box, "class": label, "box": box}
    if module.mask_head is not None and config.mask is not None:
        limit = config.mask.positives_limit
        terms["mask"] = _mask_loss(module.mask_head, limit, features, objects, regions)
    return terms


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
    """Of at most `limit` foreground regions an image; they come in random order."""
    counts = [min(item.foreground, limit) for item in regions.per_image]
    chosen = [item.objects[:count] for item, count in zip(regions.per_image, counts, strict=True)]
    boxes = [item.rois[:count] for item, count in zip(regions.per_image, counts, strict=True)]
    classes = [image.classes[part] for image, part in zip(objects, chosen, strict=True)]
    images = [torch.full_like(part, index) for index, part in enumerate(chosen)]
    logits = head.logits(features.levels, torch.cat(boxes), torch.cat(classes), torch.cat(images))
    return head.loss(logits.split(counts), [image.masks for image in objects], boxes, chosen)

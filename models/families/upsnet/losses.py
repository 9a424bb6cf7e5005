"""The losses of UPSNet's training: proposals, boxes, masks, semantics, and the panoptic whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from edgewise.models.families.upsnet.config import UpsnetConfig
from edgewise.models.families.upsnet.network import Features, Upsnet
from edgewise.models.families.upsnet.panoptic_head import panoptic_logits, paste, thing_maps
from edgewise.models.layers.boxes import exclusive
from edgewise.models.layers.roi_align import roi_align
from edgewise.models.layers.two_stage.sampling import Objects, Regions, sample_regions
from edgewise.models.tasks.panoptic.targets import PanopticTargets

IGNORED = -1


class Truth(NamedTuple):
    """The ground truth of one image in the network's conventions."""

    objects: Objects
    """Boxes and crowd regions with inclusive corners; classes index the things."""
    channels: Tensor
    """int64 [H, W], channel of the semantic scores (stuff first), or IGNORED."""


def losses(
    config: UpsnetConfig, module: Upsnet, images: Tensor, targets: Sequence[PanopticTargets]
) -> dict[str, Tensor]:
    """Weighted scalar terms; their sum is what training descends.

    `objectness`, `anchor_box`: of the proposal head; `class`, `box`, `mask`: of sampled regions, the objects'
    own boxes among them; `semantic`: of every pixel; `region_semantic`: of the semantic scores read inside
    true boxes (where it has a weight); `panoptic`: of the panoptic logits at a quarter of the input's size.
    All are means over images or over regions of the whole batch; images with no object add to the proposal,
    class and map terms only.

    Args:
        config: Sizes, thresholds and weights.
        module: In training mode.
        images: float32 [N, 3, H, W], normalised.
        targets: One for each image, in network pixels.
    """
    truths = [_truth(config, item) for item in targets]
    objects = [truth.objects for truth in truths]
    features = module(images)
    weights = config.training
    objectness, anchor_box = module.proposal_head.loss(features.proposals, objects)
    regions = _sample_regions(config, module, features, objects)
    label, box = module.box_head.loss(features.levels, regions)
    keeping = [_choose_kept(len(item.boxes), weights.kept_boxes, images.device) for item in objects]
    masks, true_masks = _mask_logits(config, module, features, objects, regions, keeping)
    mask = module.mask_head.loss(masks.logits, [item.masks for item in objects], masks.boxes, masks.objects)
    panoptic = panoptic_loss(config, features.scores, true_masks, truths, keeping)
    terms = {
        "objectness": objectness * weights.objectness_weight,
        "anchor_box": anchor_box * weights.anchor_box_weight,
        "class": label * weights.class_weight,
        "box": box * weights.box_weight,
        "mask": mask * weights.mask_weight,
        "semantic": semantic_loss(features.scores, truths) * weights.semantic_weight,
        "panoptic": panoptic * weights.panoptic_weight,
    }
    if weights.region_semantic_weight > 0:
        region = region_semantic_loss(config, module, features, truths)
        terms["region_semantic"] = region * weights.region_semantic_weight
    return terms


def _truth(config: UpsnetConfig, target: PanopticTargets) -> Truth:
    """Corner boxes become inclusive ones, class indices (things first) become channels (stuff first)."""
    one = target.instances.boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    semantic, things = target.semantic, config.thing_count
    channels = torch.where(semantic >= things, semantic - things, semantic + config.stuff_count)
    objects = Objects(
        boxes=target.instances.boxes - one,
        classes=target.instances.classes,
        masks=target.instances.masks,
        crowd_boxes=target.instances.crowd_boxes - one,
    )
    return Truth(objects, torch.where(semantic < 0, IGNORED, channels))


# ---------------------------------------------------------------- regions


@torch.no_grad()
def _sample_regions(
    config: UpsnetConfig, module: Upsnet, features: Features, objects: Sequence[Objects]
) -> Regions:
    found = module.proposal_head.propose(features.proposals, config.training.proposals, exact=True)
    return sample_regions(
        found.of_images(),
        objects,
        coding=module.box_head.config.coding,
        sampling=config.training.regions,
    )


class MaskLogits(NamedTuple):
    """Logits of the true class for some regions of each image."""

    objects: tuple[Tensor, ...]
    """For each image int64 [r]: the object that each region answers for."""
    boxes: tuple[Tensor, ...]
    """For each image float32 [r, 4], inclusive corners."""
    logits: tuple[Tensor, ...]
    """For each image float32 [r, 2 * bins, 2 * bins]."""


def _mask_logits(
    config: UpsnetConfig,
    module: Upsnet,
    features: Features,
    truths: Sequence[Objects],
    regions: Regions,
    keeping: Sequence[Tensor],
) -> tuple[MaskLogits, MaskLogits]:
    """The mask stage on sampled foreground regions, and on the kept objects' own boxes, in one pass."""
    limit = config.training.mask_positives_limit
    objects, boxes = [], []
    for item in regions.per_image:
        # The sampled foreground comes in random order.
        count = min(item.foreground, limit)
        objects.append(item.objects[:count])
        boxes.append(item.rois[:count])
    for truth, kept in zip(truths, keeping, strict=True):
        objects.append(kept)
        boxes.append(truth.boxes[kept])
    counts = [len(part) for part in boxes]
    classes = [truth.classes[part] for truth, part in zip((*truths, *truths), objects, strict=True)]
    images = [torch.full_like(part, index % len(truths)) for index, part in enumerate(objects)]
    logits = module.mask_head.logits(
        features.levels, torch.cat(boxes), torch.cat(classes), torch.cat(images)
    ).split(counts)
    half = len(truths)
    return (
        MaskLogits(tuple(objects[:half]), tuple(boxes[:half]), tuple(logits[:half])),
        MaskLogits(tuple(objects[half:]), tuple(boxes[half:]), tuple(logits[half:])),
    )


# ---------------------------------------------------------------- maps


def semantic_loss(scores: Tensor, truths: Sequence[Truth]) -> Tensor:
    """Mean cross-entropy over the labelled pixels of the batch, scores enlarged to the input's size."""
    wanted = torch.stack([truth.channels for truth in truths])
    enlarged = F.interpolate(scores, size=wanted.shape[-2:], mode="bilinear")
    return _mean_entropy(enlarged, wanted)


def region_semantic_loss(
    config: UpsnetConfig, module: Upsnet, features: Features, truths: Sequence[Truth]
) -> Tensor:
    """Cross-entropy of the semantic scores read inside every true box, mean over the boxes."""
    side = config.mask_stage.side
    boxes = torch.cat([truth.objects.boxes for truth in truths])
    if len(boxes) == 0:
        return features.scores.sum() * 0.0
    images = torch.cat([torch.full_like(truth.objects.classes, index) for index, truth in enumerate(truths)])
    stride = config.backbone.stage_strides[0]
    pooled = roi_align(features.semantic, boxes, output=side, scale=1.0 / stride, images=images)
    wanted = torch.cat([_read_channels(truth.channels, truth.objects.boxes, side) for truth in truths])
    entropy = F.cross_entropy(
        module.semantic_head.score(pooled), wanted, ignore_index=IGNORED, reduction="none"
    )
    labelled = (wanted != IGNORED).sum(dim=(1, 2)).clamp(min=1)
    return (entropy.sum(dim=(1, 2)) / labelled).mean()


def _read_channels(channels: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Labels [H, W] of the pixels nearest to the cells' centres of boxes [n, 4] -> int64 [n, side, side]."""
    steps = (torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5) / side
    ends = exclusive(boxes)
    across = ends[:, 0:1] + steps * (ends[:, 2:3] - ends[:, 0:1])
    down = ends[:, 1:2] + steps * (ends[:, 3:4] - ends[:, 1:2])
    columns = across.long().clamp(0, channels.shape[1] - 1)
    rows = down.long().clamp(0, channels.shape[0] - 1)
    return channels[rows[:, :, None], columns[:, None, :]]


def panoptic_loss(
    config: UpsnetConfig,
    scores: Tensor,
    masks: MaskLogits,
    truths: Sequence[Truth],
    keeping: Sequence[Tensor],
) -> Tensor:
    """Cross-entropy of the panoptic logits on the grid of the semantic scores, mean over images.

    The true boxes and classes stand for detections; only the kept ones compete, so that the unknown channel
    has the pixels of the others to learn from.
    """
    stride = config.backbone.stage_strides[0]
    total = scores.sum() * 0.0
    for index, (truth, kept) in enumerate(zip(truths, keeping, strict=True)):
        image = scores[index]
        # Boxes in cells of the grid, whose cells are then the pixels of the head.
        boxes = truth.objects.boxes[kept] / stride
        size = (image.shape[1], image.shape[2])
        pasted = paste(masks.logits[index], boxes, size, 1)
        things = thing_maps(image, boxes, truth.objects.classes[kept], config.stuff_count, 1)
        alive = torch.ones(len(kept), dtype=torch.bool, device=image.device)
        logits = panoptic_logits(image, things, pasted, alive, config.stuff_count)
        wanted = panoptic_truth(truth, kept, config.stuff_count, stride)
        total = total + _mean_entropy(logits[None], wanted[None])
    return total / len(truths)


def panoptic_truth(truth: Truth, kept: Tensor, stuff_count: int, stride: int) -> Tensor:
    """The channel of the panoptic logits that is right in each cell -> int64 [H / stride, W / stride].

    A cell has the label of its centre's pixel: a stuff channel, stuff_count + j for the j-th kept object,
    stuff_count + k for any other object, or IGNORED.
    """
    first = stride // 2
    channels = truth.channels[first::stride, first::stride]
    wanted = torch.where(channels < stuff_count, channels, IGNORED)
    if len(truth.objects.boxes) == 0:
        return wanted
    masks = truth.objects.masks[:, first::stride, first::stride] > 0
    place = torch.full((len(truth.objects.boxes),), len(kept), device=kept.device)
    place[kept] = torch.arange(len(kept), device=kept.device)
    for mask, position in zip(masks, place, strict=True):
        wanted = torch.where(mask, stuff_count + position, wanted)
    return wanted


def _choose_kept(count: int, share: float, device: torch.device) -> Tensor:
    """A random share of `count` objects, at least one where there is one -> int64 [k], rising."""
    kept = min(count, max(1, round(count * share)))
    return torch.randperm(count)[:kept].sort().values.to(device)


def _mean_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean cross-entropy over labelled pixels; 0 where there is none."""
    entropy = F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
    return entropy / (wanted != IGNORED).sum().clamp(min=1)

"""UPSNet as it is deployed: uint8 camera pixels in, a panoptic map of fixed shape out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.families.tensors import label_map
from edgewise.models.families.upsnet.config import UpsnetConfig
from edgewise.models.families.upsnet.network import Upsnet
from edgewise.models.families.upsnet.panoptic_head import panoptic_map
from edgewise.models.layers.boxes import exclusive
from edgewise.models.layers.nms import rank_order


class UpsnetDeploy(nn.Module):
    """uint8 [1, H, W, 3] BGR -> boxes, scores, classes, segments, semantic, settled, then the raw head maps.

    With K slots, A anchors a cell, C classes of which S are stuff, and (h, w) = (H, W) / panoptic_stride:

    | output | | |
    |---|---|---|
    | boxes | float32 [1, K, 4] | x1, y1, x2, y2 in input pixels, corner convention, inside the canvas |
    | scores | float32 [1, K] | 0 = empty or pruned, its box and class are 0 too; the others fall |
    | classes | int32 [1, K] | index into the manifest's classes; things come first there |
    | segments | uint8 [1, h, w] | 0..S-1: stuff; S + i: slot i; S + K: unknown |
    | semantic | uint8 [1, h, w] | index into the manifest's classes, by the semantic head alone |
    | settled | int32 [1] | 1 = every suppression and the pruning are proven to be the sequential ones |
    | objectness_0, ... | float32 [1, A, h, w] | probes, one a level: logits of the anchors |
    | deltas_0, ... | float32 [1, 4 A, h, w] | probes, one a level: box regression of the anchors |
    | fcn_score | float32 [1, C, H/4, W/4] | probe: semantic logits, stuff first |

    The maps are int32 where labels beyond 255 exist.

    Where this differs from the published inference: boxes are clipped to the canvas and not to the picture
    inside it, because a graph of fixed shape does not know the picture's size; at most K candidates take part
    (ties at the last place are cut); with a panoptic_stride above 1, scores and masks compete at the centres
    of cells of that many pixels instead of at every pixel; no zero map competes where nothing is found.
    """

    def __init__(self, config: UpsnetConfig, module: Upsnet) -> None:
        super().__init__()
        self.config = config
        self.network = copy.deepcopy(module).eval().requires_grad_(False)
        self.input = config.image_input.fold_into(self.network.backbone.stem)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        config, decoding = self.config, self.config.decoding
        network = self.network
        features = network(self.input(image))
        # One constant for all suppressions of the graph.
        order = rank_order(max(decoding.proposals.candidates, decoding.proposals.kept), image.device)
        found = network.proposal_head.propose(features.proposals, decoding.proposals, order=order)
        boxes, scores, classes, settled = network.box_head.detect(
            features.levels, found.boxes[0], found.valid[0], order
        )
        logits = network.mask_head.masks(features.levels, boxes, classes)
        maps = features.scores
        if maps.shape[-2:] != config.panoptic_size:
            maps = F.interpolate(maps, size=config.panoptic_size, mode="bilinear")
        panoptic = panoptic_map(
            maps[0],
            logits,
            boxes,
            classes,
            scores > 0.0,
            stuff_count=config.stuff_count,
            stride=decoding.panoptic_stride,
            overlap=decoding.pruning_overlap,
            rounds=max(2, decoding.pruning_rounds // 4),
            pair_rounds=decoding.pruning_rounds,
        )
        alive = panoptic.alive.to(scores.dtype)
        settled = settled & panoptic.settled & found.settled[0]
        channel = maps[0].argmax(dim=0).to(torch.int32)
        semantic = torch.where(
            channel < config.stuff_count, channel + config.thing_count, channel - config.stuff_count
        )
        return (
            (exclusive(boxes) * alive[:, None])[None],
            (scores * alive)[None],
            (classes * panoptic.alive.to(classes.dtype)).to(torch.int32)[None],
            label_map(panoptic.segments, config.last_segment),
            label_map(semantic, config.class_count - 1),
            settled.to(torch.int32).reshape(1),
            *features.proposals.objectness,
            *features.proposals.deltas,
            features.scores,
        )

"""R-CNNs as they are deployed: uint8 camera pixels in, detections of fixed shape out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgewise.models.families.rcnn.config import RcnnConfig
from edgewise.models.families.rcnn.network import Features, Rcnn
from edgewise.models.layers.nms import rank_order


class RcnnDeploy(nn.Module):
    """uint8 [1, H, W, 3] BGR -> boxes, scores, classes[, masks][, heatmaps], settled, then the raw head maps.

    With K slots, A anchors a cell, P points, and M the side of a mask or a heatmap:

    | output | | |
    |---|---|---|
    | boxes | float32 [1, K, 4] | x1, y1, x2, y2 in input pixels, corner convention, inside the canvas |
    | scores | float32 [1, K] | falling; 0 = empty slot, its box and class are 0 too |
    | classes | int32 [1, K] | index into the manifest's classes |
    | masks | float32 [1, K, M, M] | where the config has them: probability over the box; 0 in empty slots |
    | heatmaps | float32 [1, K, P, M, M] | where it has points: logits over the box; 0 in empty slots |
    | settled | int32 [1] | 1 = proven to be what sequential suppression of all candidates gives |
    | objectness_0, ... | float32 [1, A, h, w] | probes, one a level: logits of the anchors |
    | deltas_0, ... | float32 [1, 4 A, h, w] | probes, one a level: box regression of the anchors |

    Where this differs from the published inference: boxes are clipped to the canvas and not to the picture
    inside it, because a graph of fixed shape does not know the picture's size; a category id that no class
    of COCO has is never detected (it takes its share of the probability all the same).
    """

    def __init__(self, config: RcnnConfig, module: Rcnn) -> None:
        super().__init__()
        self.config = config
        self.network = copy.deepcopy(module).eval().requires_grad_(False)
        self.input = config.image_input.fold_into(self.network.backbone.stem)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        decoding, network = self.config.decoding, self.network
        features = network(self.input(image))
        # One constant for all suppressions of the graph.
        order = rank_order(max(decoding.proposals.candidates, decoding.candidates), image.device)
        found = network.proposal_head.propose(features.proposals, decoding.proposals, order=order)
        boxes, scores, classes, settled = network.box_head.detect(
            features.levels, found.boxes[0], found.valid[0], order
        )
        full = (scores > 0.0).to(scores.dtype)
        settled = settled & found.settled[0]
        return (
            boxes[None],
            scores[None],
            classes.to(torch.int32)[None],
            *self.maps(features, boxes, classes, full),
            settled.to(torch.int32).reshape(1),
            *features.proposals.objectness,
            *features.proposals.deltas,
        )

    def maps(self, features: Features, boxes: Tensor, classes: Tensor, full: Tensor) -> tuple[Tensor, ...]:
        """What else the slots hold: the masks or the points of each, 0 where `full` float32 [K] is 0."""
        network = self.network
        maps: list[Tensor] = []
        if network.mask_head is not None:
            logits = network.mask_head.masks(features.levels, boxes, classes)
            maps.append((torch.sigmoid(logits) * full[:, None, None])[None])
        if network.keypoint_head is not None:
            logits = network.keypoint_head.heatmaps(features.levels, boxes)
            maps.append((logits * full[:, None, None, None])[None])
        return tuple(maps)

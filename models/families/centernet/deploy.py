"""CenterNet as it is deployed: uint8 camera pixels in, decoded boxes of fixed shape out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgewise.models.families.centernet.config import CenternetConfig
from edgewise.models.families.centernet.decoding import detect
from edgewise.models.families.centernet.network import Centernet


class CenternetDeploy(nn.Module):
    """uint8 [N, H, W, 3] BGR -> boxes, scores, classes, then the maps of the heads.

    With K slots, C classes and maps of h x w cells:

    | output | | |
    |---|---|---|
    | boxes | float32 [N, K, 4] | x1, y1, x2, y2 in input pixels, corner convention |
    | scores | float32 [N, K] | falling; 0 = empty slot, whose other values are 0 too |
    | classes | int32 [N, K] | 0-based |
    | heat | float32 [N, C, h, w] | probe: logits of centres |
    | size | float32 [N, 2, h, w] | probe: width and height in cells |
    | offset | float32 [N, 2, h, w] | probe: x, y of the centre within its cell |
    """

    def __init__(self, config: CenternetConfig, module: Centernet) -> None:
        super().__init__()
        self.config = config
        self.network = copy.deepcopy(module).eval().requires_grad_(False)
        self.input = config.image_input.fold_into(self.network.backbone.stem)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        predictions = self.network(self.input(image))
        found = detect(predictions, self.config.slots)
        return found.boxes, found.scores, found.classes.to(torch.int32), *predictions

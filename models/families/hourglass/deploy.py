"""Stacked Hourglass as it is deployed: uint8 camera pixels in, the last stack's heatmaps out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgewise.models.families.hourglass.config import HourglassConfig
from edgewise.models.families.hourglass.network import Residual, StackedHourglass


class HourglassDeploy(nn.Module):
    """uint8 [N, H, W, 3] BGR -> heatmaps float32 [N, K, H/4, W/4] of the last stack, as trained.

    The earlier stacks' heatmaps stay inside the graph, where the following stack reads them.
    """

    def __init__(self, config: HourglassConfig, module: StackedHourglass) -> None:
        super().__init__()
        self.config = config
        self.network = copy.deepcopy(module).eval().requires_grad_(False)
        for block in self.network.modules():
            if isinstance(block, Residual) and not block.projects:
                block.projection = None
        # The stem reads RGB in 0..1; frames are BGR in 0..255. Its weights take over swap and division.
        # The mean stays a subtraction, because the stem's zero padding means "mean colour".
        stem = self.network.stem[0]
        stem.weight.copy_((stem.weight.double() / 255.0).flip(1).float())
        mean = [255.0 * value for value in reversed(config.mean)]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        pixels = image.to(torch.float32).permute(0, 3, 1, 2)
        if any(self.config.mean):
            pixels = pixels - self.mean
        return (self.network(pixels)[-1],)

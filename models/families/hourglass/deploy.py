"""Stacked Hourglass as it is deployed: uint8 camera pixels in, the last stack's heatmaps out."""

from __future__ import annotations

import copy

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
        self.input = config.image_input.fold_into(self.network.stem[0])

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.network(self.input(image))[-1],)

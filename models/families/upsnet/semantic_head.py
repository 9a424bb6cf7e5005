"""The semantic head of UPSNet (Xiong et al., 2019, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.families.upsnet.config import UpsnetConfig
from edgewise.models.layers.deform_conv import DeformConv


class SemanticHead(nn.Module):
    """Deformable layers shared by P2..P5, all brought to the size of P2, and one 1x1 convolution.

    Score channels: stuff first, things last.
    """

    def __init__(self, config: UpsnetConfig) -> None:
        super().__init__()
        widths = (config.pyramid_channels, *config.semantic.channels)
        self.layers = nn.ModuleList(DeformConv(inputs, outputs) for inputs, outputs in pairwise(widths))
        levels = len(config.backbone.stage_channels)
        self.score = nn.Conv2d(levels * widths[-1], config.class_count, 1)

    def features(self, levels: Sequence[Tensor]) -> Tensor:
        """P2..P5 -> [N, 4 * channels, H/4, W/4]."""
        size = levels[0].shape[-2:]
        maps = []
        for level in levels:
            for layer in self.layers:
                level = F.relu(layer(level))
            if level.shape[-2:] != size:
                level = F.interpolate(level, size=size, mode="bilinear")
            maps.append(level)
        return torch.cat(maps, dim=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """P2..P5 -> logits [N, stuff + things, H/4, W/4]."""
        return self.score(self.features(levels))

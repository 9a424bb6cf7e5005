"""The heads of UPSNet: proposals, boxes, masks and semantics."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.families.upsnet.config import UpsnetConfig
from edgewise.models.layers.deform_conv import DeformConv


class ProposalHead(nn.Module):
    """Objectness and box deltas of every anchor, by one head for all levels."""

    def __init__(self, config: UpsnetConfig) -> None:
        super().__init__()
        channels, anchors = config.pyramid_channels, config.anchors_per_cell
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors, 1)

    def forward(self, levels: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Levels [N, channels, h, w] -> logits [N, A, h, w] and deltas [N, 4 A, h, w] of each level."""
        hidden = [F.relu(self.conv(level)) for level in levels]
        return tuple(map(self.objectness, hidden)), tuple(map(self.deltas, hidden))


class BoxHead(nn.Module):
    """Two hidden layers on pooled regions, then class logits (0 = background) and one box for each class."""

    def __init__(self, config: UpsnetConfig) -> None:
        super().__init__()
        channels, classes = config.box_channels, 1 + config.thing_count
        self.fc6 = nn.Linear(config.pyramid_channels * config.box_bins**2, channels)
        self.fc7 = nn.Linear(channels, channels)
        self.cls_score = nn.Linear(channels, classes)
        self.bbox_pred = nn.Linear(channels, 4 * classes)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[R, channels, bins, bins] -> logits [R, 1 + things], deltas [R, 1 + things, 4]."""
        hidden = F.relu(self.fc7(F.relu(self.fc6(pooled.flatten(1)))))
        logits = self.cls_score(hidden)
        return logits, self.bbox_pred(hidden).unflatten(1, (logits.shape[1], 4))


class MaskHead(nn.Module):
    """Mask logits of every class at twice the pooled resolution; channel 0, the background, is never read."""

    def __init__(self, config: UpsnetConfig) -> None:
        super().__init__()
        inputs, channels = config.pyramid_channels, config.mask_channels
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs if index == 0 else channels, channels, 3, 1, 1)
            for index in range(config.mask_convolutions)
        )
        self.doubling = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.score = nn.Conv2d(channels, 1 + config.thing_count, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        """[R, channels, bins, bins] -> [R, 1 + things, 2 * bins, 2 * bins]."""
        for convolution in self.convolutions:
            pooled = F.relu(convolution(pooled))
        return self.score(F.relu(self.doubling(pooled)))


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

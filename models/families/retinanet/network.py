"""The RetinaNet network as it is trained: backbone, pyramid P3 to P7, one class and one box tower."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.families.retinanet.config import CoarseSource, RetinanetConfig
from edgewise.models.layers.anchors import AnchorRule, pyramid_anchors
from edgewise.models.layers.batch_norm import freeze_batch_norm, set_epsilon
from edgewise.models.layers.fpn import NearestFeaturePyramid
from edgewise.models.layers.resnet import ResNet

PRIOR = 0.01
"""The probability of every class at the beginning."""


class Predictions(NamedTuple):
    """Of P3 to P7; A anchors a cell, outermost in the channels."""

    logits: tuple[Tensor, ...]
    """float32 [N, A * rows, h, w] each, class logits."""
    deltas: tuple[Tensor, ...]
    """float32 [N, 4 A, h, w] each, box regression against the anchors."""
    class_rows: tuple[int, ...]
    """The row of every class among the logits."""

    def class_logits(self) -> tuple[Tensor, ...]:
        """The logits of the classes alone, float32 [N, A * classes, h, w] each."""
        rows = torch.tensor(self.class_rows, device=self.logits[0].device)
        return tuple(
            logits.unflatten(1, (deltas.shape[1] // 4, -1)).index_select(2, rows).flatten(1, 2)
            for logits, deltas in zip(self.logits, self.deltas, strict=True)
        )


class CoarseLevels(nn.Module):
    """P6 and P7: 3x3 convolutions of stride 2, a ReLU between them."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(inputs, channels, 3, 2, 1)
        self.p7 = nn.Conv2d(channels, channels, 3, 2, 1)

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor]:
        p6 = self.p6(source)
        return p6, self.p7(F.relu(p6))


class Tower(nn.Module):
    """Convolutions with ReLU, and normalisation before it where there are groups; then one to the outputs.

    Keys: `hidden.{i}.0`, `hidden.{i}.1` (normalisation), `output`.
    """

    def __init__(self, config: RetinanetConfig, outputs: int) -> None:
        super().__init__()
        channels, groups = config.pyramid_channels, config.head_groups
        self.hidden = nn.ModuleList()
        for _ in range(config.head_convolutions):
            layers: list[nn.Module] = [nn.Conv2d(channels, channels, 3, 1, 1, bias=not groups)]
            if groups:
                layers.append(nn.GroupNorm(groups, channels))
            self.hidden.append(nn.Sequential(*layers, nn.ReLU()))
        self.output = nn.Conv2d(channels, outputs, 3, 1, 1)

    def forward(self, level: Tensor) -> Tensor:
        for layer in self.hidden:
            level = layer(level)
        return self.output(level)


class Retinanet(nn.Module):
    """Normalised RGB images float32 [N, 3, H, W] -> `Predictions`."""

    def __init__(self, config: RetinanetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.pyramid_channels
        stages = config.backbone.stage_channels[1:]
        self.backbone = ResNet(config.backbone)
        self.fpn = NearestFeaturePyramid(stages, channels)
        from_backbone = config.coarse_source is CoarseSource.BACKBONE
        self.coarse = CoarseLevels(stages[-1] if from_backbone else channels, channels)
        self.class_tower = Tower(config, config.anchors_per_cell * config.row_count)
        self.box_tower = Tower(config, config.anchors_per_cell * 4)
        set_epsilon(self.backbone, config.batch_norm_epsilon)
        self._initialise()

    def forward(self, images: Tensor) -> Predictions:
        levels = self.levels(images)
        logits, deltas = (tuple(map(tower, levels)) for tower in (self.class_tower, self.box_tower))
        return Predictions(logits, deltas, self.config.class_rows)

    def levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """P3 to P7, float32 [N, channels, h, w] each."""
        stages = self.backbone(images)[1:]
        levels = self.fpn(stages)
        from_backbone = self.config.coarse_source is CoarseSource.BACKBONE
        return (*levels, *self.coarse(stages[-1] if from_backbone else levels[-1]))

    def train(self, mode: bool = True) -> Retinanet:
        super().train(mode)
        if mode and self.config.freeze_batch_norm:
            freeze_batch_norm(self)
        if mode:
            self.backbone.freeze(self.config.frozen_stages)
        return self

    def _initialise(self) -> None:
        """As published: Kaiming-uniform (a = 1) in the pyramid, normal in the towers, a rare prior."""
        for module in (*self.fpn.modules(), *self.coarse.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                _zero(module.bias)
        for module in (*self.class_tower.modules(), *self.box_tower.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                _zero(module.bias)
        nn.init.constant_(_bias(self.class_tower), -math.log((1 - PRIOR) / PRIOR))
        self.backbone.initialise()


def level_anchors(config: RetinanetConfig) -> tuple[Tensor, ...]:
    """The anchors of each level, float32 [rows * columns * A, 4], corner form, input pixels."""
    return pyramid_anchors(
        config.level_sizes, config.strides, config.anchor_sizes, config.anchor_ratios, AnchorRule.TORCHVISION
    )


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)


def _bias(tower: Tower) -> Tensor:
    assert tower.output.bias is not None
    return tower.output.bias

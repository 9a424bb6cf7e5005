"""The RetinaFace network as it is trained: backbone, pyramid of three levels, context modules, heads.

Keys: `body.stage{1-3}.{i}.{0,1,3,4}` or those of `ResNet` under `body`; `pyramid.lateral.{i}`,
`pyramid.merge.{i}`; `context.{i}`; `heads.{classes,boxes,points}.{i}`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.families.retinaface.config import STRIDES, MobileNetConfig, RetinafaceConfig
from edgewise.models.layers.anchors import per_anchor
from edgewise.models.layers.resnet import ResNet, ResNetConfig


class Predictions(NamedTuple):
    """Of the three levels, the finest first; A priors a cell, outermost in the channels."""

    logits: tuple[Tensor, ...]
    """float32 [N, 2 A, h, w] each: background, face."""
    deltas: tuple[Tensor, ...]
    """float32 [N, 4 A, h, w] each, box regression against the priors."""
    points: tuple[Tensor, ...]
    """float32 [N, 2 K A, h, w] each, x and y of K points against the priors."""


def rows_of(levels: tuple[Tensor, ...], width: int) -> Tensor:
    """Maps of every level as rows [N, P, width], in the order of `priors`."""
    return torch.cat([per_anchor(level, width) for level in levels], dim=1)


def normalised(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution and its batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


def _activated(inputs: int, outputs: int, kernel: int, stride: int, slope: float) -> nn.Sequential:
    return nn.Sequential(*normalised(inputs, outputs, kernel, stride), _activation(slope))


def _activation(slope: float) -> nn.Module:
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


def _depthwise(inputs: int, outputs: int, stride: int, slope: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        _activation(slope),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        _activation(slope),
    )


class MobileNet(nn.Module):
    """MobileNet v1: images [N, 3, H, W] -> its three stages, strides 8, 16, 32."""

    def __init__(self, config: MobileNetConfig, slope: float) -> None:
        super().__init__()
        inputs = config.stem_width
        first: list[nn.Module] = [_activated(3, inputs, 3, 2, slope)]
        stages: list[nn.Sequential] = []
        for number, widths in enumerate(config.widths):
            blocks = [] if number else first
            for block, outputs in enumerate(widths):
                halves = block in (1, 3) if number == 0 else block == 0
                blocks.append(_depthwise(inputs, outputs, 2 if halves else 1, slope))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stage1, self.stage2, self.stage3 = stages

    @property
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        convolution = self.stage1[0][0]
        assert isinstance(convolution, nn.Conv2d)
        return convolution

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        first = self.stage1(images)
        second = self.stage2(first)
        return first, second, self.stage3(second)


class Pyramid(nn.Module):
    """Three stages -> three levels; the finer two pass a 3x3 convolution after the sum."""

    def __init__(self, stage_channels: tuple[int, ...], channels: int, slope: float) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_activated(inputs, channels, 1, 1, slope) for inputs in stage_channels)
        self.merge = nn.ModuleList(
            _activated(channels, channels, 3, 1, slope) for _ in range(len(stage_channels) - 1)
        )

    def forward(self, stages: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        laterals = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        levels = [laterals[-1]]
        for lateral, merge in zip(reversed(laterals[:-1]), reversed(list(self.merge)), strict=True):
            levels.insert(0, merge(lateral + F.interpolate(levels[0], scale_factor=2.0, mode="nearest")))
        return tuple(levels)


class Context(nn.Module):
    """Fields of 3, 5 and 7 cells side by side (SSH, Najibi et al., 2017), by 3x3 convolutions."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        quarter = channels // 4
        self.three = normalised(channels, channels // 2, 3)
        self.five_first = _activated(channels, quarter, 3, 1, slope)
        self.five = normalised(quarter, quarter, 3)
        self.seven_first = _activated(quarter, quarter, 3, 1, slope)
        self.seven = normalised(quarter, quarter, 3)

    def forward(self, level: Tensor) -> Tensor:
        first = self.five_first(level)
        fields = self.three(level), self.five(first), self.seven(self.seven_first(first))
        return F.relu(torch.cat(fields, dim=1))


class Retinaface(nn.Module):
    """Normalised BGR images float32 [N, 3, H, W] -> `Predictions`."""

    def __init__(self, config: RetinafaceConfig) -> None:
        super().__init__()
        slope, channels, cell = config.negative_slope, config.pyramid_channels, config.priors_per_cell
        if isinstance(config.backbone, ResNetConfig):
            self.body: ResNet | MobileNet = ResNet(config.backbone)
            self.body.initialise()
        else:
            self.body = MobileNet(config.backbone, slope)
        self.pyramid = Pyramid(config.level_channels, channels, slope)
        self.context = nn.ModuleList(Context(channels, slope) for _ in STRIDES)
        widths = {"classes": 2, "boxes": 4, "points": 2 * config.point_count}
        self.heads = nn.ModuleDict(
            {
                name: nn.ModuleList(nn.Conv2d(channels, cell * width, 1) for _ in STRIDES)
                for name, width in widths.items()
            }
        )

    def forward(self, images: Tensor) -> Predictions:
        stages = self.body(images)[-len(STRIDES) :]
        levels = [context(level) for context, level in zip(self.context, self.pyramid(stages), strict=True)]
        logits, deltas, points = (
            tuple(convolution(level) for convolution, level in zip(head, levels, strict=True))
            for head in self.heads.values()
        )
        return Predictions(logits, deltas, points)


def priors(config: RetinafaceConfig) -> Tensor:
    """float32 [P, 4], cx, cy, w, h in input pixels: level by level, row by row, the sizes of a cell last."""
    levels = []
    for (rows, columns), stride, sizes in zip(config.level_sizes, STRIDES, config.prior_sizes, strict=True):
        y, x = torch.meshgrid(
            (torch.arange(rows) + 0.5) * stride, (torch.arange(columns) + 0.5) * stride, indexing="ij"
        )
        centres = torch.stack((x, y), dim=-1)[:, :, None].expand(-1, -1, len(sizes), -1)
        sides = torch.tensor(sizes, dtype=torch.float32)[:, None].expand(rows, columns, -1, 2)
        levels.append(torch.cat((centres, sides), dim=-1).reshape(-1, 4))
    return torch.cat(levels)

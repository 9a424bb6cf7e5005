"""The CornerNet network as it is trained: hourglasses, corner pooling behind each, heads for both corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.families.cornernet.config import CornernetConfig
from edgewise.models.layers.directional_max import max_from, max_until
from edgewise.models.layers.residual_hourglass import Convolution, ResidualHourglasses

HEATMAP_BIAS = -2.19
"""Of the last layer at the beginning: every class has the probability 0.1."""

_ROWS, _COLUMNS = 2, 3


class Corners(NamedTuple):
    """Of upper left or lower right corners."""

    heat: Tensor
    """float32 [N, classes, h, w], logits: how sure a corner lies in a cell."""
    tag: Tensor
    """float32 [N, 1, h, w], embedding: near that of the other corner of the same thing."""
    offset: Tensor
    """float32 [N, 2, h, w], x and y of the corner within its cell."""


class Predictions(NamedTuple):
    """Of one hourglass."""

    upper_left: Corners
    lower_right: Corners


class CornerPooling(nn.Module):
    """What a corner sees along the two edges that meet in it, added to what is there.

    Keys: `p1_conv1`, `p2_conv1`, `p_conv1`, `p_bn1`, `conv1`, `bn1`, `conv2`.
    """

    def __init__(self, channels: int, pooled: int, running: Callable[[Tensor, int], Tensor]) -> None:
        """`running`: the maximum towards the thing, from each place along an axis."""
        super().__init__()
        self.running = running
        self.p1_conv1 = Convolution(channels, pooled, 3)
        self.p2_conv1 = Convolution(channels, pooled, 3)
        self.p_conv1 = nn.Conv2d(pooled, channels, 3, 1, 1, bias=False)
        self.p_bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = Convolution(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        edges = self.running(self.p1_conv1(x), _ROWS) + self.running(self.p2_conv1(x), _COLUMNS)
        return self.conv2(F.relu(self.p_bn1(self.p_conv1(edges)) + self.bn1(self.conv1(x))))


class Cornernet(nn.Module):
    """float32 [N, 3, H, W] -> predictions of every hourglass, the last one's last.

    Keys: those of the hourglasses, and for each stack `{tl,br}_cnvs`, `{tl,br}_{heats,tags,regrs}`.
    """

    def __init__(self, config: CornernetConfig) -> None:
        super().__init__()
        self.backbone = ResidualHourglasses(config.backbone)
        stacks, width = range(config.backbone.stacks), config.backbone.widths[0]
        for corner, running in (("tl", max_from), ("br", max_until)):
            pooling = (CornerPooling(width, config.pool_channels, running) for _ in stacks)
            self.add_module(f"{corner}_cnvs", nn.ModuleList(pooling))
            for head, outputs in (("heats", config.class_count), ("tags", 1), ("regrs", 2)):
                heads = (_head(width, config.head_channels, outputs) for _ in stacks)
                self.add_module(f"{corner}_{head}", nn.ModuleList(heads))
        self._initialise()

    def forward(self, images: Tensor) -> list[Predictions]:
        maps = self.backbone(images)
        return [self.predictions(features, stack) for stack, features in enumerate(maps)]

    def predictions(self, features: Tensor, stack: int) -> Predictions:
        """What a stack's heads say of its map."""
        return Predictions(*(self._corners(corner, features, stack) for corner in ("tl", "br")))

    def _corners(self, corner: str, features: Tensor, stack: int) -> Corners:
        seen = getattr(self, f"{corner}_cnvs")[stack](features)
        return Corners(
            *(getattr(self, f"{corner}_{head}")[stack](seen) for head in ("heats", "tags", "regrs"))
        )

    def _initialise(self) -> None:
        self.backbone.initialise()
        for heads in (self.tl_heats, self.br_heats):
            for head in heads:
                nn.init.constant_(head[-1].bias, HEATMAP_BIAS)


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Convolution(inputs, hidden, 3, norm=False), nn.Conv2d(hidden, outputs, 1))

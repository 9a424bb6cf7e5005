"""The Stacked Hourglass network as it is trained: a stem, then hourglasses that each emit heatmaps.

Both published forms are this one network; see `layouts.py` for how their keys map to these.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.families.hourglass.config import HourglassConfig


class Residual(nn.Module):
    """Pre-activation bottleneck: three times normalisation, ReLU, convolution (1x1, 3x3, 1x1); plus input.

    The middle is half as wide as the output. Where the widths of input and output differ, the raw input is
    projected by a 1x1 convolution; with `unused_projection` the block owns one elsewhere too, frozen and
    without effect.
    """

    def __init__(self, inputs: int, outputs: int, unused_projection: bool) -> None:
        super().__init__()
        middle = outputs // 2
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, middle, 1)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1)
        self.projects = inputs != outputs
        self.projection = nn.Conv2d(inputs, outputs, 1) if self.projects or unused_projection else None
        if self.projection is not None:
            self.projection.requires_grad_(self.projects)

    def forward(self, features: Tensor) -> Tensor:
        refined = self.conv1(F.relu(self.bn1(features)))
        refined = self.conv2(F.relu(self.bn2(refined)))
        refined = self.conv3(F.relu(self.bn3(refined)))
        kept = features if self.projection is None or not self.projects else self.projection(features)
        return refined + kept


def residuals(config: HourglassConfig) -> nn.Sequential:
    """The residual blocks of one place in a stack; they keep size and width."""
    channels = config.channels
    return nn.Sequential(
        *(Residual(channels, channels, config.unused_projections) for _ in range(config.blocks))
    )


class HourglassLevel(nn.Module):
    """One resolution of an hourglass: what stays at it, what goes down from it, what comes back up to it."""

    def __init__(self, config: HourglassConfig) -> None:
        super().__init__()
        self.skip = residuals(config)
        self.down = residuals(config)
        self.up = residuals(config)


class Hourglass(nn.Module):
    """[N, C, h, w] -> the same shape: down `depth` poolings and up again, a skip path at every resolution."""

    def __init__(self, config: HourglassConfig) -> None:
        super().__init__()
        self.levels = nn.ModuleList(HourglassLevel(config) for _ in range(config.depth))
        self.bottom = residuals(config)

    def forward(self, features: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level in self.levels:
            skips.append(level.skip(features))
            features = level.down(F.max_pool2d(features, 2))
        features = self.bottom(features)
        for level, skip in zip(reversed(self.levels), reversed(skips), strict=True):
            features = skip + double(level.up(features))
        return features


def double(features: Tensor) -> Tensor:
    """Nearest-neighbour doubling; the size is a constant in an exported graph."""
    height, width = features.shape[-2:]
    return F.interpolate(features, size=(2 * height, 2 * width), mode="nearest")


class Stack(nn.Module):
    """An hourglass with its heatmaps, and the way back of both into the features, except from the last."""

    def __init__(self, config: HourglassConfig, last: bool) -> None:
        super().__init__()
        channels = config.channels
        self.hourglass = Hourglass(config)
        self.residual = residuals(config)
        self.features = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())
        self.heatmaps = nn.Conv2d(channels, config.keypoint_count, 1)
        self.merge_features = None if last else nn.Conv2d(channels, channels, 1)
        self.merge_heatmaps = None if last else nn.Conv2d(config.keypoint_count, channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, C, h, w] -> (the next stack's features, heatmaps [N, K, h, w])."""
        refined = self.features(self.residual(self.hourglass(features)))
        heatmaps = self.heatmaps(refined)
        if self.merge_features is not None and self.merge_heatmaps is not None:
            features = features + self.merge_features(refined) + self.merge_heatmaps(heatmaps)
        return features, heatmaps


class StackedHourglass(nn.Module):
    """Normalised RGB images float32 [N, 3, H, W] -> heatmaps float32 [N, K, H/4, W/4] of every stack.

    Cell (row i, column j) of a heatmap stands for the point (x, y) = (4 (j + 0.5), 4 (i + 0.5)) of the input,
    in continuous pixels; trained values run from 0 to a peak of 1.
    """

    def __init__(self, config: HourglassConfig) -> None:
        super().__init__()
        self.config = config
        quarter, half, full = config.channels // 4, config.channels // 2, config.channels
        unused = config.unused_projections
        self.stem = nn.Sequential(
            nn.Conv2d(3, quarter, 7, stride=2, padding=3), nn.BatchNorm2d(quarter), nn.ReLU()
        )
        self.widen = Residual(quarter, half, unused)
        inner = full if config.widens_early else half
        self.refine = Residual(half, inner, unused)
        self.widen_again = Residual(inner, full, unused)
        self.stacks = nn.ModuleList(
            Stack(config, last=index == config.stacks - 1) for index in range(config.stacks)
        )
        for stack in self.stacks:
            # Targets are nearly everywhere 0: a network that begins there learns peaks several times sooner.
            nn.init.normal_(stack.heatmaps.weight, std=1e-3)
            nn.init.zeros_(stack.heatmaps.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = F.max_pool2d(self.widen(self.stem(images)), 2)
        features = self.widen_again(self.refine(features))
        every: list[Tensor] = []
        for stack in self.stacks:
            features, heatmaps = stack(features)
            every.append(heatmaps)
        return tuple(every)

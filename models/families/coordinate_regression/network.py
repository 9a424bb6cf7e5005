"""The networks as they are trained: normalised crops in, points as shares of the crop out.

Every one ends in a layer that adds up what lies at known places, so its numbers are positions, not maps.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.families.coordinate_regression.config import (
    DeepPoseNetwork,
    MobileNetNetwork,
    PfldNetwork,
    Pooling,
    RegressionConfig,
)
from edgewise.models.layers.inverted_residual import InvertedResidual, unit
from edgewise.models.layers.resnet import ResNet

MIDDLE = 0.5
"""Where every point begins: a share of the crop."""

Size = tuple[int, int]


def mean_of(features: Tensor) -> Tensor:
    """[N, C, h, w] -> [N, C]: the mean over all places."""
    return F.avg_pool2d(features, list(features.shape[-2:])).flatten(1)


class DeepPose(nn.Module):
    """float32 [N, 3, H, W] -> float32 [N, K, 2]: a ResNet, its last map or that map's mean, one layer."""

    def __init__(self, network: DeepPoseNetwork, size: Size, points: int) -> None:
        super().__init__()
        self.pooled = network.pooling is Pooling.AVERAGE
        self.backbone = ResNet(network.backbone)
        self.backbone.initialise()
        places = 1 if self.pooled else size[0] // 32 * (size[1] // 32)
        self.fc = nn.Linear(network.backbone.stage_channels[-1] * places, 2 * points)
        _begin_in_the_middle(self.fc)

    @property
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        return self.backbone.stem

    def forward(self, images: Tensor) -> Tensor:
        last = self.backbone(images)[-1]
        features = mean_of(last) if self.pooled else last.flatten(1)
        return self.fc(features).unflatten(1, (-1, 2))


class MobileNetGdconv(nn.Module):
    """float32 [N, 3, H, W] -> float32 [N, K, 2]: MobileNetV2's features, a depthwise convolution as large as
    their map, a 1x1 convolution; both with batch normalisation and without activation.
    """

    def __init__(self, network: MobileNetNetwork, size: Size, points: int) -> None:
        super().__init__()
        channels = _rounded(32 * network.width)
        blocks: list[nn.Module] = [unit(3, channels, 3, 2, nn.ReLU6)]
        for expansion, width, count, stride in _MOBILE_STAGES:
            outputs = _rounded(width * network.width)
            for number in range(count):
                blocks.append(InvertedResidual(channels, outputs, 1 if number else stride, expansion))
                channels = outputs
        blocks.append(unit(channels, network.last_channels, 1, 1, nn.ReLU6))
        self.features = nn.Sequential(*blocks)
        last, kernel = network.last_channels, (size[0] // 32, size[1] // 32)
        self.weigh = nn.Sequential(
            nn.Conv2d(last, last, kernel, groups=last, bias=False), nn.BatchNorm2d(last)
        )
        self.points = nn.Sequential(nn.Conv2d(last, 2 * points, 1, bias=False), nn.BatchNorm2d(2 * points))
        nn.init.constant_(cast(nn.BatchNorm2d, self.points[1]).bias, MIDDLE)

    @property
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        return cast(nn.Conv2d, cast(nn.Sequential, self.features[0])[0])

    def forward(self, images: Tensor) -> Tensor:
        return self.points(self.weigh(self.features(images))).flatten(1).unflatten(1, (-1, 2))


_MOBILE_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks, stride of the first: MobileNetV2's stages."""


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth smaller."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


class Pfld(nn.Module):
    """float32 [N, 3, H, W] -> float32 [N, K, 2]: the last layer reads means at an eighth and a sixteenth of
    the input's size, and a convolution over the whole of the latter.
    """

    def __init__(self, network: PfldNetwork, size: Size, points: int) -> None:
        super().__init__()
        narrow, wide = network.channels, 2 * network.channels
        first, second, third = network.scales
        early, late = network.depths
        self.stem_unit = unit(3, narrow, 3, 2, nn.ReLU)
        self.second_unit = unit(narrow, narrow, 3, 1, nn.ReLU)
        self.quarter = nn.Sequential(
            InvertedResidual(narrow, narrow, 2, 2, nn.ReLU, residual=False),
            *(InvertedResidual(narrow, narrow, 1, 2, nn.ReLU) for _ in range(early - 1)),
        )
        self.halving = InvertedResidual(narrow, wide, 2, 2, nn.ReLU, residual=False)
        self.eighth = nn.Sequential(
            InvertedResidual(wide, wide, 1, 4, nn.ReLU, residual=False),
            *(InvertedResidual(wide, wide, 1, 4, nn.ReLU) for _ in range(late - 1)),
        )
        self.narrowing = InvertedResidual(wide, first, 1, 2, nn.ReLU, residual=False)
        self.sixteenth = unit(first, second, 3, 2, nn.ReLU)
        self.whole = nn.Conv2d(second, third, (size[0] // 16, size[1] // 16))
        self.fc = nn.Linear(first + second + third, 2 * points)
        _begin_in_the_middle(self.fc)

    @property
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        return cast(nn.Conv2d, self.stem_unit[0])

    def forward(self, images: Tensor) -> Tensor:
        return self.points(self.early(images))

    def early(self, images: Tensor) -> Tensor:
        """What `AuxiliaryNetwork` reads: float32 [N, channels, H / 4, W / 4]."""
        return self.quarter(self.second_unit(self.stem_unit(images)))

    def points(self, early: Tensor) -> Tensor:
        """From `early` to the points."""
        eighth = self.narrowing(self.eighth(self.halving(early)))
        sixteenth = self.sixteenth(eighth)
        whole = F.relu(self.whole(sixteenth)).flatten(1)
        scales = torch.cat([mean_of(eighth), mean_of(sixteenth), whole], dim=1)
        return self.fc(scales).unflatten(1, (-1, 2))


class AuxiliaryNetwork(nn.Module):
    """Pitch, yaw and roll in radians, float32 [N, 3], of PFLD's early features at 112x112 [N, C, 28, 28].

    It has a part in training by `losses.pfld_loss` alone; nothing of it is deployed.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _biased_unit(channels, 128, 3, 2, 1),
            _biased_unit(128, 128, 3, 1, 1),
            _biased_unit(128, 32, 3, 2, 1),
            _biased_unit(32, 128, 7, 1, 1),
            nn.MaxPool2d(3),
        )
        self.fc1 = nn.Linear(128, 32)
        self.fc2 = nn.Linear(32, 3)

    def forward(self, early: Tensor) -> Tensor:
        return self.fc2(self.fc1(self.features(early).flatten(1)))


def _biased_unit(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _begin_in_the_middle(layer: nn.Linear) -> None:
    nn.init.uniform_(layer.weight, -1e-2, 1e-2)
    nn.init.constant_(layer.bias, MIDDLE)


Regressor = DeepPose | MobileNetGdconv | Pfld


def build(config: RegressionConfig) -> Regressor:
    """The network of a config, with fresh weights."""
    network, size, points = config.network, config.input_size, config.keypoint_count
    if isinstance(network, DeepPoseNetwork):
        return DeepPose(network, size, points)
    if isinstance(network, MobileNetNetwork):
        return MobileNetGdconv(network, size, points)
    return Pfld(network, size, points)

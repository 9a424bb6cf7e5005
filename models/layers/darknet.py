"""DarkNet-53 (Redmon and Farhadi, YOLOv3, 2018): convolution, batch normalisation, leaky ReLU 0.1.

Keys follow the published YOLACT layout except for the stem, which that layout calls `_preconv`.
"""

from __future__ import annotations

import msgspec
from torch import Tensor, nn

from edgewise.models.layers.resnet import RESIDUAL_GAIN

LEAKY_SLOPE = 0.1


class DarkNetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="darknet", kw_only=True):
    """Residual blocks of each stage and channels of the stem; every stage doubles the channels."""

    depths: tuple[int, ...] = (1, 2, 8, 8, 4)
    stem_width: int = 32

    @property
    def stage_channels(self) -> tuple[int, ...]:
        return tuple(self.stem_width * 2 ** (stage + 1) for stage in range(len(self.depths)))

    @property
    def stage_strides(self) -> tuple[int, ...]:
        return tuple(2 ** (stage + 1) for stage in range(len(self.depths)))


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(LEAKY_SLOPE),
    )


class DarkNetBlock(nn.Module):
    """1x1 to half the channels, 3x3 back, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _unit(channels, channels // 2, 1)
        self.conv2 = _unit(channels // 2, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.conv2(self.conv1(features))


class DarkNet(nn.Module):
    """[N,3,H,W] -> the stages, [N, stage_channels[i], ceil(H/s), ceil(W/s)], s = 2, 4, .. 32."""

    def __init__(self, config: DarkNetConfig) -> None:
        super().__init__()
        self.preconv = _unit(3, config.stem_width, 3)
        self.layers = nn.ModuleList()
        inputs = config.stem_width
        for depth, outputs in zip(config.depths, config.stage_channels, strict=True):
            blocks = [DarkNetBlock(outputs) for _ in range(depth)]
            self.layers.append(nn.Sequential(_unit(inputs, outputs, 3, 2), *blocks))
            inputs = outputs

    @property
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        stem = self.preconv[0]
        assert isinstance(stem, nn.Conv2d)
        return stem

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.preconv(images)
        stages = []
        for layer in self.layers:
            features = layer(features)
            stages.append(features)
        return tuple(stages)

    def initialise(self) -> None:
        """He initialisation for the leaky ReLU; residual branches start at `RESIDUAL_GAIN`."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, a=LEAKY_SLOPE, mode="fan_out", nonlinearity="leaky_relu"
                )
            elif isinstance(module, DarkNetBlock):
                nn.init.constant_(module.conv2[1].weight, RESIDUAL_GAIN)

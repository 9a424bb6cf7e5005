"""The CenterNet network as it is trained: backbone, neck, and a small head for each map."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from edgewise.models.families.centernet.config import CenternetConfig, DeconvolutionNeck
from edgewise.models.families.centernet.necks import Deconvolutions, Enlarging, PyramidAggregation
from edgewise.models.layers.deform_conv import ModulatedDeformConv
from edgewise.models.layers.dla import Dla, DlaConfig
from edgewise.models.layers.resnet import ResNet

HEATMAP_BIAS = -2.19
"""Of the last layer at the beginning: every class has the probability 0.1."""


class Predictions(NamedTuple):
    """A cell is 4 input pixels wide and high."""

    heat: Tensor
    """float32 [N, classes, h, w], logits: how sure a thing's centre lies in a cell."""
    size: Tensor
    """float32 [N, 2, h, w], width and height in cells."""
    offset: Tensor
    """float32 [N, 2, h, w], x and y of the centre within its cell."""


class Centernet(nn.Module):
    """float32 [N, 3, H, W] -> predictions on maps of H / 4 x W / 4.

    Keys: `backbone`, `neck`, and of the heads `hm`, `wh`, `reg` the layers 0 and 2.
    """

    def __init__(self, config: CenternetConfig) -> None:
        super().__init__()
        self.backbone: ResNet | Dla
        if isinstance(config.backbone, DlaConfig):
            self.backbone = Dla(config.backbone)
        else:
            self.backbone = ResNet(config.backbone)
        channels = config.backbone.stage_channels
        self.neck: nn.Module
        if isinstance(config.neck, DeconvolutionNeck):
            self.neck = Deconvolutions(config.neck, channels)
        else:
            self.neck = PyramidAggregation(config.neck, channels)
        self.hm = _head(config, config.class_count)
        self.wh = _head(config, 2)
        self.reg = _head(config, 2)
        self._initialise()

    def forward(self, images: Tensor) -> Predictions:
        features = self.neck(self.backbone(images))
        return Predictions(self.hm(features), self.wh(features), self.reg(features))

    def _initialise(self) -> None:
        self.backbone.initialise()
        for module in self.neck.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and not isinstance(module, Enlarging):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for module in self.neck.modules():
            if isinstance(module, ModulatedDeformConv):
                module.reset_taps()
        for head in (self.hm, self.wh, self.reg):
            last = head[-1]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            nn.init.constant_(last.bias, HEATMAP_BIAS if head is self.hm else 0.0)


def _head(config: CenternetConfig, outputs: int) -> nn.Sequential:
    hidden = config.head_channels
    return nn.Sequential(
        nn.Conv2d(config.map_channels, hidden, 3, 1, 1), nn.ReLU(), nn.Conv2d(hidden, outputs, 1)
    )

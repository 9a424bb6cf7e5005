"""SimpleBaseline: a ResNet, three transposed convolutions back to stride 4, a heatmap for each keypoint."""

from __future__ import annotations

import msgspec
from torch import Tensor, nn

from edgewise.models.families.family import Family, ModelEntry, Named, PublishedFigure
from edgewise.models.families.heatmap_pose import recipes
from edgewise.models.families.heatmap_pose.config import DARK, PoseConfig, dark_targets, rounded_targets
from edgewise.models.families.heatmap_pose.layouts import SIMPLE_BASELINE
from edgewise.models.families.heatmap_pose.pose import (
    PoseDeploy,
    loss,
    manifest,
    preprocessing,
    raw_heads,
    start_flat,
)
from edgewise.models.layers.resnet import ResNet, ResNetConfig
from edgewise.runtime.contract.parts import PositiveInt
from edgewise.runtime.contract.preprocessing import ColourOrder


class SimpleBaselineConfig(PoseConfig, frozen=True):
    """ResNet-50 for COCO at 256x192."""

    colour: ColourOrder = ColourOrder.BGR
    backbone: ResNetConfig = ResNetConfig()
    deconvolution_width: PositiveInt = 256
    """Channels of the three transposed convolutions."""


class SimpleBaseline(nn.Module):
    """Normalised images float32 [N, 3, H, W] -> heatmaps float32 [N, K, H/4, W/4]."""

    def __init__(self, config: SimpleBaselineConfig) -> None:
        super().__init__()
        self.backbone = ResNet(config.backbone)
        self.backbone.initialise()
        width = config.deconvolution_width
        layers: list[nn.Module] = []
        for inputs in (config.backbone.stage_channels[-1], width, width):
            up = nn.ConvTranspose2d(inputs, width, 4, 2, 1, bias=False)
            # Of a kernel of 4x4 and a stride of 2 four taps reach an output.
            nn.init.normal_(up.weight, std=(2 / (4 * inputs)) ** 0.5)
            layers += [up, nn.BatchNorm2d(width), nn.ReLU()]
        self.deconvolutions = nn.Sequential(*layers)
        self.heatmaps = nn.Conv2d(width, config.keypoint_count, 1)
        start_flat(self.heatmaps)

    @property
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        return self.backbone.stem

    def forward(self, images: Tensor) -> Tensor:
        return self.heatmaps(self.deconvolutions(self.backbone(images)[-1]))


TINY = SimpleBaselineConfig(
    input_size=(128, 96),
    colour=ColourOrder.RGB,
    backbone=ResNetConfig(depths=(2, 3, 3, 1), widths=(16, 32, 64, 80), expansion=2, stem_width=16),
    deconvolution_width=36,
    conventions=DARK,
    targets=dark_targets(1.0),
    loss_weight=1000.0,
)
"""A toy of the same make for COCO's keypoints: DARK's conventions, the backbone of `keypoint-rcnn-tiny`."""

MICRO = SimpleBaselineConfig(
    input_size=(32, 64),
    keypoint_count=3,
    backbone=ResNetConfig(depths=(1, 1, 1, 1), widths=(4, 4, 8, 8), expansion=2, stem_width=4),
    deconvolution_width=8,
    targets=rounded_targets(1),
)
"""The smallest that has every part: for tests."""

FAMILY = Family(
    name="simple-baseline",
    task="keypoints",
    micro=MICRO,
    named=Named("SimpleBaseline finds the keypoints of one class", things=1, keypoints="keypoint_count"),
    build=SimpleBaseline,
    loss=loss,
    deploy=PoseDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=(SIMPLE_BASELINE,),
)

_LICENCE = "MIT (of the code they were trained with; the weights state no terms of their own)"


def _published(value: float) -> tuple[PublishedFigure, ...]:
    repository = "microsoft/human-pose-estimation.pytorch"
    source = f"README of {repository}; with the flip test, people of a detector of 0.564 AP"
    return (PublishedFigure("OKS AP", value, "COCO val2017", source),)


R50 = SimpleBaselineConfig()

ENTRIES = (
    ModelEntry("pose-resnet50-256x192", FAMILY, R50, recipes.SIMPLE_BASELINE, _LICENCE, _published(0.704)),
    ModelEntry(
        "pose-resnet50-384x288",
        FAMILY,
        msgspec.structs.replace(R50, input_size=(384, 288), targets=rounded_targets(3)),
        recipes.SIMPLE_BASELINE,
        _LICENCE,
        _published(0.722),
    ),
    ModelEntry("simple-baseline-tiny", FAMILY, TINY, recipes.TINY),
)

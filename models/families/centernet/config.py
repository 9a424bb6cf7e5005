"""What distinguishes one CenterNet from another: all sizes, thresholds and conventions, as frozen structs."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from edgewise.models.families.config import Config, Positive, TopCount
from edgewise.models.layers.dla import DlaConfig
from edgewise.models.layers.image_input import ImageInput
from edgewise.models.layers.resnet import ResNetConfig
from edgewise.runtime.contract.parts import Fraction, NonNegative, PositiveInt
from edgewise.runtime.contract.preprocessing import ColourOrder

STRIDE = 4
"""Input pixels from cell to cell of the maps."""


class DeconvolutionNeck(Config, frozen=True, tag="deconvolution"):
    """The last stage alone, doubled three times: a 3x3 convolution and a transposed one each time."""

    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (256, 128, 64)
    deformable: bool = True
    """The 3x3 convolutions are modulated deformable ones (DCNv2)."""


class AggregationNeck(Config, frozen=True, tag="aggregation"):
    """All stages, aggregated from the coarsest to the finest (the neck of DLA-34)."""

    deformable: bool = True
    """Its convolutions are modulated deformable ones (DCNv2)."""


class LossConfig(Config, frozen=True):
    """Weights of the terms, and the focal loss of the heatmaps."""

    size: NonNegative = 0.1
    offset: NonNegative = 1.0
    focal_alpha: NonNegative = 2.0
    """A prediction p where the target is 1 weighs (1 - p)^alpha, elsewhere p^alpha,"""
    focal_beta: NonNegative = 4.0
    """and there (1 - target)^beta besides."""
    least_overlap: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.7
    """IoU that a box with both corners this far off still has: the radius of a target's peak."""


class CenternetConfig(Config, frozen=True):
    """One CenterNet. The defaults are the published ResNet-18 with deformable convolutions, on COCO."""

    input_size: tuple[PositiveInt, PositiveInt] = (512, 512)
    """Height, width; multiples of 32."""
    keep_size: bool = False
    """Frames keep their size and are padded to `input_size` (the published test), not scaled to it."""
    class_count: PositiveInt = 80
    backbone: ResNetConfig | DlaConfig = msgspec.field(
        default_factory=lambda: ResNetConfig(basic=True, depths=(2, 2, 2, 2), expansion=1)
    )
    neck: DeconvolutionNeck | AggregationNeck = DeconvolutionNeck()
    head_channels: PositiveInt = 64
    """Of the hidden layer of each head."""
    mean: tuple[float, float, float] = (0.40789654, 0.44719302, 0.47026115)
    """BGR, of pixels / 255, subtracted first."""
    std: tuple[Positive, Positive, Positive] = (0.28863828, 0.27408164, 0.27809835)
    """BGR, divided by."""
    losses: LossConfig = LossConfig()
    slots: TopCount = 100
    score_threshold: Fraction = 0.0
    """Peaks that score more become boxes."""

    def __post_init__(self) -> None:
        if any(side % 32 for side in self.input_size):
            raise ValueError(f"input_size {self.input_size} must be multiples of 32")

    @property
    def image_input(self) -> ImageInput:
        """What the backbone reads of a frame."""
        return ImageInput(ColourOrder.BGR, scale=255.0, mean=self.mean, std=self.std)

    @property
    def map_size(self) -> tuple[int, int]:
        """(rows, columns) of the maps."""
        return self.input_size[0] // STRIDE, self.input_size[1] // STRIDE

    @property
    def map_channels(self) -> int:
        """Of the map that the heads read."""
        if isinstance(self.neck, DeconvolutionNeck):
            return self.neck.channels[-1]
        return self.backbone.stage_channels[0]


RESNET18 = CenternetConfig()

RESNET101 = CenternetConfig(backbone=ResNetConfig(depths=(3, 4, 23, 3)))

DLA34 = CenternetConfig(backbone=DlaConfig(), neck=AggregationNeck(), head_channels=256)

TINY = CenternetConfig(
    input_size=(192, 192),
    class_count=6,
    backbone=ResNetConfig(depths=(2, 3, 3, 1), widths=(16, 32, 64, 80), expansion=2, stem_width=16),
    neck=AggregationNeck(deformable=False),
    head_channels=48,
)
"""The backbone of retinanet-tiny with DLA's neck, for scenes of 192x192."""

MICRO = CenternetConfig(
    input_size=(64, 96),
    class_count=3,
    backbone=DlaConfig(widths=(4, 4, 8, 8, 12, 12)),
    neck=AggregationNeck(),
    head_channels=8,
    slots=40,
)
"""The smallest that has every part: for tests."""

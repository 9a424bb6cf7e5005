"""What distinguishes one Stacked Hourglass from another: sizes, targets and loss, as frozen structs."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from edgewise.models.families.config import Config, Positive
from edgewise.models.families.heatmap_targets import Centre, TargetConfig
from edgewise.models.layers.image_input import ImageInput
from edgewise.runtime.contract.parts import PositiveInt
from edgewise.runtime.contract.postprocessing import HeatmapDecoding
from edgewise.runtime.contract.preprocessing import ColourOrder, CropCorners

STRIDE = 4
"""Network pixels a heatmap cell, along either axis: a convolution of stride 2, then a pooling."""


class StackReduction(enum.Enum):
    SUM = "sum"
    MEAN = "mean"


class LossConfig(Config, frozen=True):
    weight: Positive = 0.5
    """Multiplies the mean squared error of every stack."""
    over_stacks: StackReduction = StackReduction.SUM


class HourglassConfig(Config, frozen=True):
    """One Stacked Hourglass with 8 stacks. `published` and `princeton` are the published forms."""

    input_size: tuple[PositiveInt, PositiveInt] = (256, 256)
    """Height, width; multiples of 4 * 2^depth."""
    keypoint_count: PositiveInt = 16
    stacks: PositiveInt = 8
    depth: PositiveInt = 4
    """Poolings inside an hourglass."""
    blocks: PositiveInt = 1
    """Residual blocks at each place of an hourglass and behind it."""
    channels: PositiveInt = 256
    """Of the features; the stem begins with a quarter of them."""
    widens_early: bool = False
    """The stem reaches all channels in its second residual block; its third keeps them. Otherwise the second
    keeps half of them, and the third doubles."""
    unused_projections: bool = False
    """Every residual block owns a projection of its input, even where none is needed and none is used."""
    mean: tuple[float, float, float] = (0.4404, 0.4440, 0.4327)
    """RGB, subtracted from values in 0..1. Nothing is divided by a standard deviation."""
    decoding: HeatmapDecoding = HeatmapDecoding.QUARTER_PIXEL
    """How points are read off the heatmaps."""
    padding: Annotated[float, Meta(ge=1.0)] = 1.25
    """The crop is the person's box enlarged by this."""
    corners: CropCorners = CropCorners.EXACT
    """Where the crop's corners lie."""
    targets: TargetConfig = TargetConfig()
    losses: LossConfig = LossConfig()

    def __post_init__(self) -> None:
        multiple = STRIDE * 2**self.depth
        if any(side % multiple for side in self.input_size):
            raise ValueError(
                f"input_size {self.input_size} must be multiples of {multiple}: an hourglass of depth "
                f"{self.depth} halves its stride-{STRIDE} features {self.depth} times"
            )
        if self.channels % 4:
            raise ValueError(f"channels {self.channels} must be a multiple of 4")

    @property
    def image_input(self) -> ImageInput:
        """What the stem reads of a crop."""
        return ImageInput(ColourOrder.RGB, scale=255.0, mean=self.mean)

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(height, width) of the heatmaps."""
        return self.input_size[0] // STRIDE, self.input_size[1] // STRIDE


def published(stacks: int) -> HourglassConfig:
    """The form whose weights for MPII are published with 1, 2 and 8 stacks: mean colour, joint weights."""
    return HourglassConfig(stacks=stacks, widens_early=True, corners=CropCorners.WHOLE_PIXELS_FROM_ONE)


def princeton(stacks: int) -> HourglassConfig:
    """The form of the paper's authors, published with 2 and 8 stacks: idle projections, no mean colour."""
    return HourglassConfig(
        stacks=stacks,
        unused_projections=True,
        decoding=HeatmapDecoding.QUARTER_ALWAYS,
        corners=CropCorners.WHOLE_PIXELS,
        mean=(0.0, 0.0, 0.0),
        targets=TargetConfig(radius=4),
        losses=LossConfig(weight=1.0, over_stacks=StackReduction.MEAN),
    )


TINY = HourglassConfig(
    input_size=(128, 96),
    keypoint_count=17,
    stacks=2,
    depth=3,
    channels=64,
    targets=TargetConfig(sigma=1.0, centre=Centre.SUBPIXEL, radius=None),
    losses=LossConfig(weight=1000.0),
)
"""A toy of the same make for COCO's keypoints."""

MICRO = msgspec.structs.replace(TINY, input_size=(32, 48), keypoint_count=3, depth=2, channels=8)
"""The smallest that has every part: for tests."""

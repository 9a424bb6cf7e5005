"""What distinguishes one CornerNet from another: all sizes, thresholds and conventions, as frozen structs."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from edgewise.models.families.config import Config, Positive, TopCount
from edgewise.models.layers.image_input import ImageInput
from edgewise.models.layers.residual_hourglass import ResidualHourglassConfig
from edgewise.runtime.contract.parts import NonNegative, PositiveInt
from edgewise.runtime.contract.preprocessing import ColourOrder


class LossConfig(Config, frozen=True):
    """Weights of the terms, and the focal loss of the heatmaps."""

    pull: NonNegative = 0.1
    push: NonNegative = 0.1
    offset: NonNegative = 1.0
    focal_alpha: NonNegative = 2.0
    """A prediction p where the target is 1 weighs (1 - p)^alpha, elsewhere p^alpha,"""
    focal_beta: NonNegative = 4.0
    """and there (1 - target)^beta besides."""
    least_overlap: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.3
    """IoU that a box with both corners this far off still has: the radius of a target's peak."""
    solved_radius: bool = True
    """By the quadratic equations' roots; otherwise as the first code counted them (triplets)."""


class DecodingConfig(Config, frozen=True):
    corners: TopCount = 100
    """Best corners of each kind, and centres."""
    tag_distance: Positive = 0.5
    """Corners further apart in their embeddings are no pair."""
    slots: TopCount = 1000
    """Best pairs."""


class CornernetConfig(Config, frozen=True):
    """One CornerNet, or one CenterNet of keypoint triplets, which also finds centres.

    The defaults are the published hourglass-104 on COCO.
    """

    input_size: tuple[PositiveInt, PositiveInt] = (511, 511)
    """Height, width; a quarter of each, rounded up, is a multiple of what the hourglass halves to 1."""
    keep_size: bool = False
    """Frames keep their size and are padded to `input_size` (the published test), not scaled to it."""
    class_count: PositiveInt = 80
    backbone: ResidualHourglassConfig = ResidualHourglassConfig()
    triplets: bool = False
    """Corners pool along an edge and then inwards from it, and centres are found besides."""
    pool_channels: PositiveInt = 128
    """Of what is pooled towards a corner."""
    head_channels: PositiveInt = 256
    mean: tuple[float, float, float] = (0.40789654, 0.44719302, 0.47026115)
    """BGR, of pixels / 255, subtracted first."""
    std: tuple[Positive, Positive, Positive] = (0.28863828, 0.27408164, 0.27809835)
    """BGR, divided by."""
    losses: LossConfig = LossConfig()
    decoding: DecodingConfig = DecodingConfig()

    def __post_init__(self) -> None:
        if any(side % self.backbone.map_multiple for side in self.map_size):
            raise ValueError(
                f"input_size {self.input_size}: its maps of {self.map_size} cells must be multiples of "
                f"{self.backbone.map_multiple}"
            )

    @property
    def image_input(self) -> ImageInput:
        """What the backbone reads of a frame."""
        return ImageInput(ColourOrder.BGR, scale=255.0, mean=self.mean, std=self.std)

    @property
    def map_size(self) -> tuple[int, int]:
        """(rows, columns) of the maps."""
        height, width = self.input_size
        return (height + 3) // 4, (width + 3) // 4

    @property
    def cell(self) -> tuple[float, float]:
        """Width and height of a cell in input pixels: not 4, but what the input is of the map."""
        (height, width), (rows, columns) = self.input_size, self.map_size
        return width / columns, height / rows


HOURGLASS104 = CornernetConfig()

TRIPLETS104 = CornernetConfig(
    triplets=True,
    losses=LossConfig(least_overlap=0.7, solved_radius=False),
    decoding=DecodingConfig(corners=70),
)

TRIPLETS52 = msgspec.structs.replace(TRIPLETS104, backbone=ResidualHourglassConfig(stacks=1))

TINY = CornernetConfig(
    input_size=(192, 192),
    class_count=6,
    backbone=ResidualHourglassConfig(stem_width=16, widths=(32, 48, 64, 80), blocks=(1, 1, 1, 2), stacks=1),
    pool_channels=32,
    head_channels=32,
    decoding=DecodingConfig(corners=60, slots=300),
)
"""A toy of the same make for scenes of 192x192."""

MICRO = msgspec.structs.replace(
    TINY,
    input_size=(63, 95),
    class_count=3,
    backbone=ResidualHourglassConfig(stem_width=8, widths=(8, 8, 12), blocks=(1, 2, 1), stacks=2),
    pool_channels=4,
    head_channels=8,
    decoding=DecodingConfig(corners=40, tag_distance=2.0, slots=60),
)
"""The smallest that has every part: for tests."""

TRIPLETS_TINY = msgspec.structs.replace(TINY, triplets=True, losses=TRIPLETS104.losses)

TRIPLETS_MICRO = msgspec.structs.replace(
    MICRO,
    triplets=True,
    losses=TRIPLETS104.losses,
    decoding=DecodingConfig(corners=100, tag_distance=10.0, slots=100),
)

"""What the families of this folder say alike: where cells and crops lie, targets, loss."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from edgewise.models.families.config import Config, Positive
from edgewise.models.families.heatmap_targets import Centre, TargetConfig
from edgewise.models.layers.image_input import ImageInput
from edgewise.runtime.contract.parts import PositiveInt
from edgewise.runtime.contract.postprocessing import CellPlace, HeatmapDecoding
from edgewise.runtime.contract.preprocessing import ColourOrder, CropCorners

STRIDE = 4
"""Network pixels a heatmap cell, along either axis."""
COARSEST = 32
"""Stride of the coarsest features; inputs are multiples of it."""


class Conventions(Config, frozen=True):
    """How crop, heatmap and point lie to each other. The same keys come with several of them."""

    corners: CropCorners = CropCorners.PIXEL_NUMBERS
    """Where the crop's corners lie."""
    cells: CellPlace = CellPlace.NUMBER
    """Which place of the crop a cell stands for."""
    decoding: HeatmapDecoding = HeatmapDecoding.QUARTER_INSIDE
    """How points are read off the heatmaps."""
    flip_shift: bool = True
    """The flip test moves the mirrored look's maps by a column."""


PUBLISHED = Conventions()
"""Those of SimpleBaseline and HRNet."""
DARK = Conventions(
    corners=CropCorners.PIXEL_DISTANCES,
    cells=CellPlace.DISTANCE,
    decoding=HeatmapDecoding.DARK,
    flip_shift=False,
)
FACE = Conventions(
    corners=CropCorners.WHOLE_PIXELS_FROM_ONE,
    cells=CellPlace.CENTRE,
    decoding=HeatmapDecoding.QUARTER_PIXEL,
    flip_shift=False,
)
"""Those of HRNet for faces."""


def rounded_targets(sigma: int) -> TargetConfig:
    """About the cell of the point, cut off at three sigma."""
    return TargetConfig(sigma=sigma, radius=3 * sigma, beside=True)


def dark_targets(sigma: float) -> TargetConfig:
    """About the point itself, over the whole map."""
    return TargetConfig(sigma=sigma, centre=Centre.SUBPIXEL, radius=None, beside=True)


class PoseConfig(Config, frozen=True):
    """Base of the configs of this folder; the defaults are COCO's at 256x192."""

    input_size: tuple[PositiveInt, PositiveInt] = (256, 192)
    """Height, width; multiples of 32."""
    keypoint_count: PositiveInt = 17
    colour: ColourOrder = ColourOrder.RGB
    """In which the network reads the channels. The constants of the normalisation are ImageNet's in RGB, in
    their order whatever this is: SimpleBaseline's weights read BGR with them."""
    padding: Annotated[float, Meta(ge=1.0)] = 1.25
    """The crop is the box enlarged by this."""
    clip_box: bool = False
    """Hold boxes inside the frame before they are cropped, as the published code does to annotated ones."""
    conventions: Conventions = PUBLISHED
    targets: TargetConfig = rounded_targets(2)
    loss_weight: Positive = 0.5
    """Multiplies the mean squared error."""

    def __post_init__(self) -> None:
        if any(side % COARSEST for side in self.input_size):
            raise ValueError(f"input_size {self.input_size} must be multiples of {COARSEST}")

    @property
    def image_input(self) -> ImageInput:
        """What the stem reads of a crop."""
        return ImageInput(self.colour, scale=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(height, width) of the heatmaps."""
        return self.input_size[0] // STRIDE, self.input_size[1] // STRIDE

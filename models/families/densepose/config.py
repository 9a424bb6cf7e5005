"""What distinguishes one DensePose from another: its detector, and the branch that reads surfaces."""

from __future__ import annotations

import msgspec

from edgewise.models.families.config import Config
from edgewise.models.families.rcnn.config import MaskConfig, RcnnConfig
from edgewise.models.layers.two_stage.region_pooling import RegionPooling
from edgewise.runtime.contract.parts import Fraction, NonNegative, PositiveInt


class SurfaceConfig(Config, frozen=True):
    """The branch. The defaults are the published R50-FPN s1x."""

    decoder: bool = True
    """Regions are read from one map that all levels of the pyramid are summed to, at the finest one's size;
    otherwise from the level that fits their size (the legacy head)."""
    bins: PositiveInt = 28
    convolutions: PositiveInt = 8
    channels: PositiveInt = 512
    coarse: PositiveInt = 2
    """Channels of the coarse segmentation, the background's among them."""
    parts: PositiveInt = 24
    upsampling: PositiveInt = 2
    """Maps are enlarged by this, bilinearly, where they are read."""
    positive_iou: Fraction = 0.7
    """From this IoU with a person a region's surface is trained,"""
    positives_limit: PositiveInt = 32
    """of at most so many regions an image."""
    part_weight: NonNegative = 1.0
    coarse_weight: NonNegative = 5.0
    chart_weight: NonNegative = 0.01
    """Of U and of V, whose losses are summed over the points."""


class DensePoseConfig(RcnnConfig, frozen=True):
    """One DensePose: a detector of one class, without masks and points, and the branch."""

    class_count: PositiveInt = 1
    mask: MaskConfig | None = None
    surface: SurfaceConfig = SurfaceConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_count != 1 or self.mask is not None or self.keypoint_count:
            raise ValueError("the detector of a DensePose finds one class, without masks and without points")

    @classmethod
    def of(cls, detector: RcnnConfig, surface: SurfaceConfig) -> DensePoseConfig:
        """The detector's sizes and conventions with a branch."""
        shared = msgspec.structs.asdict(detector)
        return cls(**{**shared, "class_count": 1, "mask": None}, surface=surface)

    @property
    def side(self) -> int:
        """Of the maps that the graph gives."""
        return 2 * self.surface.bins

    @property
    def surface_pooling(self) -> RegionPooling:
        """How regions are read, from the decoded map alone or from the pyramid."""
        own = self.box_stage.pooling
        return msgspec.structs.replace(own, strides=own.strides[:1]) if self.surface.decoder else own

"""Features of regions, each from the pyramid level that fits its size (Lin et al., 2017, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from torch import Tensor

from edgewise.models.layers.roi_align import deploy_pyramid_roi_align, pyramid_roi_align, roi_levels


class RegionPooling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Choice of the level and RoIAlign.

    Attributes:
        strides: Input pixels a cell of each level, finest first.
        canonical_level: Index of the level that regions of `canonical_size` are read from.
        canonical_size: Square root of an area, input pixels.
        epsilon: What the choice of the level adds against rounding.
        epsilon_inside: Whether it is added to the argument of the logarithm, or to its value.
        plus_one: Corners are inclusive: a region is x2 - x1 + 1 wide where its level is chosen.
        half_pixel: RoIAlign reads continuous coordinates ("aligned"); else those of pixel centres.
        samples_per_bin: Samples along each axis of a bin.
    """

    strides: tuple[int, ...]
    canonical_level: int
    canonical_size: float
    epsilon: float
    epsilon_inside: bool
    plus_one: bool
    half_pixel: bool
    samples_per_bin: int

    def pool(
        self, levels: Sequence[Tensor], regions: Tensor, bins: int, images: Tensor | None = None
    ) -> Tensor:
        """Features of regions, differentiable.

        Args:
            levels: float [N, channels, H_l, W_l] each, finest first.
            regions: float [R, 4], corner form, input pixels; R may be 0.
            bins: Output side.
            images: int64 [R], which image each region lies in; None: the first.

        Returns:
            float [R, channels, bins, bins].
        """
        return pyramid_roi_align(
            levels,
            regions,
            self._levels(regions),
            self.strides,
            output=bins,
            sampling=self.samples_per_bin,
            half_pixel=self.half_pixel,
            images=images,
        )

    def deploy(self, levels: Sequence[Tensor], regions: Tensor, bins: int) -> Tensor:
        """`pool` of one image by the exportable operator, which has no gradient."""
        return deploy_pyramid_roi_align(
            levels,
            regions,
            self._levels(regions),
            self.strides,
            output=bins,
            sampling=self.samples_per_bin,
            half_pixel=self.half_pixel,
        )

    def _levels(self, regions: Tensor) -> Tensor:
        return roi_levels(
            regions,
            lowest=0,
            highest=len(self.strides) - 1,
            canonical_level=self.canonical_level,
            canonical_size=self.canonical_size,
            plus_one=self.plus_one,
            epsilon=self.epsilon,
            epsilon_inside=self.epsilon_inside,
        )

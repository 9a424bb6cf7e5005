"""The branch that reads surfaces: a shared decoder, convolutions on regions, four predictors.

Panoptic FPN's decoder (Kirillov et al., 2019) sums the pyramid to one map; each region of it gives the coarse
segmentation, the part, and U and V of every part, at twice the pooled resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.families.densepose.config import DensePoseConfig


class SurfaceMaps(NamedTuple):
    """Of R regions, float32 each; channel 0 of coarse and fine is the background."""

    coarse: Tensor
    """[R, coarse, side, side], logits."""
    fine: Tensor
    """[R, parts + 1, side, side], logits."""
    u: Tensor
    """[R, parts + 1, side, side], places on the charts."""
    v: Tensor


class Decoder(nn.Module):
    """P2, P3, ... -> one map of the finest one's size, [N, channels, H / 4, W / 4].

    Keys: `levels.{i}.{j}`, i convolutions on level i, one on the finest; `predictor`.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(max(level, 1)))
            for level in range(levels)
        )
        self.predictor = nn.Conv2d(channels, channels, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        paths: list[Tensor] = []
        for place, (convolutions, path) in enumerate(zip(self.levels, levels, strict=True)):
            for convolution in convolutions:
                path = F.relu(convolution(path))
                if place:
                    path = F.interpolate(path, scale_factor=2.0, mode="bilinear", align_corners=False)
            paths.append(path)
        total = paths[0]
        for path in paths[1:]:
            total = total + path
        return self.predictor(total)


class SurfaceStage(nn.Module):
    """Keys: `decoder.*`, `convolutions.{i}`, `coarse`, `fine`, `u`, `v`, each `.{weight,bias}`."""

    def __init__(self, config: DensePoseConfig) -> None:
        super().__init__()
        self.config = config
        surface, inputs = config.surface, config.pyramid_channels
        levels = len(config.backbone.stage_strides)
        self.decoder = Decoder(inputs, levels) if surface.decoder else None
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs if index == 0 else surface.channels, surface.channels, 3, padding=1)
            for index in range(surface.convolutions)
        )

        def predictor(channels: int) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(surface.channels, channels, 4, 2, 1)

        self.coarse = predictor(surface.coarse)
        self.fine, self.u, self.v = (predictor(surface.parts + 1) for _ in range(3))
        self._initialise()

    def forward(self, pooled: Tensor) -> SurfaceMaps:
        """[R, inputs, bins, bins] -> maps of side 2 * bins."""
        for convolution in self.convolutions:
            pooled = F.relu(convolution(pooled))
        return SurfaceMaps(self.coarse(pooled), self.fine(pooled), self.u(pooled), self.v(pooled))

    def maps(self, levels: Sequence[Tensor], regions: Tensor, images: Tensor) -> SurfaceMaps:
        """Differentiable maps of regions float [R, 4] in the images int64 [R] of a batch."""
        pooling, bins = self.config.surface_pooling, self.config.surface.bins
        return self(pooling.pool(self._read(levels), regions, bins, images))

    def deploy(self, levels: Sequence[Tensor], regions: Tensor) -> SurfaceMaps:
        """`maps` of one image by the exportable operator, which has no gradient."""
        return self(self.config.surface_pooling.deploy(self._read(levels), regions, self.config.surface.bins))

    def _read(self, levels: Sequence[Tensor]) -> Sequence[Tensor]:
        return levels if self.decoder is None else [self.decoder(levels)]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

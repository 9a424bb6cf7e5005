"""The keypoint branch: a map of each region for each point, of which one cell is right (He et al., 2017,
section 5)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.layers.two_stage.region_pooling import RegionPooling


class KeypointStageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the stage.

    Attributes:
        inputs: Channels of the pyramid.
        pooling: How regions are read from it.
        bins: Side of a pooled region; the heatmaps that the stage gives are twice as large, those that it
            learns on and that are decoded four times.
        channels: Of the hidden layers.
        convolutions: How many 3x3 convolutions come before the map is doubled.
        points: Of a thing.
    """

    inputs: int
    pooling: RegionPooling
    bins: int
    channels: int
    convolutions: int
    points: int


class KeypointStage(nn.Module):
    """Logits of every point at twice the pooled resolution; the class of a region says nothing here.

    Keys: `convolutions.{i}`, `score`, each `.{weight,bias}`.
    """

    def __init__(self, config: KeypointStageConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.convolutions = nn.ModuleList(
            nn.Conv2d(config.inputs if index == 0 else channels, channels, 3, padding=1)
            for index in range(config.convolutions)
        )
        self.score = nn.ConvTranspose2d(channels, config.points, 4, stride=2, padding=1)

    def forward(self, pooled: Tensor) -> Tensor:
        """[R, inputs, bins, bins] -> [R, points, 2 bins, 2 bins]."""
        for hidden in self.convolutions:
            pooled = F.relu(hidden(pooled))
        return self.score(pooled)

    def loss(self, levels: Sequence[Tensor], regions: Tensor, images: Tensor, points: Tensor) -> Tensor:
        """Mean cross-entropy over the cells of the doubled maps, of the points that lie in their region.

        Args:
            levels: float [N, inputs, H_l, W_l] each.
            regions: float [R, 4], corner form, foreground; R may be 0.
            images: int64 [R], which image each lies in.
            points: float [R, points, 3], x, y (continuous input pixels) and visibility of the region's
                object; 0 is not labelled.
        """
        logits = self(self.config.pooling.pool(levels, regions, self.config.bins, images))
        doubled = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
        cells, known = target_cells(points, regions, doubled.shape[-1])
        chosen = doubled.flatten(2)[known]
        return F.cross_entropy(chosen, cells[known], reduction="sum") / max(len(chosen), 1)

    def heatmaps(self, levels: Sequence[Tensor], regions: Tensor) -> Tensor:
        """The logits of one image in exportable operators.

        Args:
            levels: float32 [1, inputs, H_l, W_l] each.
            regions: float32 [R, 4], corner form.

        Returns:
            float32 [R, points, 2 bins, 2 bins].
        """
        return self(self.config.pooling.deploy(levels, regions, self.config.bins))


@torch.no_grad()
def target_cells(points: Tensor, regions: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The cell of each point in a map of `side` x `side` over its region.

    A point on the region's far edge belongs to the last cell.

    Args:
        points: float [R, K, 3], x, y, visibility.
        regions: float [R, 4], corner form.
        side: Of a map.

    Returns:
        int64 [R, K], row * side + column, and bool [R, K]: labelled and inside. Elsewhere the cell is 0.
    """
    low, high = regions[:, None, :2], regions[:, None, 2:]
    places = points[..., :2]
    cells = ((places - low) * (side / (high - low).clamp(min=1e-6))).floor().to(torch.int64)
    cells = torch.where(places == high, side - 1, cells)
    known = (points[..., 2] > 0) & ((cells >= 0) & (cells < side)).all(dim=-1)
    return torch.where(known, cells[..., 1] * side + cells[..., 0], 0), known

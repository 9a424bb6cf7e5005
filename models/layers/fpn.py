"""Feature pyramid (Lin et al., 2017) in YOLACT's form: bilinear top-down path, ReLU on the outputs.

Keys follow the published YOLACT layout: `lat_layers` and `pred_layers` are stored coarsest level first.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class FeaturePyramid(nn.Module):
    """Stage outputs, finest first -> as many levels of `channels`, then `downsamples` coarser ones.

    The coarser ones are 3x3 stride-2 convolutions of the level before, with no ReLU between.
    """

    def __init__(self, stage_channels: Sequence[int], channels: int, downsamples: int) -> None:
        super().__init__()
        coarsest_first = list(reversed(stage_channels))
        self.lat_layers = nn.ModuleList(nn.Conv2d(inputs, channels, 1) for inputs in coarsest_first)
        self.pred_layers = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1) for _ in coarsest_first)
        self.downsample_layers = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(downsamples)
        )

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, ...]:
        levels: list[Tensor] = []
        path: Tensor | None = None
        for stage, lateral, predict in zip(reversed(stages), self.lat_layers, self.pred_layers, strict=True):
            merged = lateral(stage)
            if path is not None:
                merged = merged + F.interpolate(path, size=stage.shape[-2:], mode="bilinear")
            path = merged
            levels.insert(0, F.relu(predict(merged)))
        for downsample in self.downsample_layers:
            levels.append(downsample(levels[-1]))
        return tuple(levels)

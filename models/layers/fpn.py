"""Feature pyramids (Lin et al., 2017): YOLACT's form and the paper's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.layers.convolution import convolution


def pyramid_strides(stage_strides: tuple[int, ...], *, extra: bool) -> tuple[int, ...]:
    """Strides of the levels of the paper's form, finest first; `extra`: one more, every other cell."""
    return (*stage_strides, 2 * stage_strides[-1]) if extra else stage_strides


def grid_sizes(size: tuple[int, int], strides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of levels of an input (height, width); what is left over is a cell too."""
    height, width = size
    return tuple((-(-height // stride), -(-width // stride)) for stride in strides)


class FeaturePyramid(nn.Module):
    """Stage outputs, finest first -> as many levels of `channels`, then `downsamples` coarser ones.

    YOLACT's form: bilinear top-down path, ReLU on the outputs. The coarser ones are 3x3 stride-2
    convolutions of the level before, with no ReLU between. Keys follow the published layout: `lat_layers` and
    `pred_layers` are stored coarsest level first.
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


class NearestFeaturePyramid(nn.Module):
    """Stage outputs, finest first -> as many levels of `channels`, and the coarsest subsampled on top.

    The paper's form: nearest doubling on the way down, plain 3x3 outputs. Every stage must be exactly twice
    as large as the next. Keys: `lateral.{i}`, `output.{i}`, finest first; `context`.

    Args:
        stage_channels: Of the stages, finest first.
        channels: Of every level.
        context: Add a linear projection of the globally averaged coarsest stage to its lateral, from where
            it flows to all.
        extra: Append every other cell of the coarsest level as one more.
        norm: Batch normalisation behind every convolution, and no bias (torchvision's v2).
    """

    def __init__(
        self,
        stage_channels: Sequence[int],
        channels: int,
        context: bool = False,
        extra: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(convolution(inputs, channels, 1, norm=norm) for inputs in stage_channels)
        self.output = nn.ModuleList(convolution(channels, channels, 3, norm=norm) for _ in stage_channels)
        self.context = nn.Linear(stage_channels[-1], channels) if context else None
        self.extra = extra

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, ...]:
        laterals = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        path = laterals[-1]
        if self.context is not None:
            path = path + self.context(stages[-1].mean(dim=(2, 3)))[:, :, None, None]
        merged = [path]
        for lateral in reversed(laterals[:-1]):
            path = lateral + F.interpolate(path, scale_factor=2.0, mode="nearest")
            merged.insert(0, path)
        levels = [output(level) for output, level in zip(self.output, merged, strict=True)]
        if self.extra:
            levels.append(F.max_pool2d(levels[-1], 1, 2))
        return tuple(levels)

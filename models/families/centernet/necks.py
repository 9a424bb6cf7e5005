"""From a backbone's stages to one map of stride 4, with the names of the published code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgewise.models.families.centernet.config import AggregationNeck, DeconvolutionNeck
from edgewise.models.layers.deform_conv import ModulatedDeformConv


def _convolution(inputs: int, outputs: int, *, deformable: bool) -> nn.Conv2d:
    return ModulatedDeformConv(inputs, outputs) if deformable else nn.Conv2d(inputs, outputs, 3, 1, 1)


class Deconvolutions(nn.Sequential):
    """The last stage, doubled three times. Keys: the published numbers, a ReLU has one too."""

    def __init__(self, config: DeconvolutionNeck, stage_channels: Sequence[int]) -> None:
        inputs, steps = stage_channels[-1], list[nn.Module]()
        for outputs in config.channels:
            steps += [
                _convolution(inputs, outputs, deformable=config.deformable),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.ConvTranspose2d(outputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            inputs = outputs
        super().__init__(*steps)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """[N, C_l, H / s, W / s], s = 4, 8, 16, 32 -> [N, channels[-1], H / 4, W / 4]."""
        return super().forward(stages[-1])


class Convolved(nn.Module):
    """A convolution, batch normalisation and a ReLU. Keys: `conv`, `actf.0`."""

    def __init__(self, inputs: int, outputs: int, *, deformable: bool) -> None:
        super().__init__()
        self.conv = _convolution(inputs, outputs, deformable=deformable)
        self.actf = nn.Sequential(nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.actf(self.conv(x))


class Enlarging(nn.ConvTranspose2d):
    """Each channel by a kernel of its own, which begins as bilinear interpolation."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(channels, channels, 2 * factor, factor, factor // 2, groups=channels, bias=False)
        place = (torch.arange(2 * factor) + 0.5) / factor - 1
        ramp = 1 - place.abs()
        with torch.no_grad():
            self.weight.copy_((ramp[:, None] * ramp).expand_as(self.weight))


class Aggregation(nn.Module):
    """Iterative deep aggregation: each map is projected, enlarged, and joined with the finer one before it.

    Keys: `proj_{i}`, `up_{i}`, `node_{i}` for map i, from 1.
    """

    def __init__(
        self, inputs: Sequence[int], outputs: int, factors: Sequence[int], *, deformable: bool
    ) -> None:
        """`factors`: how much coarser than the first each map is."""
        super().__init__()
        for number, (channels, factor) in enumerate(zip(inputs[1:], factors[1:], strict=True), start=1):
            self.add_module(f"proj_{number}", Convolved(channels, outputs, deformable=deformable))
            self.add_module(f"up_{number}", Enlarging(outputs, factor))
            self.add_module(f"node_{number}", Convolved(outputs, outputs, deformable=deformable))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps from the finest; the first as it is, the others at its size."""
        joined = [maps[0]]
        for number, coarse in enumerate(maps[1:], start=1):
            enlarged = getattr(self, f"up_{number}")(getattr(self, f"proj_{number}")(coarse))
            joined.append(getattr(self, f"node_{number}")(enlarged + joined[-1]))
        return joined


class PyramidAggregation(nn.Module):
    """All stages at the finest one's size and channels (Yu et al., 2018, and what CenterNet puts behind it).

    First the coarsest two stages are joined at the finer one's size, then the coarsest three at theirs, then
    all four; each time the maps that were joined before take part as they have become. At last the results
    of three sizes are joined once more.

    Keys: `dla_up.ida_{i}`, `ida_up`.
    """

    def __init__(self, config: AggregationNeck, stage_channels: Sequence[int]) -> None:
        super().__init__()
        self.dla_up = nn.Module()
        channels = list(stage_channels)
        for number in range(len(channels) - 1):
            first = len(channels) - 2 - number
            factors = (1, *[2] * (number + 1))
            joining = Aggregation(channels[first:], channels[first], factors, deformable=config.deformable)
            self.dla_up.add_module(f"ida_{number}", joining)
            channels[first + 1 :] = [channels[first]] * (number + 1)
        self.ida_up = Aggregation(
            stage_channels[:3], stage_channels[0], (1, 2, 4), deformable=config.deformable
        )

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """[N, C_l, H / s, W / s], s = 4, 8, 16, 32 -> [N, C_0, H / 4, W / 4]."""
        maps, finished = list(stages), [stages[-1]]
        for number in range(len(maps) - 1):
            first = len(maps) - 2 - number
            maps[first:] = getattr(self.dla_up, f"ida_{number}")(maps[first:])
            finished.insert(0, maps[-1])
        return self.ida_up(finished[:3])[-1]

"""The hourglass of residual blocks of CornerNet (Law and Deng, 2018), which halves by stride, not by pooling.

Keys are those of the published code, but for a block's projection: `downsample` here and `skip` there.
"""

from __future__ import annotations

import msgspec
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.layers.resnet import BasicBlock, initialise_residual


class ResidualHourglassConfig(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="residual-hourglass", kw_only=True
):
    """Channels and blocks from the finest size, of stride 4, to the coarsest; by default hourglass-104."""

    stem_width: int = 128
    widths: tuple[int, ...] = (256, 256, 384, 384, 384, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2, 2, 4)
    """In each of a size's three places; at the coarsest size in its one."""
    stacks: int = 2

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.blocks) or len(self.widths) < 2:
            raise ValueError(f"widths {self.widths} and blocks {self.blocks} are of one length, at least 2")

    @property
    def map_multiple(self) -> int:
        """What the sides of the maps of stride 4 must be multiples of."""
        return 2 ** (len(self.widths) - 1)


class Convolution(nn.Module):
    """A convolution, normalised or with a bias, and a ReLU. Keys: `conv`, `bn`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not norm)
        self.bn: nn.Module = nn.BatchNorm2d(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Level(nn.Module):
    """One size: what stays at it, and what goes down and comes back. Keys: `up1`, `low1`, `low2`, `low3`."""

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        here, below, count = widths[0], widths[1], blocks[0]
        self.up1 = nn.Sequential(*(BasicBlock(here, here, 1) for _ in range(count)))
        self.low1 = nn.Sequential(
            BasicBlock(here, below, 2), *(BasicBlock(below, below, 1) for _ in range(count - 1))
        )
        self.low2: nn.Module
        if len(widths) > 2:
            self.low2 = Level(widths[1:], blocks[1:])
        else:
            self.low2 = nn.Sequential(*(BasicBlock(below, below, 1) for _ in range(blocks[1])))
        self.low3 = nn.Sequential(
            *(BasicBlock(below, below, 1) for _ in range(count - 1)), BasicBlock(below, here, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        up = self.up1(x)
        low = self.low3(self.low2(self.low1(x)))
        return up + F.interpolate(low, scale_factor=2.0, mode="nearest")


class ResidualHourglasses(nn.Module):
    """float32 [N, 3, H, W] -> the map of every stack, [N, widths[0], h, w], h = ceil(H / 4).

    Keys: `pre`, `kps`, `cnvs`, `inters`, `inters_`, `cnvs_`.
    """

    def __init__(self, config: ResidualHourglassConfig) -> None:
        super().__init__()
        width, between = config.widths[0], range(config.stacks - 1)
        self.pre = nn.Sequential(
            Convolution(3, config.stem_width, 7, 2), BasicBlock(config.stem_width, width, 2)
        )
        self.kps = nn.ModuleList(Level(config.widths, config.blocks) for _ in range(config.stacks))
        self.cnvs = nn.ModuleList(Convolution(width, width, 3) for _ in range(config.stacks))
        self.inters = nn.ModuleList(BasicBlock(width, width, 1) for _ in between)
        self.inters_ = nn.ModuleList(_projection(width) for _ in between)
        self.cnvs_ = nn.ModuleList(_projection(width) for _ in between)

    @property
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        first = self.pre[0]
        assert isinstance(first, Convolution)
        return first.conv

    def forward(self, images: Tensor) -> list[Tensor]:
        between = self.pre(images)
        found: list[Tensor] = []
        for stack, (hourglass, convolution) in enumerate(zip(self.kps, self.cnvs, strict=True)):
            found.append(convolution(hourglass(between)))
            if stack + 1 < len(self.kps):
                joined = self.inters_[stack](between) + self.cnvs_[stack](found[-1])
                between = self.inters[stack](F.relu(joined))
        return found

    def initialise(self) -> None:
        """See `initialise_residual`."""
        initialise_residual(self)


def _projection(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width))

"""Deep layer aggregation (Yu et al., 2018): DLA-34, with the names of its published code.

A tree's blocks run one after another, and its root reads all of them together, and what came before.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.layers.resnet import RESIDUAL_GAIN, initialise_residual, projection


class DlaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="dla", kw_only=True):
    """Channels of the six levels, and how deep the trees of the last four are."""

    widths: tuple[int, int, int, int, int, int] = (16, 32, 64, 128, 256, 512)
    depths: tuple[int, int, int, int] = (1, 2, 2, 1)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        return self.widths[2:]

    @property
    def stage_strides(self) -> tuple[int, ...]:
        return (4, 8, 16, 32)


class Block(nn.Module):
    """Two 3x3 convolutions; what the second adds to is given, as a tree knows it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + residual)


class Root(nn.Module):
    """A 1x1 convolution over everything that it joins."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, joined: Sequence[Tensor]) -> Tensor:
        return F.relu(self.bn(self.conv(torch.cat(list(joined), dim=1))))


class Leaf(nn.Module):
    """A tree of depth 1: two blocks and a root."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, earlier: int = 0, *, joining: bool = False
    ) -> None:
        """`earlier`: channels that the root also reads; `joining`: and those of the pooled input."""
        super().__init__()
        self.joining = joining
        self.tree1 = Block(inputs, outputs, stride)
        self.tree2 = Block(outputs, outputs, 1)
        self.root = Root(2 * outputs + earlier + (inputs if joining else 0), outputs)
        self.stride = stride
        self.project = projection(inputs, outputs, 1)

    def forward(self, x: Tensor, earlier: Sequence[Tensor] = ()) -> Tensor:
        pooled = F.max_pool2d(x, self.stride) if self.stride > 1 else x
        joined = (*earlier, pooled) if self.joining else earlier
        first = self.tree1(x, pooled if self.project is None else self.project(pooled))
        return self.root((self.tree2(first, first), first, *joined))


class Tree(nn.Module):
    """A tree of depth 2 whose root also reads the pooled input and the first half."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.tree1 = Leaf(inputs, outputs, stride)
        self.tree2 = Leaf(outputs, outputs, 1, inputs + outputs)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        first = self.tree1(x)
        return self.tree2(first, (F.max_pool2d(x, self.stride), first))


def _plain(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Dla(nn.Module):
    """[N,3,H,W] -> the last four levels, [N, widths[2 + i], H/s, W/s], s = 4, 8, 16, 32.

    Keys: `base_layer`, `level0` ... `level5`. An outer tree's own projection, which published files hold and
    nothing reads, is not here.
    """

    def __init__(self, config: DlaConfig) -> None:
        super().__init__()
        widths = config.widths
        self.base_layer = _plain(3, widths[0], 7, 1)
        self.level0 = _plain(widths[0], widths[0], 3, 1)
        self.level1 = _plain(widths[0], widths[1], 3, 2)
        self.level2 = _tree(config.depths[0], widths[1], widths[2], joining=False)
        self.level3 = _tree(config.depths[1], widths[2], widths[3])
        self.level4 = _tree(config.depths[2], widths[3], widths[4])
        self.level5 = _tree(config.depths[3], widths[4], widths[5])

    @property
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        stem = self.base_layer[0]
        assert isinstance(stem, nn.Conv2d)
        return stem

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.level1(self.level0(self.base_layer(images)))
        levels: list[Tensor] = []
        for level in (self.level2, self.level3, self.level4, self.level5):
            x = level(x)
            levels.append(x)
        return tuple(levels)

    def initialise(self) -> None:
        """`initialise_residual`; what a block adds starts at `RESIDUAL_GAIN` here too."""
        initialise_residual(self)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.constant_(module.bn2.weight, RESIDUAL_GAIN)


def _tree(depth: int, inputs: int, outputs: int, *, joining: bool = True) -> nn.Module:
    if depth == 2:
        return Tree(inputs, outputs, 2)
    return Leaf(inputs, outputs, 2, joining=joining)

"""What a corner or a centre sees along rows and columns, added to what is there.

All have the keys `p1_conv1`, `p2_conv1`, `p_conv1`, `p_bn1`, `conv1`, `bn1`, `conv2`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.layers.residual_hourglass import Convolution

Running = Callable[[Tensor, int], Tensor]
"""The maximum from each place towards the thing, along an axis."""

_ROWS, _COLUMNS = 2, 3


class Pooling(nn.Module):
    """How what was pooled joins the features; what is pooled is the subclass's."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.p1_conv1 = Convolution(channels, pooled, 3)
        self.p2_conv1 = Convolution(channels, pooled, 3)
        self.p_conv1 = nn.Conv2d(pooled, channels, 3, 1, 1, bias=False)
        self.p_bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = Convolution(channels, channels, 3)

    def pool(self, x: Tensor) -> Tensor:
        """float [N, channels, h, w] -> float [N, pooled, h, w]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        joined = self.p_bn1(self.p_conv1(self.pool(x))) + self.bn1(self.conv1(x))
        return self.conv2(F.relu(joined))


class CornerPooling(Pooling):
    """Along the two edges that meet in a corner (Law and Deng, 2018)."""

    def __init__(self, channels: int, pooled: int, running: Running) -> None:
        super().__init__(channels, pooled)
        self.running = running

    def pool(self, x: Tensor) -> Tensor:
        return self.running(self.p1_conv1(x), _ROWS) + self.running(self.p2_conv1(x), _COLUMNS)


class CascadeCornerPooling(CornerPooling):
    """Along each edge, after what lies inwards from it (Duan et al., 2019).

    Further keys: `look_conv1`, `look_conv2`, `P1_look_conv`, `P2_look_conv`.
    """

    def __init__(self, channels: int, pooled: int, running: Running) -> None:
        super().__init__(channels, pooled, running)
        self.look_conv1 = Convolution(channels, pooled, 3)
        self.look_conv2 = Convolution(channels, pooled, 3)
        self.P1_look_conv = nn.Conv2d(pooled, pooled, 3, 1, 1, bias=False)
        self.P2_look_conv = nn.Conv2d(pooled, pooled, 3, 1, 1, bias=False)

    def pool(self, x: Tensor) -> Tensor:
        first = self.p1_conv1(x) + self.running(self.look_conv1(x), _COLUMNS)
        second = self.p2_conv1(x) + self.running(self.look_conv2(x), _ROWS)
        down = self.running(self.P1_look_conv(first), _ROWS)
        return down + self.running(self.P2_look_conv(second), _COLUMNS)


class CentrePooling(Pooling):
    """The greatest of each whole row and column.

    The published code takes a running maximum one way and then the other, which is the same.
    """

    def pool(self, x: Tensor) -> Tensor:
        column, row = self.p1_conv1(x), self.p2_conv1(x)
        return column.amax(dim=_ROWS, keepdim=True) + row.amax(dim=_COLUMNS, keepdim=True)

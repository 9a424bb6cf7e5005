"""Anchor boxes of region proposal networks (Ren et al., 2015), in three published forms.

Ratios are height / width. Order everywhere: rows outermost, then columns, the anchors of a cell innermost.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
import torch
from torch import Tensor

Stride = int | tuple[int, int]


class AnchorRule(str, Enum):
    """How the anchors of a cell are laid out."""

    DETECTRON = "detectron"
    """Inclusive corners around (stride - 1) / 2. Sides are rounded, half to even, at the scale of one stride
    and then multiplied by size / stride (Detectron, UPSNet)."""
    TORCHVISION = "torchvision"
    """Continuous corners around 0, rounded half to even."""
    DETECTRON2 = "detectron2"
    """Continuous corners around 0, as they come."""


def cell_anchors(size: float, stride: int, ratios: Sequence[float], rule: AnchorRule) -> Tensor:
    """The anchors of the first cell of a level.

    Args:
        size: Square root of the area, network pixels.
        stride: Network pixels per cell.
        ratios: height / width of each anchor.
        rule: Rounding and centre.

    Returns:
        float32 [A, 4], x1, y1, x2, y2 in network pixels; inclusive for `AnchorRule.DETECTRON`.
    """
    shape = np.asarray(ratios, dtype=np.float64)
    if rule is AnchorRule.DETECTRON:
        widths = np.rint(np.sqrt(stride * stride / shape))
        sides = np.stack((widths, np.rint(widths * shape)), axis=1) * (size / stride)
        centre, half = (stride - 1) / 2, (sides - 1) / 2
        corners = np.concatenate((centre - half, centre + half), axis=1)
    else:
        half = np.stack((size / np.sqrt(shape), size * np.sqrt(shape)), axis=1) / 2
        corners = np.concatenate((-half, half), axis=1)
        if rule is AnchorRule.TORCHVISION:
            corners = np.rint(corners)
    return torch.from_numpy(corners.astype(np.float32))


def level_anchors(cells: Tensor, grid: tuple[int, int], stride: Stride) -> Tensor:
    """The anchors of a whole level.

    Args:
        cells: float32 [A, 4], those of the first cell.
        grid: (rows, columns) of the level.
        stride: Network pixels per cell, or from row to row and from column to column.

    Returns:
        float32 [rows * columns * A, 4].
    """
    steps = (stride, stride) if isinstance(stride, int) else stride
    down, across = (
        torch.arange(count, dtype=cells.dtype, device=cells.device) * step
        for count, step in zip(grid, steps, strict=True)
    )
    y, x = torch.meshgrid(down, across, indexing="ij")
    shifts = torch.stack((x, y, x, y), dim=-1)
    return (shifts[:, :, None, :] + cells).reshape(-1, 4)


def pyramid_anchors(
    grids: Sequence[tuple[int, int]],
    strides: Sequence[Stride],
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    rule: AnchorRule = AnchorRule.DETECTRON,
) -> tuple[Tensor, ...]:
    """The anchors of every level of a pyramid.

    Within a cell: size by size, the ratios of each together; by torchvision's rule ratio by ratio, the sizes
    of each together.

    Args:
        grids: (rows, columns) of each level.
        strides: Network pixels per cell of each level, or from row to row and from column to column.
        sizes: Square roots of the anchors' areas of each level, network pixels.
        ratios: height / width.
        rule: Rounding and centre.

    Returns:
        One float32 [rows * columns * A, 4] a level.
    """
    return tuple(
        level_anchors(_cell(of_level, stride, ratios, rule), grid, stride)
        for grid, stride, of_level in zip(grids, strides, sizes, strict=True)
    )


def _cell(sizes: Sequence[float], stride: Stride, ratios: Sequence[float], rule: AnchorRule) -> Tensor:
    """The anchors of a level's first cell, all sizes."""
    step = stride if isinstance(stride, int) else stride[0]
    by_size = torch.stack([cell_anchors(size, step, ratios, rule) for size in sizes])
    if rule is AnchorRule.TORCHVISION:
        by_size = by_size.transpose(0, 1)
    return by_size.reshape(-1, 4)


def per_anchor(maps: Tensor, width: int) -> Tensor:
    """Head output [N, A * width, h, w], anchors outermost in the channels -> [N, h * w * A, width].

    The rows come in the order of `level_anchors`.
    """
    images, _, height, columns = maps.shape
    by_anchor = maps.reshape(images, -1, width, height, columns).permute(0, 3, 4, 1, 2)
    return by_anchor.reshape(images, -1, width)

"""What the maps are to say of the things of an image."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.cornernet.config import CornernetConfig
from edgewise.models.layers.peaks import draw_peak, peak_radius


class CornerTargets(NamedTuple):
    """Of the upper left or the lower right corners of n things, on maps of h x w cells."""

    heat: Tensor
    """float32 [classes, h, w], 1 in the cells of corners, falling around them."""
    cells: Tensor
    """int64 [n], row * w + column of each corner."""
    offsets: Tensor
    """float32 [n, 2], x and y of the corner within its cell."""


@torch.no_grad()
def targets_of(truth: InstanceTargets, config: CornernetConfig) -> tuple[CornerTargets, CornerTargets]:
    """Published steps: boxes clipped to the last pixel's number, corners cut off to a cell."""
    (height, width), (rows, columns) = config.input_size, config.map_size
    device = truth.boxes.device
    scale = torch.tensor([columns / width, rows / height], device=device)
    limits = torch.tensor([width - 1, height - 1], dtype=torch.float32, device=device)
    low, high = (
        torch.minimum(corner.clamp(min=0), limits) * scale
        for corner in (truth.boxes[:, :2], truth.boxes[:, 2:])
    )
    kept = torch.nonzero((high > low).all(dim=1)).flatten()
    low, high, classes = low[kept], high[kept], truth.classes[kept].tolist()
    radii = [
        int(peak_radius(math.ceil(down), math.ceil(across), config.losses.least_overlap, solved=True))
        for across, down in (high - low).tolist()
    ]
    return _of_corner(low, classes, radii, config), _of_corner(high, classes, radii, config)


def _of_corner(
    corners: Tensor, classes: list[int], radii: list[int], config: CornernetConfig
) -> CornerTargets:
    heat = torch.zeros(config.class_count, *config.map_size, device=corners.device)
    cells = corners.floor()
    for (column, row), of_class, radius in zip(cells.tolist(), classes, radii, strict=True):
        draw_peak(heat[of_class], (int(column), int(row)), radius)
    places = cells.to(torch.int64)
    return CornerTargets(heat, places[:, 1] * config.map_size[1] + places[:, 0], corners - cells)

"""What the maps are to say of the things of an image."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.centernet.config import STRIDE
from edgewise.models.layers.peaks import draw_peak, peak_radius


class Targets(NamedTuple):
    """Of n things of one image, on maps of h x w cells."""

    heat: Tensor
    """float32 [classes, h, w], 1 in the cells of centres, falling around them."""
    cells: Tensor
    """int64 [n], row * w + column of each centre."""
    sizes: Tensor
    """float32 [n, 2], width and height in cells."""
    offsets: Tensor
    """float32 [n, 2], x and y of the centre within its cell."""


@torch.no_grad()
def targets_of(
    truth: InstanceTargets, classes: int, map_size: tuple[int, int], least_overlap: float
) -> Targets:
    """Published steps: boxes clipped to the last cell's number, centres cut off to a cell."""
    height, width = map_size
    device = truth.boxes.device
    limits = torch.tensor([width - 1, height - 1], dtype=torch.float32, device=device)
    low, high = (
        torch.minimum((corner / STRIDE).clamp(min=0), limits)
        for corner in (truth.boxes[:, :2], truth.boxes[:, 2:])
    )
    kept = torch.nonzero((high > low).all(dim=1)).flatten()
    low, high = low[kept], high[kept]
    centres = (low + high) / 2
    cells = centres.floor()
    heat = torch.zeros(classes, height, width, device=device)
    for cell, size, of_class in zip(
        cells.tolist(), (high - low).tolist(), truth.classes[kept].tolist(), strict=True
    ):
        sides = math.ceil(size[1]), math.ceil(size[0])
        radius = int(peak_radius(*sides, least_overlap, solved=False))
        draw_peak(heat[of_class], (int(cell[0]), int(cell[1])), radius)
    places = cells.to(torch.int64)
    return Targets(heat, places[:, 1] * width + places[:, 0], high - low, centres - cells)

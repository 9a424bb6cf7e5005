"""What the maps are to say of the things of an image."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.centernet.config import STRIDE


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
        radius = max(0, int(peak_radius(math.ceil(size[1]), math.ceil(size[0]), least_overlap)))
        draw_peak(heat[of_class], (int(cell[0]), int(cell[1])), radius)
    places = cells.to(torch.int64)
    return Targets(heat, places[:, 1] * width + places[:, 0], high - low, centres - cells)


def peak_radius(height: float, width: float, overlap: float) -> float:
    """How far a box's corners may be off in cells for an IoU of `overlap`, as CenterNet's code counts it.

    The code does not divide by twice the leading coefficient, as the solution of a quadratic equation wants;
    its weights were trained with that, so it stays.
    """
    total, area = height + width, height * width
    grown = total**2 - 4 * area * (1 - overlap) / (1 + overlap)
    shifted = 4 * total**2 - 16 * (1 - overlap) * area
    shrunk = 4 * overlap**2 * total**2 - 16 * overlap * (overlap - 1) * area
    return min(
        (total + math.sqrt(grown)) / 2,
        (2 * total + math.sqrt(shifted)) / 2,
        (-2 * overlap * total + math.sqrt(shrunk)) / 2,
    )


def draw_peak(heat: Tensor, cell: tuple[int, int], radius: int) -> None:
    """Raise a map [h, w] in place to a Gaussian around a cell (column, row).

    It is cut off at the radius, of which it has a third of its width.
    """
    height, width = heat.shape
    column, row = cell
    columns = torch.arange(max(column - radius, 0), min(column + radius + 1, width), device=heat.device)
    rows = torch.arange(max(row - radius, 0), min(row + radius + 1, height), device=heat.device)
    apart = (columns - column) ** 2 + ((rows - row) ** 2)[:, None]
    peak = torch.exp(-apart / (2 * ((2 * radius + 1) / 6) ** 2))
    part = heat[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    torch.maximum(part, peak, out=part)

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
    """Of the upper left corners of n things, the lower right ones or the centres, on maps of h x w cells."""

    heat: Tensor
    """float32 [classes, h, w], 1 in their cells, falling around them."""
    cells: Tensor
    """int64 [n], row * w + column of each."""
    offsets: Tensor
    """float32 [n, 2], x and y of each within its cell."""


class Targets(NamedTuple):
    """Of one image."""

    upper_left: CornerTargets
    lower_right: CornerTargets
    centre: CornerTargets | None
    """Where the model finds centres."""


_CENTRE_SHARPNESS = 5.0


@torch.no_grad()
def targets_of(truth: InstanceTargets, config: CornernetConfig) -> Targets:
    """Published steps: boxes clipped to the last pixel's number, corners and centres cut off to a cell."""
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
    rule = config.losses
    radii = [
        int(peak_radius(math.ceil(down), math.ceil(across), rule.least_overlap, solved=rule.solved_radius))
        for across, down in (high - low).tolist()
    ]
    corners = (_of_places(places, classes, radii, config) for places in (low, high))
    if not config.triplets:
        return Targets(*corners, None)
    return Targets(*corners, _of_places((low + high) / 2, classes, radii, config, _CENTRE_SHARPNESS))


def _of_places(
    places: Tensor,
    classes: list[int],
    radii: list[int],
    config: CornernetConfig,
    sharpness: float = 6.0,
) -> CornerTargets:
    heat = torch.zeros(config.class_count, *config.map_size, device=places.device)
    cells = places.floor()
    for (column, row), of_class, radius in zip(cells.tolist(), classes, radii, strict=True):
        draw_peak(heat[of_class], (int(column), int(row)), radius, sharpness)
    whole = cells.to(torch.int64)
    return CornerTargets(heat, whole[:, 1] * config.map_size[1] + whole[:, 0], places - cells)

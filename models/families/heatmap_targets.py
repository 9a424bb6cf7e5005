"""Gaussian target heatmaps, drawn on the device for a whole batch at once."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import torch
from torch import Tensor

from edgewise.models.families.config import Config, Positive
from edgewise.models.tasks.keypoints.targets import KeypointTargets
from edgewise.runtime.contract.parts import PositiveInt
from edgewise.runtime.contract.postprocessing import CellPlace
from edgewise.runtime.kinds.keypoints.cells import cells_to_network
from edgewise.runtime.pixels.geometry import Size


class Centre(enum.Enum):
    """Where a target's Gaussian is centred."""

    CELL = "cell"
    """On the centre of the cell that holds the point (the published rule)."""
    SUBPIXEL = "subpixel"
    """On the point itself, so that nothing is lost to rounding (DARK)."""


class TargetConfig(Config, frozen=True):
    """A Gaussian of peak 1 for each labelled point, in heatmap cells."""

    sigma: Positive = 1.0
    centre: Centre = Centre.CELL
    radius: PositiveInt | None = 3
    """Cells further than this from the cell of the point, along either axis, are 0; None: no such limit."""
    beside: bool = False
    """A point beside the map counts where the map is not further than three sigma from it (SimpleBaseline);
    otherwise it does not count."""


def target_heatmaps(
    targets: Sequence[KeypointTargets],
    size: Size,
    network_size: Size,
    config: TargetConfig,
    place: CellPlace = CellPlace.CENTRE,
) -> tuple[Tensor, Tensor]:
    """One Gaussian of peak 1 for each labelled point that counts.

    The value of a cell is exp(-d^2 / 2 sigma^2), where d is the distance in cells between the cell's centre
    and, by `config.centre`, the point or the centre of the cell that holds the point.

    Args:
        targets: Of N crops, all with K points.
        size: (height, width) of the heatmaps.
        network_size: (height, width) of the network's input.
        config: The Gaussian.
        place: Which place of the input a cell stands for.

    Returns:
        Heatmaps float32 [N, K, height, width], 0 for points without a label; weights float32 [N, K], 1 for
        points that count and 0 for the others.
    """
    points = torch.stack([target.points for target in targets])
    factor, offset = (
        torch.tensor(pair, dtype=points.dtype, device=points.device)
        for pair in cells_to_network(place, size, network_size)
    )
    labelled = points[..., 2] > 0
    # A point without a label may hold anything, so it must not reach the arithmetic.
    cells = torch.where(labelled[..., None], (points[..., :2] - offset) / factor, 0.0)
    holders, lengths = cells.floor(), torch.tensor(size[::-1], device=points.device)
    reach = 3 * config.sigma if config.beside else 0.0
    counts = labelled & ((holders + reach >= 0) & (holders - reach < lengths)).all(dim=2)
    weights = counts.to(points.dtype)
    across, down = (_profile(cells[..., axis], size[1 - axis], config) for axis in (0, 1))
    return (weights[..., None] * down)[..., :, None] * across[..., None, :], weights


def _profile(position: Tensor, length: int, config: TargetConfig) -> Tensor:
    """The Gaussian along one axis: positions [...] in cells -> [..., length]."""
    cells = torch.arange(length, device=position.device, dtype=position.dtype)
    holder = position.floor()
    centre = holder + 0.5 if config.centre is Centre.CELL else position
    profile = torch.exp(-((cells + 0.5 - centre[..., None]) ** 2) / (2 * config.sigma**2))
    if config.radius is None:
        return profile
    return profile * ((cells - holder[..., None]).abs() <= config.radius)

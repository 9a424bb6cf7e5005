"""Gaussian target heatmaps, drawn on the device for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgewise.models.families.hourglass.config import STRIDE, Centre, TargetConfig
from edgewise.models.tasks.keypoints.targets import KeypointTargets


def target_heatmaps(
    targets: Sequence[KeypointTargets], size: tuple[int, int], config: TargetConfig
) -> tuple[Tensor, Tensor]:
    """One Gaussian of peak 1 for each point that is labelled and lies on the map.

    The value of a cell is exp(-d^2 / 2 sigma^2), where d is the distance in cells between the cell's centre
    and, by `config.centre`, the point or the centre of the cell that holds the point.

    Args:
        targets: Of N crops, all with K points.
        size: (height, width) of the heatmaps.
        config: The Gaussian.

    Returns:
        Heatmaps float32 [N, K, height, width], 0 for points without a label; weights float32 [N, K], 1 for
        points that count and 0 for the others.
    """
    height, width = size
    points = torch.stack([target.points for target in targets])
    x, y, visibility = points.unbind(dim=2)
    # A point without a label may hold anything, so it must not reach the arithmetic.
    x, y = (torch.where(visibility > 0, value, 0.0) for value in (x, y))
    on_map = (x >= 0) & (x < width * STRIDE) & (y >= 0) & (y < height * STRIDE)
    weights = ((visibility > 0) & on_map).to(points.dtype)
    across = _profile(x / STRIDE, width, config)
    down = _profile(y / STRIDE, height, config)
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

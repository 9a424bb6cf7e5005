"""Losses between points: L1, smooth L1, Wing, SoftWing, and PFLD's squares by pose and attributes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edgewise.models.families.coordinate_regression.config import (
    L1Loss,
    LossConfig,
    RegressionConfig,
    SmoothL1Loss,
    SoftWingLoss,
    Unit,
    WingLoss,
)
from edgewise.models.tasks.keypoints.targets import KeypointTargets

POSE_ATTRIBUTE = 0
"""Of WFLW's six attributes PFLD leaves this one out, because the angles speak of it."""


def losses(
    config: RegressionConfig, predicted: Tensor, targets: Sequence[KeypointTargets]
) -> dict[str, Tensor]:
    """The weighted scalar term `points`; points without a label count as without error.

    Args:
        config: Loss, unit and weight.
        predicted: float32 [N, K, 2], shares of the network's input.
        targets: One for each crop, in network pixels.
    """
    height, width = config.input_size
    points = torch.stack([target.points for target in targets])
    labelled = points[..., 2:] > 0
    size = points.new_tensor((width, height))
    # A point without a label may hold anything, so it must not reach the arithmetic.
    wanted = torch.where(labelled, points[..., :2] / size, predicted.detach())
    return {"points": config.losses.weight * point_loss(config.losses, predicted - wanted, size)}


def point_loss(config: LossConfig, differences: Tensor, size: Tensor) -> Tensor:
    """The mean over N crops of a loss of differences float32 [N, K, 2], in shares of `size` (width, height).

    L1 and smooth L1 are means over the coordinates of a crop too, the others sums.
    """
    distance = (differences * size if config.unit is Unit.PIXEL else differences).abs()
    kind = config.kind
    if isinstance(kind, L1Loss):
        return distance.mean()
    if isinstance(kind, SmoothL1Loss):
        inside = 0.5 * distance**2 / kind.beta
        return torch.where(distance < kind.beta, inside, distance - 0.5 * kind.beta).mean()
    if isinstance(kind, WingLoss):
        constant = kind.width - kind.width * math.log1p(kind.width / kind.curvature)
        inside = kind.width * torch.log1p(distance / kind.curvature)
        values = torch.where(distance < kind.width, inside, distance - constant)
    elif isinstance(kind, SoftWingLoss):
        constant = kind.inner - kind.outer * math.log1p(kind.inner / kind.curvature)
        outside = kind.outer * torch.log1p(distance / kind.curvature) + constant
        values = torch.where(distance < kind.inner, distance, outside)
    else:
        values = distance**2
    return values.sum(dim=(1, 2)).mean()


def pfld_loss(differences: Tensor, angles: Tensor, wanted_angles: Tensor, attributes: Tensor) -> Tensor:
    """PFLD's loss: squared errors of a face times what its pose and its attributes weigh.

    mean over N of (sum over 3 angles of 1 - cos(difference)) * (sum over attributes 1..5 of a_i w_i) *
    (sum of squares), where w_i is 1 / the share of the batch that has attribute i, or N where none has. A
    face without an attribute weighs nothing.

    Args:
        differences: float32 [N, K, 2], shares of the network's input.
        angles: float32 [N, 3], radians: what `AuxiliaryNetwork` gives.
        wanted_angles: float32 [N, 3].
        attributes: float32 [N, 6], 0 or 1, in WFLW's order (pose first, which is left out).
    """
    by_pose = (1 - torch.cos(angles - wanted_angles)).sum(dim=1)
    judged = attributes[:, POSE_ATTRIBUTE + 1 :]
    shares = judged.mean(dim=0)
    rarity = torch.where(shares > 0, 1 / shares.clamp(min=1e-12), float(len(judged)))
    squares = (differences**2).sum(dim=(1, 2))
    return (by_pose * (judged * rarity).sum(dim=1) * squares).mean()

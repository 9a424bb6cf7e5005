"""The losses of CenterNet (Zhou et al., 2019, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.centernet.config import CenternetConfig, LossConfig
from edgewise.models.families.centernet.network import Predictions
from edgewise.models.families.centernet.targets import targets_of

_EDGE = 1e-4
"""Training keeps probabilities this far from 0 and 1."""


def losses(
    config: CenternetConfig, predictions: Predictions, targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """`heat`: focal, by the number of things; `size` and `offset`: mean absolute error at the centres' cells.

    All are over the whole batch; a batch without things has only `heat`, undivided.
    """
    map_size = predictions.heat.shape[2], predictions.heat.shape[3]
    overlap = config.losses.least_overlap
    wanted = [targets_of(truth, predictions.heat.shape[1], map_size, overlap) for truth in targets]
    heat = torch.stack([each.heat for each in wanted])
    terms = {"heat": peak_loss(predictions.heat, heat, config.losses)}
    count = sum(len(each.cells) for each in wanted)
    for name, maps, weight in (
        ("size", predictions.size, config.losses.size),
        ("offset", predictions.offset, config.losses.offset),
    ):
        error = maps.new_zeros(())
        for own, each in zip(maps, wanted, strict=True):
            found = own.flatten(1)[:, each.cells].T
            error = error + (found - (each.sizes if name == "size" else each.offsets)).abs().sum()
        terms[name] = weight * error / (2 * count + 1e-4)
    return terms


def peak_loss(logits: Tensor, heat: Tensor, config: LossConfig) -> Tensor:
    """Focal loss with fewer pains around peaks (equation 1), by the number of peaks where there are some.

    Args:
        logits: float [N, C, h, w].
        heat: float [N, C, h, w], exactly 1 in the cells of centres.
    """
    found = torch.sigmoid(logits).clamp(_EDGE, 1 - _EDGE)
    peak = heat == 1.0
    right = -((1 - found) ** config.focal_alpha) * torch.log(found)
    wrong = -((1 - heat) ** config.focal_beta) * found**config.focal_alpha * torch.log(1 - found)
    return torch.where(peak, right, wrong).sum() / peak.sum().clamp(min=1)

"""The losses of CenterNet (Zhou et al., 2019, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.centernet.config import CenternetConfig
from edgewise.models.families.centernet.network import Predictions
from edgewise.models.families.centernet.targets import targets_of
from edgewise.models.layers.peaks import peak_loss


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
    terms = {"heat": peak_loss(predictions.heat, heat, config.losses.focal_alpha, config.losses.focal_beta)}
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

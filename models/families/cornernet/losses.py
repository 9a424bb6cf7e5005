"""The losses of CornerNet (Law and Deng, 2018, sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.models.families.cornernet.config import CornernetConfig
from edgewise.models.families.cornernet.network import Predictions
from edgewise.models.families.cornernet.targets import CornerTargets, targets_of
from edgewise.models.layers.peaks import peak_loss

_LEAST = 1e-4
"""Added to counts that divide, as in the published code."""


def losses(
    config: CornernetConfig, stacks: Sequence[Predictions], targets: Sequence[InstanceTargets]
) -> dict[str, Tensor]:
    """`heat`: focal; `pull`, `push`: of the embeddings; `offset`: smooth L1. Means over the hourglasses, sums
    over corners and centres and, of the embeddings, over the images."""
    wanted = [targets_of(truth, config) for truth in targets]
    device = stacks[0].upper_left.heat.device
    terms = {name: torch.zeros((), device=device) for name in ("heat", "pull", "push", "offset")}
    for predictions in stacks:
        for found, part in zip(predictions, range(3), strict=True):
            if found is None:
                continue
            own = [each[part] for each in wanted]
            heat = torch.stack([each.heat for each in own])
            alpha, beta = config.losses.focal_alpha, config.losses.focal_beta
            terms["heat"] = terms["heat"] + peak_loss(found.heat, heat, alpha, beta)
            terms["offset"] = terms["offset"] + config.losses.offset * _offset_loss(found.offset, own)
        tags = [
            [tag.flatten()[each[part].cells] for tag, each in zip(found.tag, wanted, strict=True)]
            for part, found in enumerate(predictions.corners)
        ]
        for first, second in zip(*tags, strict=True):
            pull, push = embedding_losses(first, second)
            terms["pull"] = terms["pull"] + config.losses.pull * pull
            terms["push"] = terms["push"] + config.losses.push * push
    return {name: value / len(stacks) for name, value in terms.items()}


def embedding_losses(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Pull and push of one image's embeddings [n] of upper left and lower right corners.

    Both corners of a thing are drawn to their mean, the means of two things apart until they differ by 1.
    """
    count = len(first)
    mean = (first + second) / 2
    pull = ((first - mean) ** 2 + (second - mean) ** 2).sum() / (count + _LEAST)
    near = F.relu(1 - (mean[:, None] - mean).abs()) - 1 / (count + _LEAST)
    return pull, near.sum() / ((count - 1) * count + _LEAST)


def _offset_loss(offsets: Tensor, wanted: Sequence[CornerTargets]) -> Tensor:
    error, count = offsets.new_zeros(()), 0
    for offset, each in zip(offsets, wanted, strict=True):
        own = offset.flatten(1)[:, each.cells].T
        error = error + F.smooth_l1_loss(own, each.offsets, reduction="sum")
        count += len(each.cells)
    return error / (count + _LEAST)

"""Prior boxes: where the predictions of a YOLACT head are measured from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgewise.models.families.yolact.config import YolactConfig


def priors(config: YolactConfig) -> Tensor:
    """Centre-form priors float32 [P, 4] in fractions of the input, level by level, then y, x, scale, ratio.

    The order is the one in which a head's NHWC output flattens. Widths divide by the input width and heights
    by the input height; square anchors take the width for both.
    """
    height, width = config.input_size
    parts: list[Tensor] = []
    for scales, level in zip(config.anchors.scales, config.prediction_levels, strict=True):
        rows, columns = config.level_sizes[level]
        shapes = []
        for scale in scales:
            for ratio in config.anchors.ratios:
                across = scale * math.sqrt(ratio)
                down = across if config.anchors.square else scale / math.sqrt(ratio)
                shapes.append((across / width, down / height))
        cx = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns
        cy = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
        grid = torch.empty(rows, columns, len(shapes), 4, dtype=torch.float64)
        grid[..., 0] = cx[None, :, None]
        grid[..., 1] = cy[:, None, None]
        grid[..., 2:] = torch.tensor(shapes, dtype=torch.float64)
        parts.append(grid.reshape(-1, 4))
    return torch.cat(parts).float()

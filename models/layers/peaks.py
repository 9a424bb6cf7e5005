"""Heatmaps whose peaks are things or parts of them: how they are made, learnt and read.

From CornerNet (Law and Deng, 2018) and CenterNet (Zhou et al., 2019), which differ in the radius alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from edgewise.models.layers.rows import rows

_EDGE = 1e-4
"""Training keeps probabilities this far from 0 and 1."""


class Peaks(NamedTuple):
    """The best K peaks of N images."""

    scores: Tensor
    """float32 [N, K], falling; 0 where there are no more."""
    classes: Tensor
    """int64 [N, K]."""
    cells: Tensor
    """int64 [N, K], row * w + column."""


def peaks(logits: Tensor, count: int) -> Peaks:
    """The best `count` peaks of heatmaps float32 [N, C, h, w], fewer where there are fewer cells."""
    score = torch.sigmoid(logits)
    highest = F.max_pool2d(score, 3, 1, 1)
    score = score * (score == highest).to(score.dtype)
    cells = score.shape[2] * score.shape[3]
    of_class, places = score.flatten(2).topk(min(count, cells), dim=2)
    best, place = of_class.flatten(1).topk(min(count, of_class.shape[1] * of_class.shape[2]), dim=1)
    classes = torch.div(place, of_class.shape[2], rounding_mode="floor")
    return Peaks(best, classes, rows(places.flatten(1)[..., None], place)[..., 0])


def peak_radius(height: float, width: float, overlap: float, *, solved: bool) -> float:
    """How far both corners of a box may be off, in cells, for an IoU of `overlap`.

    Args:
        height, width: Of the box in cells.
        overlap: 0..1, exclusive.
        solved: As the quadratic equations want it (CornerNet's corrected code); otherwise as the code before
            it and CenterNet's count it, which do not divide by twice the leading coefficient and take the
            larger of both roots. Weights were trained with either, so both stay.
    """
    total, area = height + width, height * width
    cases = (
        (1.0, total, area * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * total, area * (1 - overlap)),
        (4 * overlap, -2 * overlap * total, area * (overlap - 1)),
    )
    radii: list[float] = []
    for a, b, c in cases:
        root = math.sqrt(b**2 - 4 * a * c)
        if solved:
            radii.append((b + root if b < 0 else b - root) / (2 * a))
        else:
            radii.append((b + root) / 2)
    return min(radii)


def draw_peak(heat: Tensor, cell: tuple[int, int], radius: int, sharpness: float = 6.0) -> None:
    """Raise a map [h, w] in place to a Gaussian around a cell (column, row), cut off at the radius.

    Its sigma is the diameter, 2 radius + 1, by `sharpness`.
    """
    height, width = heat.shape
    column, row = cell
    columns = torch.arange(max(column - radius, 0), min(column + radius + 1, width), device=heat.device)
    rows = torch.arange(max(row - radius, 0), min(row + radius + 1, height), device=heat.device)
    apart = (columns - column) ** 2 + ((rows - row) ** 2)[:, None]
    peak = torch.exp(-apart / (2 * ((2 * radius + 1) / sharpness) ** 2))
    part = heat[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    torch.maximum(part, peak, out=part)


def peak_loss(logits: Tensor, heat: Tensor, alpha: float, beta: float) -> Tensor:
    """Focal loss that forgives what is near a peak (Law and Deng, equation 1), by the number of peaks if any.

    A prediction p at a peak weighs (1 - p)^alpha, elsewhere p^alpha (1 - heat)^beta.

    Args:
        logits: float [N, C, h, w].
        heat: float [N, C, h, w], exactly 1 in the cells of centres.
    """
    found = torch.sigmoid(logits).clamp(_EDGE, 1 - _EDGE)
    peak = heat == 1.0
    right = -((1 - found) ** alpha) * torch.log(found)
    wrong = -((1 - heat) ** beta) * found**alpha * torch.log(1 - found)
    return torch.where(peak, right, wrong).sum() / peak.sum().clamp(min=1)

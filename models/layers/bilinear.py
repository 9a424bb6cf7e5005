"""Bilinear sampling at any points, as weighted sums of the rows of a table.

A feature map [N, C, H, W] is read as a table of N*H*W rows of C values. What is sampled is then a bag of rows
with weights, which a CPU sums along contiguous memory: RoIAlign and deformable convolution are both that.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class AxisTaps(NamedTuple):
    """The two pixels beside each position along one axis."""

    index: Tensor
    """int64 [..., 2], inside the map."""
    weight: Tensor
    """float [..., 2]; their sum is 1, or less where the map ends."""


def clamped_taps(positions: Tensor, size: Tensor) -> AxisTaps:
    """RoIAlign's border: 0 below -1 and above `size`, otherwise clamped to 0..size-1.

    Args:
        positions: float [...], 0 = centre of the first pixel.
        size: int64, broadcastable to `positions`: pixels along the axis.
    """
    inside = ((positions >= -1.0) & (positions <= size)).to(positions.dtype)
    last = (size - 1).to(positions.dtype)
    held = torch.minimum(positions.clamp(min=0.0), last)
    low = held.detach().floor()
    high = torch.minimum(low + 1.0, last)
    fraction = held - low
    index = torch.stack((low, high), dim=-1).to(torch.int64)
    return AxisTaps(index, torch.stack(((1.0 - fraction) * inside, fraction * inside), dim=-1))


def zero_padded_taps(positions: Tensor, size: int) -> AxisTaps:
    """The border of a zero-padded map: pixels outside 0..size-1 have weight 0.

    Args:
        positions: float [...], 0 = centre of the first pixel.
        size: Pixels along the axis.
    """
    held = positions.clamp(min=-1.0, max=float(size))
    low = held.detach().floor()
    fraction = held - low
    pixels = torch.stack((low, low + 1.0), dim=-1)
    inside = ((pixels >= 0.0) & (pixels <= size - 1.0)).to(positions.dtype)
    index = pixels.clamp(min=0.0, max=size - 1.0).to(torch.int64)
    return AxisTaps(index, torch.stack((1.0 - fraction, fraction), dim=-1) * inside)


def weighted_rows(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Sums of weighted rows; differentiable in the table and the weights.

    Args:
        table: float [T, C].
        index: int64 [B, L], rows of the table.
        weights: float [B, L].

    Returns:
        float [B, C].
    """
    if len(index) == 0:
        return table[:0] * 1.0
    return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")

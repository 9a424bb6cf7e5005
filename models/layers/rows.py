"""Gathering rows image by image in the one form that exports to a plain Gather."""

from __future__ import annotations

import torch
from torch import Tensor


def rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of each image: values [N, P, D] and index int64 [N, K] -> [N, K, D], as one flat Gather."""
    images, count, width = values.shape
    offsets = torch.arange(images, device=index.device)[:, None] * count
    return (
        values.reshape(images * count, width)
        .index_select(0, (index + offsets).flatten())
        .reshape(images, index.shape[1], width)
    )

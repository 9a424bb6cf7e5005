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


def by_cell(maps: Tensor) -> Tensor:
    """What maps say of each cell, for `rows`: [N, D, h, w] -> [N, h * w, D]."""
    return maps.flatten(2).transpose(1, 2)


def cell_places(cells: Tensor, width: int) -> Tensor:
    """Column and row of cells int64 [N, K], row * width + column -> float32 [N, K, 2]."""
    row = torch.div(cells, width, rounding_mode="floor")
    return torch.stack((cells - row * width, row), dim=2).to(torch.float32)


def anchor_rows(maps: Tensor, index: Tensor, width: int) -> Tensor:
    """What a head says of some anchors, without a transposed copy of all it says.

    Args:
        maps: [N, A * width, h, w], anchors outermost in the channels.
        index: int64 [N, K] into the anchors counted map by map: anchor * h * w + cell.
        width: Values of an anchor.

    Returns:
        [N, K, width].
    """
    images, channels, height, columns = maps.shape
    cells = height * columns
    anchor = torch.div(index, cells, rounding_mode="floor")
    image = torch.arange(images, device=index.device)[:, None] * (channels * cells)
    first = image + anchor * (width * cells) + (index - anchor * cells)
    places = first[..., None] + torch.arange(width, device=index.device) * cells
    return maps.flatten().index_select(0, places.flatten()).reshape(images, index.shape[1], width)

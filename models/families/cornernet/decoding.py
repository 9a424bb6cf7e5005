"""From corners to a fixed number of boxes: the best of both kinds, each with each, and the best of the pairs.

A pair is none whose corners differ in class, lie apart in their embeddings, or lie the wrong way round. The
published code lets a cell that is no peak take part with half the other's score where there are fewer peaks
than are asked for; here that is no pair.

Equal scores: ONNX's TopK takes the lower index first; torch.topk promises no order among them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from edgewise.models.families.cornernet.config import CornernetConfig
from edgewise.models.families.cornernet.network import Centres, Corners, Predictions
from edgewise.models.layers.peaks import peaks
from edgewise.models.layers.rows import by_cell, cell_places, rows
from edgewise.models.layers.slots import filled


class Detections(NamedTuple):
    """K slots for each of N images, best first; a slot with score 0 is empty and all zero."""

    boxes: Tensor
    """float32 [N, K, 4], corner form, input pixels; they may reach over the input's edge."""
    scores: Tensor
    """float32 [N, K]."""
    classes: Tensor
    """int64 [N, K], 0-based."""


class _Best(NamedTuple):
    """The best corners of one kind."""

    scores: Tensor
    """float32 [N, k]."""
    classes: Tensor
    """int64 [N, k]."""
    tags: Tensor
    """float32 [N, k]."""
    places: Tensor
    """float32 [N, k, 2], input pixels."""


def detect(predictions: Predictions, config: CornernetConfig) -> Detections:
    """The best pairs as boxes."""
    first, second = (_best(corners, config) for corners in predictions.corners)
    limit = config.decoding.tag_distance
    fits = (first.classes[:, :, None] == second.classes[:, None]) & (
        (first.tags[:, :, None] - second.tags[:, None]).abs() <= limit
    )
    for axis in (0, 1):
        fits = fits & (second.places[:, None, :, axis] >= first.places[:, :, None, axis])
    fits = fits & (first.scores[:, :, None] > 0.0) & (second.scores[:, None] > 0.0)
    count = first.scores.shape[1]
    scores = (first.scores[:, :, None] + second.scores[:, None]) / 2 * fits.to(first.scores.dtype)
    slots = config.decoding.slots
    best, pair = scores.flatten(1).topk(min(slots, count * count), dim=1)
    left = torch.div(pair, count, rounding_mode="floor")
    boxes = torch.cat((rows(first.places, left), rows(second.places, pair - left * count)), dim=2)
    classes = rows(first.classes[..., None], left)[..., 0]
    shown, boxes, classes = filled(best, slots, boxes, classes)
    return Detections(boxes, shown, classes)


class FoundCentres(NamedTuple):
    """K slots for each of N images, best first; a slot with score 0 is empty and all zero."""

    places: Tensor
    """float32 [N, K, 2], input pixels."""
    scores: Tensor
    """float32 [N, K]."""
    classes: Tensor
    """int64 [N, K], 0-based."""


def detect_centres(centres: Centres, config: CornernetConfig) -> FoundCentres:
    """The best centres."""
    found = peaks(centres.heat, config.decoding.corners)
    places = _places(found.cells, rows(by_cell(centres.offset), found.cells), config)
    scores, places, classes = filled(found.scores, config.decoding.corners, places, found.classes)
    return FoundCentres(places, scores, classes)


def _best(corners: Corners, config: CornernetConfig) -> _Best:
    found = peaks(corners.heat, config.decoding.corners)
    read = rows(by_cell(torch.cat((corners.tag, corners.offset), dim=1)), found.cells)
    places = _places(found.cells, read[..., 1:], config)
    return _Best(found.scores, found.classes, read[..., 0], places)


def _places(cells: Tensor, offsets: Tensor, config: CornernetConfig) -> Tensor:
    """Cells [N, k] and offsets within them [N, k, 2] -> x, y in input pixels."""
    places = cell_places(cells, config.map_size[1]) + offsets
    return places * torch.tensor(config.cell, device=places.device)

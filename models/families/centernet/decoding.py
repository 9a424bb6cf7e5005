"""From maps to a fixed number of boxes: peaks of the heatmaps, the best of them, and what stands at them.

A peak is a cell that no neighbour exceeds. CenterNet's steps: the best cells of each class, then the best of
all classes. Equal scores: ONNX's TopK takes the lower index first; torch.topk promises no order among them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from edgewise.models.families.centernet.config import STRIDE
from edgewise.models.families.centernet.network import Predictions
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


def detect(predictions: Predictions, slots: int) -> Detections:
    """The best peaks as boxes."""
    found = peaks(predictions.heat, slots)
    cells = cell_places(found.cells, predictions.heat.shape[3])
    centres = cells + rows(by_cell(predictions.offset), found.cells)
    half = rows(by_cell(predictions.size), found.cells) / 2
    boxes = STRIDE * torch.cat((centres - half, centres + half), dim=2)
    scores, boxes, classes = filled(found.scores, slots, boxes, found.classes)
    return Detections(boxes, scores, classes)

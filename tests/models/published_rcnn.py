"""What torchvision and detectron2 do with the raw heads of an R-CNN, of dynamic shape and step by step.

Written from the published behaviour: loops and Python numbers where they are short, no code of the stages.
RoIAlign of one region and one level is taken from the layers, which have tests of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgewise.models.families.rcnn.config import RcnnConfig
from edgewise.models.families.rcnn.network import Rcnn
from edgewise.models.layers.roi_align import roi_align

LARGEST = math.log(1000.0 / 16)


@dataclass(frozen=True)
class Original:
    """What differs between the two.

    Attributes:
        rounded: Anchors are rounded.
        aligned: RoIAlign subtracts half a cell.
        epsilon: (added to the argument of the logarithm, added to its value).
        background_first: Otherwise it is the last logit, and boxes and masks have no row for it.
        smallest: (side of a proposal, side of a detection) from which they stay.
    """

    rounded: bool
    aligned: bool
    epsilon: tuple[float, float]
    background_first: bool
    smallest: tuple[float, float]


TORCHVISION = Original(True, False, (0.0, 1e-6), True, (1e-3, 1e-2))
DETECTRON2 = Original(False, True, (1e-8, 0.0), False, (1e-30, 0.0))


@dataclass(frozen=True)
class Found:
    """n detections, best first, the maps of masks or points if it has any, how many proposals there were."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    maps: Tensor
    proposals: int


@torch.no_grad()
def detections(
    original: Original, config: RcnnConfig, module: Rcnn, images: Tensor, rows: list[int]
) -> Found:
    """Of one image; `rows` are the class rows among the logits."""
    features = module(images)
    proposals = _proposals(original, config, features.proposals)
    pooled = _pool(original, config, features.levels, proposals, config.box_bins)
    logits, deltas = module.box_head(pooled)
    probabilities = logits.softmax(dim=1)
    height, width = config.input_size
    candidates = []
    for region, anchor in enumerate(proposals):
        for label, row in enumerate(rows):
            score = float(probabilities[region, row])
            if score > config.decoding.score_threshold:
                box = _decode(deltas[region, row], anchor, (10.0, 10.0, 5.0, 5.0))
                box = _clip(box, height, width)
                if min(box[2] - box[0], box[3] - box[1]) >= original.smallest[1]:
                    candidates.append((score, label, box))
    kept = []
    for label in range(len(rows)):
        kept += _suppress([item for item in candidates if item[1] == label], config.decoding.iou_threshold)
    kept = sorted(kept, key=lambda item: -item[0])[: config.decoding.slots]
    # The end of detectron2's: what is empty in the picture is left out.
    kept = [item for item in kept if item[2][2] > item[2][0] and item[2][3] > item[2][1]]
    boxes = torch.tensor([item[2] for item in kept]).reshape(-1, 4)
    classes = torch.tensor([item[1] for item in kept], dtype=torch.int64)
    if module.mask_head is not None:
        assert config.mask is not None
        every = module.mask_head(_pool(original, config, features.levels, boxes, config.mask.bins))
        chosen = torch.tensor([rows[label] for label in classes.tolist()], dtype=torch.int64)
        maps = torch.sigmoid(every)[torch.arange(len(kept)), chosen]
    elif module.keypoint_head is None:
        maps = boxes.new_zeros(0)
    else:
        pooled = _pool(original, config, features.levels, boxes, config.keypoints.bins)
        maps = F.interpolate(module.keypoint_head(pooled), scale_factor=2, mode="bilinear")
    return Found(boxes, torch.tensor([item[0] for item in kept]), classes, maps, len(proposals))


def keypoints(maps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What both do with the doubled maps [n, k, h, w] of boxes: x and y [n, k, 2], and torchvision's and
    detectron2's score of each [n, k]."""
    places, logits, shares = [], [], []
    for doubled, (x1, y1, x2, y2) in zip(maps, boxes.tolist(), strict=True):
        width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
        columns, rows = math.ceil(width), math.ceil(height)
        resized = F.interpolate(doubled[None], (rows, columns), mode="bicubic", align_corners=False)[0]
        for low, high in zip(doubled, resized, strict=True):
            most = int(high.argmax())
            row, column = most // columns, most % columns
            places.append([x1 + (column + 0.5) * width / columns, y1 + (row + 0.5) * height / rows])
            logits.append(float(high.max()))
            shares.append(1.0 / float((low - high.max()).exp().sum()))
    shape = maps.shape[:2]
    return (
        torch.tensor(places).reshape(*shape, 2),
        torch.tensor(logits).reshape(shape),
        torch.tensor(shares).reshape(shape),
    )


def _proposals(original: Original, config: RcnnConfig, maps: Any) -> Tensor:
    height, width = config.input_size
    counts = config.decoding.proposals
    everything = []
    for level, (logits, deltas) in enumerate(zip(maps.objectness, maps.deltas, strict=True)):
        stride = config.level_strides[level]
        cells = []
        for size in config.anchor_sizes[level]:
            for ratio in config.anchor_ratios:
                w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
                corners = [-w / 2, -h / 2, w / 2, h / 2]
                cells.append([float(round(v)) for v in corners] if original.rounded else corners)
        scored = []
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                for index, cell in enumerate(cells):
                    shift = (x * stride, y * stride, x * stride, y * stride)
                    anchor = [value + by for value, by in zip(cell, shift, strict=True)]
                    regression = deltas[0, 4 * index : 4 * index + 4, y, x]
                    scored.append((float(logits[0, index, y, x]), anchor, regression))
        scored = sorted(scored, key=lambda item: -item[0])[: counts.candidates]
        boxes = []
        for score, anchor, regression in scored:
            box = _clip(_decode(regression, torch.tensor(anchor), (1.0, 1.0, 1.0, 1.0)), height, width)
            if min(box[2] - box[0], box[3] - box[1]) >= original.smallest[0]:
                boxes.append((score, 0, box))
        everything += _suppress(boxes, counts.iou_threshold)
    everything = sorted(everything, key=lambda item: -item[0])[: counts.kept]
    return torch.tensor([item[2] for item in everything]).reshape(-1, 4)


def _pool(original: Original, config: RcnnConfig, levels: Any, boxes: Tensor, bins: int) -> Tensor:
    inside, outside = original.epsilon
    pooled = []
    for box in boxes:
        area = float((box[2] - box[0]) * (box[3] - box[1]))
        size = math.sqrt(max(area, 0.0)) / config.canonical_size + inside
        level = math.floor(4 + (math.log2(size) if size > 0 else -99.0) + outside)
        index = min(max(level, 2), 5) - 2
        pooled.append(
            roi_align(
                levels[index],
                box[None],
                output=bins,
                scale=1.0 / config.level_strides[index],
                sampling=2,
                half_pixel=original.aligned,
            )[0]
        )
    return torch.stack(pooled) if pooled else levels[0].new_zeros(0, levels[0].shape[1], bins, bins)


def _decode(deltas: Tensor, anchor: Tensor, weights: tuple[float, ...]) -> list[float]:
    dx, dy, dw, dh = (float(value) / weight for value, weight in zip(deltas, weights, strict=True))
    x1, y1, x2, y2 = anchor.tolist()
    w, h = x2 - x1, y2 - y1
    x, y = x1 + 0.5 * w + dx * w, y1 + 0.5 * h + dy * h
    w, h = math.exp(min(dw, LARGEST)) * w, math.exp(min(dh, LARGEST)) * h
    return [x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h]


def _clip(box: list[float], height: int, width: int) -> list[float]:
    return [min(max(value, 0.0), limit) for value, limit in zip(box, (width, height) * 2, strict=True)]


def _suppress(items: list[tuple[float, int, list[float]]], threshold: float) -> list[Any]:
    kept: list[tuple[float, int, list[float]]] = []
    for item in sorted(items, key=lambda item: -item[0]):
        if all(_iou(item[2], other[2]) <= threshold for other in kept):
            kept.append(item)
    return kept


def _iou(a: list[float], b: list[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - width * height
    return width * height / union if union > 0 else 0.0

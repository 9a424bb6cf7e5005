"""From the maps of a region proposal network to a fixed number of boxes (Ren et al., 2015; FPN form).

Shapes and control flow do not depend on the data: TopK, one-dimensional Gather, element-wise arithmetic and
MatMul are all that is exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.nms import greedy_nms, rank_order
from edgewise.models.layers.rows import rows

TOPK_LIMIT = 3840
"""Largest K of TensorRT's TopK."""

DEAD = -1e30
"""The logit of what takes no part; real logits are above half of it."""


class ProposalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many proposals are looked at and kept.

    Attributes:
        candidates: Best anchors of each level that are decoded, at most 3840.
        kept: Proposals of an image, at most 3840.
        iou_threshold: Of the suppression within a level.
        smallest: Boxes with a side (after clipping) below this many network pixels take no part.
        rounds: Suppression rounds where the graph is exported; two equal ones prove the result.
    """

    candidates: int = 1000
    kept: int = 1000
    iou_threshold: float = 0.7
    smallest: float = 0.0
    rounds: int = 12

    def __post_init__(self) -> None:
        if not 0 < self.candidates <= TOPK_LIMIT or not 0 < self.kept <= TOPK_LIMIT:
            raise ValueError(
                f"candidates and kept lie in 1..{TOPK_LIMIT}, got {self.candidates} and {self.kept}"
            )
        if self.rounds < 2 or not 0.0 < self.iou_threshold <= 1.0:
            raise ValueError(
                f"rounds are at least 2 and the IoU threshold lies in (0, 1], got {self.rounds} and "
                f"{self.iou_threshold}"
            )


class Proposals(NamedTuple):
    """K slots for each of N images, best first, over all levels; empty slots are at the end."""

    boxes: Tensor
    """float32 [N, K, 4], corner form, network pixels, clipped; 0 in empty slots."""
    scores: Tensor
    """float32 [N, K], objectness probability; 0 in empty slots."""
    valid: Tensor
    """bool [N, K], false in empty slots."""
    settled: Tensor
    """bool [N]: every level's suppression is proven to be the sequential result."""


def per_anchor(maps: Tensor, width: int) -> Tensor:
    """Head output [N, A * width, h, w], anchors outermost in the channels -> [N, h * w * A, width].

    The rows come in the order of `anchors.level_anchors`.
    """
    images, _, height, columns = maps.shape
    by_anchor = maps.reshape(images, -1, width, height, columns).permute(0, 3, 4, 1, 2)
    return by_anchor.reshape(images, -1, width)


def proposals(
    objectness: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    *,
    coding: BoxCoding,
    extent: tuple[float, float] | Tensor,
    config: ProposalConfig,
    exact: bool = False,
    order: Tensor | None = None,
) -> Proposals:
    """Per level the best candidates, decoded, clipped and suppressed; then the best of all levels together.

    Equal scores: ONNX's TopK takes the lower index first; torch.topk promises no order among them.

    Args:
        objectness: Logits [N, A, h_l, w_l] of each level.
        deltas: Box regression [N, 4 A, h_l, w_l] of each level.
        anchors: float32 [h_l * w_l * A, 4] of each level, as `anchors.pyramid_anchors` gives them.
        coding: Box regression and corner convention.
        extent: (height, width) of the picture without padding, for all images or float32 [N, 2].
        config: Counts and thresholds.
        exact: Suppress until the result is settled instead of `config.rounds` times; not for export.
        order: From `nms.rank_order` for at least `config.candidates`, to share it with other suppressions of
            the same graph; None: made here, once for all levels.

    Returns:
        K = min(config.kept, sum of the levels' candidates) proposals an image.
    """
    counts = [min(config.candidates, len(level)) for level in anchors]
    if order is None:
        order = rank_order(max(counts), anchors[0].device)
    boxes, logits, settled = [], [], []
    for scores, regression, level, count in zip(objectness, deltas, anchors, counts, strict=True):
        ranked, index = per_anchor(scores, 1)[..., 0].topk(count, dim=1)
        chosen = level.index_select(0, index.flatten()).reshape(*index.shape, 4)
        decoded = coding.clip(coding.decode(rows(per_anchor(regression, 4), index), chosen), extent)
        width, height = coding.sides(decoded)
        valid = torch.minimum(width, height) >= config.smallest
        keep, proven = greedy_nms(
            decoded,
            None,
            valid,
            config.iou_threshold,
            None if exact else config.rounds,
            plus_one=coding.plus_one,
            order=order,
        )
        boxes.append(decoded)
        logits.append(torch.where(keep, ranked, DEAD))
        settled.append(proven)
    best, place = torch.cat(logits, dim=1).topk(min(config.kept, sum(counts)), dim=1)
    alive = best > DEAD / 2
    mask = alive.to(best.dtype)
    chosen = rows(torch.cat(boxes, dim=1), place) * mask[..., None]
    proven = torch.stack(settled).all(dim=0)
    return Proposals(chosen, torch.sigmoid(best) * mask, alive, proven)

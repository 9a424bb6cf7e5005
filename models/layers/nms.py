"""Non-maximum suppression as matrix operations of fixed shape.

Boxes arrive sorted by falling score; box i may suppress box j when i < j and IoU(i, j) > threshold. Neither
shapes nor control flow depend on the data, so it exports to any runtime with element-wise arithmetic and
MatMul.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgewise.models.layers.boxes import area, exclusive


def rank_order(count: int, device: torch.device | None = None) -> Tensor:
    """float32 [count, count], 0 where row < column, else -1e30: no box falls to a worse one or to itself.

    It becomes a constant of an exported graph. Where a graph suppresses several times, one matrix for the
    largest count serves all: its corner `[:k, :k]` is that of k boxes.
    """
    return torch.tril(torch.full((count, count), -1e30, device=device))


def _excess(boxes: Tensor, threshold: float, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`excess` [..., k, k], `limit` [..., k]: i < j and IoU(i, j) > t exactly where excess[i, j] > limit[j].

    IoU > t is inter > t/(1+t) * (area_i + area_j): no division, and boxes without area overlap nothing. Only
    one side of the intersection needs its clamp, because a product of a zero and a negative side is no
    overlap either; on a CPU every pass over [..., k, k] counts.
    """
    count = boxes.shape[-2]
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    limit = area(boxes) * (threshold / (1.0 + threshold))
    width = torch.minimum(x2[..., :, None], x2[..., None, :]) - torch.maximum(
        x1[..., :, None], x1[..., None, :]
    )
    height = torch.minimum(y2[..., :, None], y2[..., None, :]) - torch.maximum(
        y1[..., :, None], y1[..., None, :]
    )
    order = rank_order(count, boxes.device) if order is None else order[:count, :count]
    return torch.relu(width) * height - limit[..., :, None] + order, limit


def fast_nms(boxes: Tensor, threshold: float) -> Tensor:
    """Which boxes survive Fast NMS (Bolya et al., 2019, section 4.3): one round of suppression.

    A box falls to any better box that overlaps it, even to one that has fallen itself.

    Args:
        boxes: float32 [..., k, 4], corner form, sorted by falling score.
        threshold: Largest IoU, in (0, 1], at which both stay.

    Returns:
        bool [..., k].
    """
    excess, limit = _excess(boxes, threshold)
    return excess.amax(dim=-2) <= limit


def greedy_nms(
    boxes: Tensor,
    groups: Tensor | None,
    valid: Tensor,
    threshold: float,
    rounds: int | None,
    *,
    plus_one: bool = False,
    order: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Which boxes survive exact sequential suppression within their group, by a fixed number of rounds.

    keep <- valid and not (suppressors of j) . keep, starting from `valid`. The suppression matrix is strictly
    upper triangular, so the fixed point is unique and is the sequential answer; it is reached after as many
    rounds as the longest chain of suppressions, and two equal rounds prove that it is reached.

    Args:
        boxes: float32 [..., k, 4], corner form, sorted by falling score.
        groups: Numbers [..., k]; boxes of different groups (classes) do not meet. None: all are of one group.
        valid: bool [..., k]; the others neither survive nor suppress.
        threshold: Largest IoU, in (0, 1], at which both stay.
        rounds: Number of rounds, at least 2. None: as many as it takes, for code that is not exported.
        plus_one: Corners are inclusive: sides are x2 - x1 + 1 (Detectron).
        order: float32 [K, K], K >= k, from `rank_order`, to be shared; None: made here.

    Returns:
        bool [..., k]: survivors. bool [...]: settled, false where the rounds did not suffice for a proof.
    """
    if plus_one:
        boxes = exclusive(boxes)
    excess, limit = _excess(boxes, threshold, order)
    suppressed = excess > limit[..., None, :]
    if groups is not None:
        suppressed = suppressed & (groups[..., :, None] == groups[..., None, :])
    suppresses = suppressed.to(boxes.dtype)
    alive = valid.to(boxes.dtype)[..., None, :]
    keep, before = _suppression_round(alive, alive, suppresses), alive
    done = 1
    while (not torch.equal(keep, before)) if rounds is None else done < rounds:
        keep, before = _suppression_round(keep, alive, suppresses), keep
        done += 1
    settled = (keep - before).abs().amax(dim=(-2, -1)) < 0.5
    return keep[..., 0, :] > 0.5, settled


def _suppression_round(keep: Tensor, alive: Tensor, suppresses: Tensor) -> Tensor:
    """Who is alive and has no living suppressor; a row vector times the matrix counts exactly below 2^24."""
    return alive * (torch.matmul(keep, suppresses) < 0.5).to(keep.dtype)

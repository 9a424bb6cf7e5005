"""The panoptic head (Xiong et al., 2019, section 3.3): one argmax over stuff, instances and "unknown".

It has no weights. Boxes follow the Detectron convention of the published models: pixel indices, x2 and y2
inclusive, so a box covers x2 - x1 + 1 columns. Maps lie on a grid of `stride` input pixels a cell; cell c
reads the point stride * (c + 0.5) in corner coordinates, so with stride 1 the cells are the input's pixels.

The published inference resizes each mask into a window of the full input with OpenCV. A bilinear resize is
written here as two products with interpolation matrices: the same numbers at stride 1 up to rounding, and
with a larger stride the same surface read at cell centres (a box without a cell centre has an empty mask).
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

NEVER = -1e30
"""The logit of what cannot win."""


def centres(size: int, stride: int, like: Tensor) -> Tensor:
    """Corner coordinates, in input pixels, of the centres of `size` cells -> [size], dtype of `like`."""
    return (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) * stride


def inside(low: Tensor, high: Tensor, cells: Tensor) -> Tensor:
    """Which cell centres [size] lie in [low, high) of each of K intervals -> [K, size] of 0 and 1."""
    return ((cells >= low[:, None]) & (cells < high[:, None])).to(cells.dtype)


def box_windows(boxes: Tensor, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the semantic window of each box: from int(x1) up to and with round(x2).

    Args:
        boxes: float32 [K, 4], inclusive, input pixels.
        size: (height, width) of the grid.
        stride: Input pixels a cell.

    Returns:
        Two of 0 and 1: [K, height], [K, width].
    """
    low, high = torch.floor(boxes[:, :2]), torch.round(boxes[:, 2:]) + 1.0
    down = inside(low[:, 1], high[:, 1], centres(size[0], stride, boxes))
    across = inside(low[:, 0], high[:, 0], centres(size[1], stride, boxes))
    return down, across


def paste(logits: Tensor, boxes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Resize mask logits into their boxes, zero outside.

    The box's corners are truncated to whole pixels; inside them the map is sampled bilinearly, half-pixel
    centres, border repeated.

    Args:
        logits: float32 [K, m, m].
        boxes: float32 [K, 4], inclusive, input pixels, not negative.
        size: (height, width) of the grid.
        stride: Input pixels a cell.

    Returns:
        float32 [K, height, width].
    """
    low = torch.floor(boxes[:, :2])
    extent = torch.floor(boxes[:, 2:]) - low + 1.0
    down = _interpolation(low[:, 1], extent[:, 1], logits.shape[1], centres(size[0], stride, boxes))
    across = _interpolation(low[:, 0], extent[:, 0], logits.shape[2], centres(size[1], stride, boxes))
    return torch.matmul(torch.matmul(down, logits), across.transpose(1, 2))


def _interpolation(low: Tensor, extent: Tensor, bins: int, cells: Tensor) -> Tensor:
    """Weights [K, cells, bins] with which each cell reads the bins of its interval; rows outside are zero."""
    # The divisor of an empty box is never used, but a 0 there would end as NaN.
    position = (cells - low[:, None]) * (bins / extent.clamp(min=1.0))[:, None] - 0.5
    position = position.clamp(0.0, bins - 1.0)
    knots = torch.arange(bins, device=cells.device, dtype=cells.dtype)
    weights = torch.relu(1.0 - (position[:, :, None] - knots).abs())
    return weights * inside(low, low + extent, cells)[:, :, None]


def prune(
    masks: Tensor, classes: Tensor, valid: Tensor, overlap: float, rounds: int, pair_rounds: int = 0
) -> tuple[Tensor, Tensor]:
    """Which masks stay when, best first, each must be mostly free of the better masks of its class.

    Mask i is dropped when it is empty or when more than `overlap` of it lies under the union of the better
    masks of its class that stay. Whether i stays depends on better masks only, so repeating the rule for all
    at once has one fixed point, the sequential answer; two equal rounds prove that it is reached.

    Such a round moves as many values as all masks have. The areas that masks share in pairs are counted once,
    and rounds over those [K, K] values give what it begins with: a union counts as the sum of its parts
    there, which is right wherever no three masks of a class meet. One full round then proves it.

    Args:
        masks: [K, h, w] of 0 and 1 (float32), sorted by falling score.
        classes: int64 [K].
        valid: bool [K]; the others are not there.
        overlap: Share of the mask's area, in [0, 1].
        rounds: Over all pixels, at least 1.
        pair_rounds: Over pairs of masks, before those.

    Returns:
        bool [K]: kept. bool []: settled.
    """
    count = masks.shape[0]
    flat = masks.flatten(1)
    shared = torch.matmul(flat, flat.transpose(0, 1))
    area = (shared * torch.eye(count, device=masks.device, dtype=masks.dtype)).sum(dim=1)
    share = Fraction(overlap).limit_denominator(1000)
    present = (valid & (area > 0.5)).to(masks.dtype)
    better = torch.tril(torch.ones(count, count, device=masks.device, dtype=masks.dtype), diagonal=-1)
    rivals = better * (classes[:, None] == classes[None, :]).to(masks.dtype)

    def stay(common: Tensor) -> Tensor:
        # Whole numbers on both sides: exact below 2^24.
        return present * (common * share.denominator <= area * share.numerator).to(masks.dtype)

    keep = before = present
    for _ in range(pair_rounds):
        keep = stay((shared * rivals * keep[None, :]).sum(dim=1))
    for _ in range(rounds):
        before = keep
        covered = (torch.matmul(rivals * keep[None, :], flat) > 0.5).to(masks.dtype).reshape(masks.shape)
        keep = stay((covered * masks).sum(dim=(1, 2)))
    return keep > 0.5, (keep - before).abs().amax(dim=0) < 0.5


def thing_maps(scores: Tensor, boxes: Tensor, classes: Tensor, stuff_count: int, stride: int) -> Tensor:
    """Semantic scores of each instance's class inside its box, zero outside -> [K, h, w].

    Args:
        scores: float32 [stuff + things, h, w] semantic logits, stuff first.
        boxes: float32 [K, 4], inclusive, input pixels.
        classes: int64 [K], index into the things.
        stuff_count: Number of stuff channels.
        stride: Input pixels a cell of `scores`.
    """
    size = (scores.shape[1], scores.shape[2])
    down, across = box_windows(boxes, size, stride)
    chosen = scores.index_select(0, classes + stuff_count)
    return chosen * down[:, :, None] * across[:, None, :]


def panoptic_logits(
    scores: Tensor, things: Tensor, pasted: Tensor, alive: Tensor, stuff_count: int
) -> Tensor:
    """Logits of the stuff channels, of K instances, and of "unknown".

    Instance: its semantic map plus its pasted mask logits. Unknown: the best thing channel, minus the best
    semantic map of any instance. Slots that are not alive can neither win nor lower the unknown; with no
    instance alive the unknown is the best thing channel itself. (The published code then lets a zero map of
    no class compete, which wins only where every stuff channel and the unknown are negative.)

    Args:
        scores: float32 [stuff + things, h, w] semantic logits, stuff first.
        things: float32 [K, h, w], from `thing_maps`; K may be 0.
        pasted: float32 [K, h, w], from `paste`.
        alive: bool [K].
        stuff_count: Number of stuff channels.

    Returns:
        float32 [stuff + K + 1, h, w].
    """
    instances = torch.where(alive[:, None, None], things + pasted, NEVER)
    unknown = _unknown(scores[stuff_count:], things, alive)
    return torch.cat((scores[:stuff_count], instances, unknown[None]))


def _unknown(things_scores: Tensor, things: Tensor, alive: Tensor) -> Tensor:
    """The best thing channel, minus the best semantic map of any instance that is alive -> [h, w]."""
    anything = things_scores.amax(dim=0)
    if things.shape[0] == 0:
        return anything
    explained = torch.where(alive[:, None, None], things, NEVER).amax(dim=0)
    return anything - torch.where(explained > 0.5 * NEVER, explained, 0.0)


def winners(scores: Tensor, things: Tensor, pasted: Tensor, alive: Tensor, stuff_count: int) -> Tensor:
    """`panoptic_logits(...).argmax(dim=0)` without the stack of all logits in memory -> int32 [h, w].

    Of equal logits the first one wins: stuff before instances before "unknown".
    """
    stuff, best_stuff = scores[:stuff_count].max(dim=0)
    instance, best_instance = torch.where(alive[:, None, None], things + pasted, NEVER).max(dim=0)
    slot, channel = best_instance.to(torch.int32), best_stuff.to(torch.int32)
    found = torch.where(instance > stuff, slot + stuff_count, channel)
    last = stuff_count + things.shape[0]
    unknown = _unknown(scores[stuff_count:], things, alive)
    return torch.where(unknown > torch.maximum(stuff, instance), last, found)


class PanopticMap(NamedTuple):
    """What the panoptic head says of one image."""

    segments: Tensor
    """int32 [h, w]: stuff channel, or stuff_count + slot, or stuff_count + K for unknown."""
    alive: Tensor
    """bool [K]: slots that competed."""
    settled: Tensor
    """bool []: the pruning is proven to be the sequential one."""


def panoptic_map(
    scores: Tensor,
    logits: Tensor,
    boxes: Tensor,
    classes: Tensor,
    valid: Tensor,
    stuff_count: int,
    stride: int,
    overlap: float,
    rounds: int,
    pair_rounds: int = 0,
) -> PanopticMap:
    """Paste, prune and compete: the whole head at inference.

    Where every candidate is pruned (all masks are empty) the first one stays with a zero mask, and its
    semantic map counts. Nothing else that is pruned or empty takes part.

    Args:
        scores: float32 [stuff + things, h, w] semantic logits, stuff first.
        logits: float32 [K, m, m], mask logits of each slot's class.
        boxes: float32 [K, 4], inclusive, input pixels.
        classes: int64 [K], index into the things.
        valid: bool [K]: the slot holds a candidate; candidates come first, by falling score.
        stuff_count: Number of stuff channels.
        stride: Input pixels a cell of `scores`.
        overlap, rounds, pair_rounds: As in `prune`.
    """
    size = (scores.shape[1], scores.shape[2])
    pasted = paste(logits, boxes, size, stride)
    keep, settled = prune((pasted > 0.0).to(pasted.dtype), classes, valid, overlap, rounds, pair_rounds)
    rank = torch.arange(keep.shape[0], device=keep.device)
    none = keep.to(pasted.dtype).amax(dim=0) < 0.5
    alive = keep | (valid & (rank == 0) & none)
    pasted = pasted * keep.to(pasted.dtype)[:, None, None]
    things = thing_maps(scores, boxes, classes, stuff_count, stride)
    segments = winners(scores, things, pasted, alive, stuff_count)
    return PanopticMap(segments, alive, settled)

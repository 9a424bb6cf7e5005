"""A fixed number of slots for what survives suppression: the best first, the rest empty and all zero."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from edgewise.models.layers.nms import greedy_nms


class Survivors(NamedTuple):
    """The best of N images' candidates, by falling score."""

    scores: Tensor
    """float32 [N, S]; 0 where there is none."""
    places: Tensor
    """int64 [N, S], which candidate it is."""
    settled: Tensor
    """bool [N]: this is proven to be the sequential result."""


def best_survivors(
    boxes: Tensor,
    classes: Tensor | None,
    scores: Tensor,
    slots: int,
    threshold: float,
    rounds: int,
    *,
    more: bool,
    plus_one: bool = False,
) -> Survivors:
    """The best `slots` of what survives sequential suppression within its class.

    Args:
        boxes: float32 [N, k, 4], corner form.
        classes: [N, k]; None where there is one.
        scores: float32 [N, k], falling; what has 0 takes no part.
        slots: Fewer only where there are fewer candidates.
        threshold, rounds, plus_one: As in `greedy_nms`.
        more: Whether there are candidates behind these, which score no more than the last. They cannot matter
            where the last takes no part, for then they take none, or where better ones fill every slot.
    """
    valid = scores > 0.0
    keep, settled = greedy_nms(boxes, classes, valid, threshold, rounds, plus_one=plus_one)
    count = scores.shape[-1]
    best, places = (scores * keep.to(scores.dtype)).topk(min(slots, count), dim=-1)
    if more:
        complete = ~valid[..., -1]
        if slots <= count:
            complete = complete | (best[..., -1] > 0.0)
        settled = settled & complete
    return Survivors(best, places, settled)


def filled(scores: Tensor, slots: int, *values: Tensor) -> tuple[Tensor, ...]:
    """Scores [N, S] and their values [N, S] or [N, S, D], zero where the score is 0, in `slots` slots."""
    full = scores > 0.0
    missing = slots - scores.shape[1]
    shown = [scores]
    for value in values:
        mask = full if value.ndim == 2 else full[..., None]
        shown.append(torch.where(mask, value, 0.0 if value.is_floating_point() else 0))
    if missing <= 0:
        return tuple(shown)
    return tuple(
        torch.nn.functional.pad(value, (0, missing) if value.ndim == 2 else (0, 0, 0, missing))
        for value in shown
    )

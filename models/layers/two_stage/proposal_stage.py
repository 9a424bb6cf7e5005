"""The first stage: a region proposal network on a pyramid (Ren et al., 2015; Lin et al., 2017, section 4.1).

From its maps to a fixed number of boxes, shapes and control flow do not depend on the data: TopK,
one-dimensional Gather, element-wise arithmetic and MatMul are all that is exported.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.layers.anchors import AnchorRule, per_anchor, pyramid_anchors
from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.nms import greedy_nms, rank_order
from edgewise.models.layers.rows import rows
from edgewise.models.layers.two_stage.sampling import (
    BACKGROUND,
    FOREGROUND,
    NEUTRAL,
    AnchorSampling,
    Objects,
    anchor_targets,
)

TOPK_LIMIT = 3840
"""Largest K of TensorRT's TopK."""

DEAD = -1e30
"""The logit of what takes no part; real logits are above half of it."""


class ProposalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many proposals are looked at and kept: suppressed level by level, then the best of all levels.

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

    def of_images(self) -> tuple[Tensor, ...]:
        """The boxes [k, 4] of each image without its empty slots; not for export."""
        return tuple(boxes[valid] for boxes, valid in zip(self.boxes, self.valid, strict=True))


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
    slots = max(counts)
    if order is None:
        order = rank_order(slots, anchors[0].device)
    ranked, regression, chosen = [], [], []
    for scores, deltas_here, level, count in zip(objectness, deltas, anchors, counts, strict=True):
        best, index = per_anchor(scores, 1)[..., 0].topk(count, dim=1)
        missing = slots - count
        ranked.append(F.pad(best, (0, missing), value=DEAD))
        regression.append(F.pad(rows(per_anchor(deltas_here, 4), index), (0, 0, 0, missing)))
        own = level.index_select(0, index.flatten()).reshape(*index.shape, 4)
        chosen.append(F.pad(own, (0, 0, 0, missing)))
    logits = torch.stack(ranked, dim=1)
    boxes = coding.clip(coding.decode(torch.stack(regression, dim=1), torch.stack(chosen, dim=1)), extent)
    width, height = coding.sides(boxes)
    there = torch.arange(slots, device=boxes.device) < torch.tensor(counts, device=boxes.device)[:, None]
    valid = (torch.minimum(width, height) >= config.smallest) & there
    keep, settled = _suppressed(boxes, valid, config, coding, order, exact=exact)
    survivors = torch.where(keep, logits, DEAD).flatten(1)
    best, place = survivors.topk(min(config.kept, sum(counts)), dim=1)
    alive = best > DEAD / 2
    mask = alive.to(best.dtype)
    kept = rows(boxes.flatten(1, 2), place) * mask[..., None]
    return Proposals(kept, torch.sigmoid(best) * mask, alive, settled)


def _suppressed(
    boxes: Tensor, valid: Tensor, config: ProposalConfig, coding: BoxCoding, order: Tensor, *, exact: bool
) -> tuple[Tensor, Tensor]:
    """Which candidates [N, levels, k] of boxes [N, levels, k, 4] survive on their level; bool [N]: settled.

    All levels go through each round together: a round is then one kernel of a compiled graph, not one a
    level. Without a limit they go one by one, as each takes its own number of rounds and its own memory.
    """

    def suppress(boxes: Tensor, valid: Tensor, rounds: int | None) -> tuple[Tensor, Tensor]:
        return greedy_nms(
            boxes, None, valid, config.iou_threshold, rounds, plus_one=coding.plus_one, order=order
        )

    if not exact:
        keep, settled = suppress(boxes, valid, config.rounds)
        return keep, settled.all(dim=1)
    levels = [suppress(*level, None) for level in zip(boxes.unbind(1), valid.unbind(1), strict=True)]
    keeps, proofs = zip(*levels, strict=True)
    return torch.stack(keeps, dim=1), torch.stack(proofs).all(dim=0)


class Divisor(enum.Enum):
    """What the sum of a loss term over the sampled anchors of an image is divided by."""

    WHOLE_SAMPLE = "whole-sample"
    """As many anchors as a sample should have."""
    SAMPLED = "sampled"
    """As many as were sampled."""

    def of(self, sampled: int, sampling: AnchorSampling) -> int:
        return sampling.count if self is Divisor.WHOLE_SAMPLE else max(sampled, 1)


class ProposalStageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes and conventions of the stage.

    Attributes:
        inputs: Channels of the pyramid, and of the hidden layers.
        convolutions: How many hidden layers.
        strides: Input pixels a cell of each level, finest first.
        grids: (rows, columns) of each level.
        anchor_sizes: Square roots of the anchors' areas of each level, input pixels.
        anchor_ratios: Height over width of the anchors of each size.
        anchor_rule: Rounding and centre of the anchors.
        coding: Box regression and corner convention.
        extent: (height, width) that proposals are clipped to.
        sampling: Which anchors are learnt from.
        beta: Where the smooth L1 loss turns linear; 0: L1.
        objectness_divisor: Of the objectness term.
        box_divisor: Of the box term.
    """

    inputs: int
    convolutions: int
    strides: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]
    anchor_sizes: tuple[tuple[float, ...], ...]
    anchor_ratios: tuple[float, ...]
    anchor_rule: AnchorRule
    coding: BoxCoding
    extent: tuple[int, int]
    sampling: AnchorSampling
    beta: float
    objectness_divisor: Divisor
    box_divisor: Divisor

    def anchors(self) -> tuple[Tensor, ...]:
        """Those of each level, float32 [rows * columns * A, 4], corner form, input pixels."""
        return pyramid_anchors(
            self.grids, self.strides, self.anchor_sizes, self.anchor_ratios, self.anchor_rule
        )


class ProposalMaps(NamedTuple):
    """What the head says of every anchor, level by level, finest first; A anchors a cell."""

    objectness: tuple[Tensor, ...]
    """Logits float32 [N, A, h, w]."""
    deltas: tuple[Tensor, ...]
    """float32 [N, 4 A, h, w] against the anchors, a cell's anchors outermost."""


class ProposalStage(nn.Module):
    """Objectness and box deltas of every anchor, by one head for all levels.

    Keys: `conv`, `further.{i}` (hidden layers after the first), `objectness`, `deltas`, each
    `.{weight,bias}`.
    """

    def __init__(self, config: ProposalStageConfig) -> None:
        super().__init__()
        self.config = config
        cell = len(config.anchor_ratios) * len(config.anchor_sizes[0])
        self.conv = nn.Conv2d(config.inputs, config.inputs, 3, 1, 1)
        self.further = nn.ModuleList(
            nn.Conv2d(config.inputs, config.inputs, 3, 1, 1) for _ in range(config.convolutions - 1)
        )
        self.objectness = nn.Conv2d(config.inputs, cell, 1)
        self.deltas = nn.Conv2d(config.inputs, 4 * cell, 1)
        for index, level in enumerate(config.anchors()):
            self.register_buffer(f"anchors_{index}", level, persistent=False)

    @property
    def anchors(self) -> tuple[Tensor, ...]:
        """Anchors of each level, float32 [h * w * A, 4], corner form, input pixels."""
        return tuple(getattr(self, f"anchors_{index}") for index in range(len(self.config.strides)))

    def forward(self, levels: Sequence[Tensor]) -> ProposalMaps:
        """Levels [N, inputs, h, w] -> the maps of each."""
        hidden = list(levels)
        for convolution in (self.conv, *self.further):
            hidden = [F.relu(convolution(level)) for level in hidden]
        return ProposalMaps(tuple(map(self.objectness, hidden)), tuple(map(self.deltas, hidden)))

    def propose(
        self,
        maps: ProposalMaps,
        counts: ProposalConfig,
        *,
        exact: bool = False,
        order: Tensor | None = None,
    ) -> Proposals:
        """`proposals` of the head's own anchors; `exact` and `order` as there."""
        return proposals(
            maps.objectness,
            maps.deltas,
            self.anchors,
            coding=self.config.coding,
            extent=self.config.extent,
            config=counts,
            exact=exact,
            order=order,
        )

    def loss(self, maps: ProposalMaps, objects: Sequence[Objects]) -> tuple[Tensor, Tensor]:
        """Objectness term: binary cross-entropy of sampled anchors. Box term: smooth L1 of the foreground.

        Sums over the anchors of an image, divided as the config says; means over the images.
        """
        config = self.config
        logits = torch.cat([per_anchor(level, 1)[..., 0] for level in maps.objectness], dim=1)
        deltas = torch.cat([per_anchor(level, 4) for level in maps.deltas], dim=1)
        anchors = torch.cat(self.anchors)
        objectness, anchor_box = logits.new_zeros(()), logits.new_zeros(())
        for index, image in enumerate(objects):
            wanted = anchor_targets(
                anchors,
                image.boxes,
                image.crowd_boxes,
                coding=config.coding,
                sampling=config.sampling,
                extent=config.extent,
            )
            taken = torch.nonzero(wanted.labels != NEUTRAL).flatten()
            positive = torch.nonzero(wanted.labels == FOREGROUND).flatten()
            labels = (wanted.labels[taken] != BACKGROUND).to(logits.dtype)
            entropy = F.binary_cross_entropy_with_logits(logits[index, taken], labels, reduction="sum")
            difference = F.smooth_l1_loss(
                deltas[index, positive], wanted.deltas[positive], beta=config.beta, reduction="sum"
            )
            objectness = objectness + entropy / config.objectness_divisor.of(len(taken), config.sampling)
            anchor_box = anchor_box + difference / config.box_divisor.of(len(taken), config.sampling)
        return objectness / len(objects), anchor_box / len(objects)

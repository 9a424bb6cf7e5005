"""Which anchors and boxes a two-stage detector learns from: matching and random sampling (Ren et al., 2015).

Boxes, anchors and crowd regions are in corner form and network pixels, in the convention that the `BoxCoding`
names: with `plus_one` their ends are inclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from edgewise.models.layers import boxes as box_ops
from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.matching import match

FOREGROUND, BACKGROUND, NEUTRAL = 1, 0, -1


class Objects(NamedTuple):
    """What is to be found in one image, in input pixels and the stages' corner convention."""

    boxes: Tensor
    """float32 [n, 4]."""
    classes: Tensor
    """int64 [n], 0-based."""
    masks: Tensor
    """[n, H, W] of 0 and 1."""
    crowd_boxes: Tensor
    """float32 [c, 4]."""


class AnchorSampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a proposal network learns from in one image.

    Attributes:
        count: Anchors, fewer only where there are not as many.
        foreground_fraction: Largest share of foreground among `count`.
        positive_iou: From this IoU with an object an anchor is foreground; so is each object's best anchor.
        negative_iou: Below this IoU with every object it is background; between the two it takes no part.
        border: Anchors that reach over the image by more than this many pixels take no part; None: all may.
        crowd_coverage: An anchor that lies in a crowd region by more than this share is not background.
    """

    count: int = 256
    foreground_fraction: float = 0.5
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    border: float | None = None
    crowd_coverage: float = 0.7


class RoiSampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the heads on regions learn from in one image.

    Attributes:
        count: Boxes, fewer only where there are not as many.
        foreground_fraction: Largest share of foreground among `count`.
        positive_iou: From this IoU with an object a box is foreground with the object's class.
        negative_iou: Below this IoU with every object it is background; between the two it takes no part.
        crowd_coverage: A box that lies in a crowd region by more than this share is not background.
    """

    count: int = 512
    foreground_fraction: float = 0.25
    positive_iou: float = 0.5
    negative_iou: float = 0.5
    crowd_coverage: float = 0.7


@dataclass(frozen=True)
class AnchorTargets:
    """For each of P anchors of one image.

    Attributes:
        labels: int64 [P], FOREGROUND, BACKGROUND or NEUTRAL (not sampled).
        objects: int64 [P], index of the object it overlaps most; meaningful where foreground.
        deltas: float32 [P, 4], regression targets; 0 where not foreground.
    """

    labels: Tensor
    objects: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class RoiTargets:
    """R sampled boxes of one image, the foreground first.

    Attributes:
        rois: float32 [R, 4], corner form.
        classes: int64 [R], 0-based class of the object, or -1: background.
        objects: int64 [R], index of the object; 0 for background.
        deltas: float32 [R, 4], regression targets; 0 for background.
        foreground: How many of the R are foreground.
    """

    rois: Tensor
    classes: Tensor
    objects: Tensor
    deltas: Tensor
    foreground: int


@dataclass(frozen=True)
class Regions:
    """Sampled boxes of the whole batch.

    Attributes:
        per_image: Those of each image.
        boxes: float32 [R, 4], all images, corner form.
        images: int64 [R], which image each lies in.
    """

    per_image: tuple[RoiTargets, ...]
    boxes: Tensor
    images: Tensor


@torch.no_grad()
def anchor_targets(
    anchors: Tensor,
    boxes: Tensor,
    crowd_boxes: Tensor,
    *,
    coding: BoxCoding,
    sampling: AnchorSampling,
    extent: tuple[float, float],
    generator: torch.Generator | None = None,
) -> AnchorTargets:
    """Choose the anchors of one image that the proposal network learns from.

    Every object keeps all anchors that share its largest IoU, whatever that is, unless it is 0.

    Args:
        anchors: float32 [P, 4], all levels.
        boxes: float32 [n, 4], objects; n may be 0.
        crowd_boxes: float32 [c, 4]; c may be 0.
        coding: Box regression and corner convention.
        sampling: Counts and thresholds.
        extent: (height, width) of the image, for `sampling.border`.
        generator: Source of the random choice; None: torch's own.
    """
    allowed = _inside(anchors, extent, sampling.border, coding)
    index = torch.nonzero(allowed).flatten()
    labels = torch.full((len(anchors),), NEUTRAL, dtype=torch.int64, device=anchors.device)
    objects = torch.zeros_like(labels)
    deltas = torch.zeros_like(anchors)
    taking = anchors[index]
    found = match(taking, boxes, crowd_boxes, sampling, coding, keep_best=True)
    kept_positive, kept_negative = _sample(
        found.positive, found.negative, sampling.count, sampling.foreground_fraction, generator
    )
    labels[index[kept_negative]] = BACKGROUND
    labels[index[kept_positive]] = FOREGROUND
    objects[index] = found.objects
    if len(boxes):
        chosen = index[kept_positive]
        deltas[chosen] = coding.encode(boxes[objects[chosen]], anchors[chosen])
    return AnchorTargets(labels, objects, deltas)


@torch.no_grad()
def roi_targets(
    candidates: Tensor,
    boxes: Tensor,
    classes: Tensor,
    crowd_boxes: Tensor,
    *,
    coding: BoxCoding,
    sampling: RoiSampling,
    generator: torch.Generator | None = None,
) -> RoiTargets:
    """Choose the boxes of one image that the heads learn from, the objects' own among the candidates.

    Args:
        candidates: float32 [K, 4], proposals (valid ones only).
        boxes: float32 [n, 4], objects; n may be 0.
        classes: int64 [n], 0-based.
        crowd_boxes: float32 [c, 4]; c may be 0.
        coding: Box regression and corner convention.
        sampling: Counts and thresholds.
        generator: Source of the random choice; None: torch's own.
    """
    pool = torch.cat((candidates, boxes))
    found = match(pool, boxes, crowd_boxes, sampling, coding, keep_best=False)
    foreground, background = _sample(
        found.positive, found.negative, sampling.count, sampling.foreground_fraction, generator
    )
    chosen = torch.cat((foreground, background))
    wanted = torch.full((len(chosen),), -1, dtype=torch.int64, device=pool.device)
    objects = torch.zeros_like(wanted)
    deltas = torch.zeros(len(chosen), 4, dtype=pool.dtype, device=pool.device)
    count = len(foreground)
    if count:
        objects[:count] = found.objects[foreground]
        wanted[:count] = classes[objects[:count]]
        deltas[:count] = coding.encode(boxes[objects[:count]], pool[foreground])
    return RoiTargets(pool[chosen], wanted, objects, deltas, count)


def sample_regions(
    candidates: Sequence[Tensor], objects: Sequence[Objects], *, coding: BoxCoding, sampling: RoiSampling
) -> Regions:
    """`roi_targets` of every image of a batch.

    Args:
        candidates: float32 [K, 4] of each image, as `Proposals.of_images` gives them.
        objects: Of each image.
        coding: Box regression and corner convention of the box stage.
        sampling: Counts and thresholds.
    """
    chosen = tuple(
        roi_targets(boxes, image.boxes, image.classes, image.crowd_boxes, coding=coding, sampling=sampling)
        for boxes, image in zip(candidates, objects, strict=True)
    )
    boxes = torch.cat([item.rois for item in chosen])
    counts = torch.tensor([len(item.rois) for item in chosen], device=boxes.device)
    images = torch.arange(len(chosen), device=boxes.device).repeat_interleave(counts)
    return Regions(chosen, boxes, images)


def _inside(anchors: Tensor, extent: tuple[float, float], border: float | None, coding: BoxCoding) -> Tensor:
    """bool [P]: which anchors stay within the image widened by `border`."""
    if border is None:
        return torch.ones(len(anchors), dtype=torch.bool, device=anchors.device)
    ends = box_ops.exclusive(anchors) if coding.plus_one else anchors
    x1, y1, x2, y2 = ends.unbind(dim=1)
    height, width = extent
    return (x1 >= -border) & (y1 >= -border) & (x2 <= width + border) & (y2 <= height + border)


def _sample(
    positive: Tensor, negative: Tensor, count: int, fraction: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Indices of at most count * fraction positives, and of negatives up to `count` in all, at random."""
    foreground = _draw(positive, int(count * fraction), generator)
    return foreground, _draw(negative, count - len(foreground), generator)


def _draw(mask: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """At most `count` indices of true elements, in random order."""
    index = torch.nonzero(mask).flatten()
    order = torch.randperm(
        len(index), generator=generator, device="cpu" if generator is None else generator.device
    )
    return index[order[:count].to(index.device)]

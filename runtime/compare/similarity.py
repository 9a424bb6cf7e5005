"""How alike two things found in the same frame are, 0..1: their masks, or their keypoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.masks import BoolArray, IntArray, MaskCrops, mask_iou
from edgewise.runtime.system.errors import ResultError

DEFAULT_SIGMA = 0.05
"""Of every keypoint, where the layout states none."""
AREA_OF_BOX = 0.53
"""A person's area as a share of the box, where no mask tells it: the mean over COCO's people."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outlines:
    """n masks with their boxes: alike by intersection over union.

    Args:
        masks: n crops.
        boxes: float64 [n, 4], xyxy in source pixels; they tell empty masks apart.
    """

    masks: MaskCrops
    boxes: Floats

    def __len__(self) -> int:
        return len(self.masks)

    def select(self, indices: IntArray) -> Outlines:
        return Outlines(self.masks.select(indices), self.boxes[indices])


@dataclass(frozen=True, eq=False)
class Joints:
    """n people of k keypoints: alike by COCO's object keypoint similarity.

    Args:
        points: float64 [n, k, 2], source pixels.
        judged: bool [n, k], the keypoints that a reference vouches for; of a person without any, all count.
        boxes: float64 [n, 4], xyxy in source pixels: a person's size is AREA_OF_BOX of the box.
        sigmas: float64 [k], COCO's constants.
    """

    points: Floats
    judged: BoolArray
    boxes: Floats
    sigmas: Floats

    def __len__(self) -> int:
        return len(self.points)

    def select(self, indices: IntArray) -> Joints:
        return Joints(self.points[indices], self.judged[indices], self.boxes[indices], self.sigmas)


Shapes = Outlines | Joints


@dataclass(frozen=True, eq=False)
class Likeness:
    """Every pair of n reference and m candidate shapes.

    Attributes:
        similarity: float64 [n, m], 0..1.
        affinity: float64 [n, m], 0..1, by which partners are found: the similarity, but of two empty masks,
            which are equal wherever they are, the IoU of their boxes.
    """

    similarity: Floats
    affinity: Floats


def likeness(reference: Shapes, candidate: Shapes) -> Likeness:
    """How alike every pair is.

    Raises:
        ResultError: Masks of frames of different size, people of another number of keypoints, or a mask
            against a person.
    """
    if isinstance(reference, Outlines) and isinstance(candidate, Outlines):
        return _outline_likeness(reference, candidate)
    if isinstance(reference, Joints) and isinstance(candidate, Joints):
        alike = _keypoint_similarity(reference, candidate)
        return Likeness(alike, alike)
    raise ResultError("masks and keypoints cannot be compared")


def _outline_likeness(reference: Outlines, candidate: Outlines) -> Likeness:
    ious = mask_iou(reference.masks, candidate.masks)
    both_empty = (reference.masks.areas() == 0)[:, None] & (candidate.masks.areas() == 0)[None]
    return Likeness(
        similarity=np.where(both_empty, 1.0, ious),
        affinity=np.where(both_empty, _box_iou(reference.boxes, candidate.boxes), ious),
    )


def _keypoint_similarity(reference: Joints, candidate: Joints) -> Floats:
    """Mean of exp(-d^2 / (2 area (2 sigma)^2)) over the keypoints that the reference vouches for."""
    if len(reference.sigmas) != len(candidate.sigmas):
        raise ResultError(
            f"people of {len(reference.sigmas)} and of {len(candidate.sigmas)} keypoints cannot be compared"
        )
    squares = ((reference.points[:, None] - candidate.points[None]) ** 2).sum(axis=3)
    areas = AREA_OF_BOX * _areas(reference.boxes)
    spread = 2.0 * np.maximum(areas, 1.0)[:, None] * (2.0 * np.maximum(reference.sigmas, 1e-6)) ** 2
    alike = np.exp(-squares / spread[:, None])
    unsure = ~reference.judged.any(axis=1, keepdims=True)
    counted = (reference.judged | unsure)[:, None]
    return (alike * counted).sum(axis=2) / np.maximum(counted.sum(axis=2), 1)


def _box_iou(first: Floats, second: Floats) -> Floats:
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    far = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(far - corner, 0, None).prod(axis=2)
    union = _areas(first)[:, None] + _areas(second)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _areas(boxes: Floats) -> Floats:
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)

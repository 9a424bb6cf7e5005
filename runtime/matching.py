"""How far two results of the same frame agree: which instances are the same, and by how much they differ.

The rule, used by `selftest` and by the workstation's parity alike:

- Partners have the same class and a mask IoU of at least 0.5; where both masks are empty the boxes' IoU
  stands in. The best pair is taken first, each instance once.
- Only instances that a user sees are judged. With the display threshold t and a margin m, an instance of
  score t + m or more *must* find a partner of score t - m or more on the other side; an instance between
  t - m and t + m may, because a permitted score error can carry it over the threshold.
- A missing and an invented instance weigh alike: the matched fraction is the smaller of the two sides'
  shares. Two empty results agree fully; of one empty and one not, nothing is matched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.errors import ResultError
from edgewise.runtime.geometry import Size
from edgewise.runtime.manifest import Budget
from edgewise.runtime.manifest_kinds import Postprocess
from edgewise.runtime.masks import BoolArray, IntArray, MaskCrops, crop_dense, mask_iou
from edgewise.runtime.results import Instances
from edgewise.runtime.rle import decode_rle

PARTNER_IOU = 0.5
LARGEST_MARGIN = 0.05
MARGIN_OF_SCORE_BUDGET = 3.0


@dataclass(frozen=True, eq=False)
class Detections:
    """What matching looks at.

    Attributes:
        categories: int64 [n], the dataset's category ids.
        scores: float64 [n].
        boxes: float64 [n, 4], xyxy in source pixels.
        masks: n crops.
    """

    categories: IntArray
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    masks: MaskCrops

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of_instances(cls, instances: Instances) -> Detections:
        """The detections of a session's result."""
        ids = np.array([label.id for label in instances.labels], np.int64)
        return cls(
            ids[instances.classes],
            instances.scores.astype(np.float64),
            instances.boxes.astype(np.float64),
            instances.masks,
        )

    @classmethod
    def of_coco(cls, records: Sequence[Mapping[str, Any]], frame_size: Size) -> Detections:
        """The detections of COCO result records of one image, as `Instances.to_coco` gives them.

        Raises:
            ResultError: A record lacks a field, or its mask is not of `frame_size`.
        """
        try:
            boxes = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            return cls(
                np.array([record["category_id"] for record in records], np.int64),
                np.array([record["score"] for record in records], np.float64),
                boxes,
                _crops((record["segmentation"] for record in records), frame_size),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ResultError(
                f"not a COCO result record with box, score, category and RLE mask: {error!r}",
                hint="export the bundle again",
            ) from None

    def select(self, indices: IntArray) -> Detections:
        """The detections at `indices`, in that order."""
        return Detections(
            self.categories[indices], self.scores[indices], self.boxes[indices], self.masks.select(indices)
        )


@dataclass(frozen=True)
class Matching:
    """Agreement of a candidate with a reference on one frame, or on several (`pooled`).

    Attributes:
        reference_count, candidate_count: Instances that must find a partner on each side.
        reference_found, candidate_found: Those of them that did.
        ious: Mask IoU of every pair.
        score_differences: |score - score| of every pair.
        lost, invented: Indices of instances without the partner they must have, in the reference and in the
            candidate (empty after pooling).
        pairs: (index in the reference, index in the candidate) of every pair (empty after pooling).
    """

    reference_count: int
    candidate_count: int
    reference_found: int
    candidate_found: int
    ious: tuple[float, ...] = ()
    score_differences: tuple[float, ...] = ()
    lost: tuple[int, ...] = ()
    invented: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def matched_fraction(self) -> float:
        """The smaller of the two shares of instances that found their partner; 1 where none must."""
        shares = [
            found / count
            for found, count in (
                (self.reference_found, self.reference_count),
                (self.candidate_found, self.candidate_count),
            )
            if count
        ]
        return min(shares, default=1.0)

    @property
    def mask_iou(self) -> float:
        """Mean mask IoU of the pairs; without a pair 1 where none was needed, otherwise 0."""
        return float(np.mean(self.ious)) if self.ious else self._nothing_to_find()

    @property
    def score_difference(self) -> float:
        """Mean absolute score difference of the pairs; without a pair 0 where none was needed, else 1."""
        if self.score_differences:
            return float(np.mean(self.score_differences))
        return 1.0 - self._nothing_to_find()

    @property
    def one_side_empty(self) -> bool:
        """Whether one side must find partners and no pair at all was found."""
        return bool(self.reference_count or self.candidate_count) and not self.ious

    def _nothing_to_find(self) -> float:
        return 0.0 if self.reference_count or self.candidate_count else 1.0


def match(
    reference: Detections, candidate: Detections, *, threshold: float, margin: float = LARGEST_MARGIN
) -> Matching:
    """Pair the instances of two results of the same frame; the module's text states the rule.

    Raises:
        ResultError: Frames of different size, or a NaN score.
    """
    if np.isnan(reference.scores).any() or np.isnan(candidate.scores).any():
        raise ResultError("a score is NaN", hint="run `edgewise selftest`")
    visible_r = np.flatnonzero(reference.scores >= threshold - margin)
    visible_c = np.flatnonzero(candidate.scores >= threshold - margin)
    first, second = reference.select(visible_r), candidate.select(visible_c)
    ious = mask_iou(first.masks, second.masks)
    both_empty = (first.masks.areas() == 0)[:, None] & (second.masks.areas() == 0)[None]
    affinity = np.where(both_empty, _box_iou(first.boxes, second.boxes), ious)
    affinity[first.categories[:, None] != second.categories[None]] = 0.0
    differences = np.abs(first.scores[:, None] - second.scores[None])
    pairs = _best_first(affinity, differences)
    must_r, must_c = first.scores >= threshold + margin, second.scores >= threshold + margin
    found_r, found_c = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    lost = [index for index in np.flatnonzero(must_r).tolist() if index not in found_r]
    invented = [index for index in np.flatnonzero(must_c).tolist() if index not in found_c]
    return Matching(
        reference_count=int(must_r.sum()),
        candidate_count=int(must_c.sum()),
        reference_found=int(must_r.sum()) - len(lost),
        candidate_found=int(must_c.sum()) - len(invented),
        ious=tuple(1.0 if both_empty[pair] else float(ious[pair]) for pair in pairs),
        score_differences=tuple(float(differences[pair]) for pair in pairs),
        lost=tuple(visible_r[lost].tolist()),
        invented=tuple(visible_c[invented].tolist()),
        pairs=tuple((int(visible_r[row]), int(visible_c[column])) for row, column in pairs),
    )


def pooled(matchings: Iterable[Matching]) -> Matching:
    """All instances of several frames judged together, as a budget means it."""
    every = list(matchings)
    return Matching(
        reference_count=sum(one.reference_count for one in every),
        candidate_count=sum(one.candidate_count for one in every),
        reference_found=sum(one.reference_found for one in every),
        candidate_found=sum(one.candidate_found for one in every),
        ious=tuple(iou for one in every for iou in one.ious),
        score_differences=tuple(value for one in every for value in one.score_differences),
    )


def display_threshold(postprocess: Postprocess) -> float:
    """The score from which a user sees an instance: the kind's display threshold, or its only threshold."""
    for field in ("display_threshold", "score_threshold"):
        value = getattr(postprocess, field, None)
        if value is not None:
            return float(value)
    return 0.0


def margin_of(budget: Budget) -> float:
    """The margin that goes with a budget: a few times the mean score difference that it permits."""
    return min(LARGEST_MARGIN, MARGIN_OF_SCORE_BUDGET * budget.score_difference)


def _best_first(affinity: NDArray[np.float64], differences: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of at least PARTNER_IOU by falling affinity, equal ones by rising score difference."""
    rows, columns = np.nonzero(affinity >= PARTNER_IOU)
    order = np.lexsort((differences[rows, columns], -affinity[rows, columns]))
    free_rows, free_columns = set(rows.tolist()), set(columns.tolist())
    pairs: list[tuple[int, int]] = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row in free_rows and column in free_columns:
            free_rows.remove(row)
            free_columns.remove(column)
            pairs.append((row, column))
    return pairs


def _box_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    far = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(far - corner, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _crops(segmentations: Iterable[Mapping[str, Any]], frame_size: Size) -> MaskCrops:
    """Crops of compressed RLE masks, decoded one at a time."""
    pieces: list[BoolArray] = [np.zeros(0, np.bool_)]
    places: list[IntArray] = [np.zeros((0, 4), np.int64)]
    for segmentation in segmentations:
        size = tuple(segmentation["size"])
        if size != tuple(frame_size):
            raise ResultError(f"a mask is of a {size} frame, the image is {tuple(frame_size)}")
        crop = crop_dense(decode_rle(segmentation["counts"], frame_size)[None])
        pieces.append(crop.data)
        places.append(crop.places)
    return MaskCrops(np.concatenate(pieces), np.concatenate(places), frame_size)

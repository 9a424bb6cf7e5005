"""How far two results of the same frame agree: which things are the same, and by how much they differ.

Things are instances, panoptic segments or people. The rule, used by `selftest` and by the workstation's
parity alike:

- Partners have the same class and a similarity of at least 0.5: intersection over union of the masks of
  instances and segments (of their boxes where both masks are empty), object keypoint similarity of people
  (`similarity.py`). The best pair is taken first, each thing once. (Segments do not overlap, so
  this is the panoptic quality's own matching.)
- Only what a user sees is judged. With the display threshold t and a margin m, a thing of score t + m or more
  *must* find a partner of score t - m or more on the other side; one between t - m and t + m may, because a
  permitted score error can carry it over the threshold. Stuff has the score 1.
- A missing and an invented thing weigh alike: the matched fraction is the smaller of the two sides' shares.
  Two empty results agree fully; of one empty and one not, nothing is matched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.compare.similarity import DEFAULT_SIGMA, Joints, Likeness, Outlines, Shapes, likeness
from edgewise.runtime.contract.manifest import Budget, KeypointLayout
from edgewise.runtime.contract.postprocessing import Postprocess
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.kinds.panoptic.result import Panoptic
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.pixels.masks import BoolArray, IntArray, MaskCrops, crop_dense
from edgewise.runtime.pixels.rle import decode_rle
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import ResultError

PARTNER_SIMILARITY = 0.5
LARGEST_MARGIN = 0.05
MARGIN_OF_SCORE_BUDGET = 3.0


@dataclass(frozen=True, eq=False)
class Detections:
    """What matching looks at.

    Attributes:
        categories: int64 [n], the dataset's category ids.
        scores: float64 [n].
        shapes: n masks or sets of keypoints, with their boxes in source pixels.
        frame_size: (height, width).
    """

    categories: IntArray
    scores: NDArray[np.float64]
    shapes: Shapes
    frame_size: Size

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of_result(cls, result: Result) -> Detections:
        """The detections of a session's result.

        Raises:
            ResultError: A kind of result that has no shapes to compare.
        """
        ids = np.array([label.id for label in result.labels], np.int64)
        boxes = result.boxes.astype(np.float64)
        if isinstance(result, (Instances, Panoptic)):
            shapes: Shapes = Outlines(result.masks, boxes)
        elif isinstance(result, Keypoints):
            points = result.points.astype(np.float64)
            shapes = _joints(points, result.point_scores, boxes, result.layout, result.point_threshold)
        else:
            raise ResultError(f"results of the type {type(result).__name__} cannot be compared")
        return cls(ids[result.classes], result.scores.astype(np.float64), shapes, result.frame_size)

    @classmethod
    def of_coco(
        cls,
        records: Sequence[Mapping[str, Any]],
        frame_size: Size,
        layout: KeypointLayout | None = None,
        point_threshold: float = 0.0,
    ) -> Detections:
        """The detections of COCO result records of one image, as a result's `to_coco` gives them.

        Args:
            records: With `segmentation`, or with `keypoints` where there is a layout.
            frame_size: (height, width) of the image.
            layout: The keypoints of people; None for instances and segments.
            point_threshold: Keypoints of at least this score are vouched for.

        Raises:
            ResultError: A record lacks a field, its mask is not of `frame_size`, or its keypoints are not
                those of `layout`.
        """
        try:
            boxes = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            if layout is None:
                masks = _crops((record["segmentation"] for record in records), frame_size)
                shapes: Shapes = Outlines(masks, boxes)
            else:
                flat = np.array([record["keypoints"] for record in records], np.float64)
                joints = flat.reshape(len(records), len(layout.names), 3)
                continuous = joints[..., :2] + 0.5  # COCO counts from the middle of a pixel
                shapes = _joints(continuous, joints[..., 2], boxes, layout, point_threshold)
            return cls(
                np.array([record["category_id"] for record in records], np.int64),
                np.array([record["score"] for record in records], np.float64),
                shapes,
                frame_size,
            )
        except (KeyError, TypeError, ValueError) as error:
            what = "RLE mask" if layout is None else f"{len(layout.names)} keypoints"
            raise ResultError(
                f"not a COCO result record with box, score, category and {what}: {error!r}",
                hint="export the bundle again",
            ) from None

    def select(self, indices: IntArray) -> Detections:
        """The detections at `indices`, in that order."""
        return Detections(
            self.categories[indices], self.scores[indices], self.shapes.select(indices), self.frame_size
        )


@dataclass(frozen=True)
class Matching:
    """Agreement of a candidate with a reference on one frame, or on several (`pooled`).

    Attributes:
        reference_count, candidate_count: Things that must find a partner on each side.
        reference_found, candidate_found: Those of them that did.
        similarities: Of every pair, 0..1.
        score_differences: |score - score| of every pair.
        lost, invented: Indices of things without the partner they must have, in the reference and in the
            candidate (empty after pooling).
        pairs: (index in the reference, index in the candidate) of every pair (empty after pooling).
    """

    reference_count: int
    candidate_count: int
    reference_found: int
    candidate_found: int
    similarities: tuple[float, ...] = ()
    score_differences: tuple[float, ...] = ()
    lost: tuple[int, ...] = ()
    invented: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def matched_fraction(self) -> float:
        """The smaller of the two shares of things that found their partner; 1 where none must."""
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
    def similarity(self) -> float:
        """Mean similarity of the pairs; without a pair 1 where none was needed, otherwise 0."""
        return float(np.mean(self.similarities)) if self.similarities else self._nothing_to_find()

    @property
    def score_difference(self) -> float:
        """Mean absolute score difference of the pairs; without a pair 0 where none was needed, else 1."""
        if self.score_differences:
            return float(np.mean(self.score_differences))
        return 1.0 - self._nothing_to_find()

    @property
    def one_side_empty(self) -> bool:
        """Whether one side must find partners and no pair at all was found."""
        return bool(self.reference_count or self.candidate_count) and not self.similarities

    def _nothing_to_find(self) -> float:
        return 0.0 if self.reference_count or self.candidate_count else 1.0


def match(
    reference: Detections, candidate: Detections, *, threshold: float, margin: float = LARGEST_MARGIN
) -> Matching:
    """Pair the things in two results of the same frame; the module's text states the rule.

    Raises:
        ResultError: Frames of different size, results of different kinds, or a NaN score.
    """
    if reference.frame_size != candidate.frame_size:
        raise ResultError(
            f"results of {reference.frame_size} and {candidate.frame_size} frames cannot be compared"
        )
    if type(reference.shapes) is not type(candidate.shapes):
        raise ResultError("masks and keypoints cannot be compared", hint="export the bundle again")
    if np.isnan(reference.scores).any() or np.isnan(candidate.scores).any():
        raise ResultError("a score is NaN", hint="run `edgewise selftest`")
    visible_r = np.flatnonzero(reference.scores >= threshold - margin)
    visible_c = np.flatnonzero(candidate.scores >= threshold - margin)
    first, second = reference.select(visible_r), candidate.select(visible_c)
    alike = _likeness_within_classes(first, second)
    differences = np.abs(first.scores[:, None] - second.scores[None])
    pairs = _best_first(alike.affinity, differences)
    must_r, must_c = first.scores >= threshold + margin, second.scores >= threshold + margin
    found_r, found_c = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    lost = [index for index in np.flatnonzero(must_r).tolist() if index not in found_r]
    invented = [index for index in np.flatnonzero(must_c).tolist() if index not in found_c]
    return Matching(
        reference_count=int(must_r.sum()),
        candidate_count=int(must_c.sum()),
        reference_found=int(must_r.sum()) - len(lost),
        candidate_found=int(must_c.sum()) - len(invented),
        similarities=tuple(float(alike.similarity[pair]) for pair in pairs),
        score_differences=tuple(float(differences[pair]) for pair in pairs),
        lost=tuple(visible_r[lost].tolist()),
        invented=tuple(visible_c[invented].tolist()),
        pairs=tuple((int(visible_r[row]), int(visible_c[column])) for row, column in pairs),
    )


def pooled(matchings: Iterable[Matching]) -> Matching:
    """All things in several frames judged together, as a budget means it."""
    every = list(matchings)
    return Matching(
        reference_count=sum(one.reference_count for one in every),
        candidate_count=sum(one.candidate_count for one in every),
        reference_found=sum(one.reference_found for one in every),
        candidate_found=sum(one.candidate_found for one in every),
        similarities=tuple(value for one in every for value in one.similarities),
        score_differences=tuple(value for one in every for value in one.score_differences),
    )


def display_threshold(postprocess: Postprocess) -> float:
    """The score from which a user sees a thing: the kind's display threshold, or its only threshold."""
    for field in ("display_threshold", "score_threshold"):
        value = getattr(postprocess, field, None)
        if value is not None:
            return float(value)
    return 0.0


def margin_of(budget: Budget) -> float:
    """The margin that goes with a budget: a few times the mean score difference that it permits."""
    return min(LARGEST_MARGIN, MARGIN_OF_SCORE_BUDGET * budget.score_difference)


def _likeness_within_classes(first: Detections, second: Detections) -> Likeness:
    """Of every pair; 0 for things of different classes."""
    alike = Likeness(np.zeros((len(first), len(second))), np.zeros((len(first), len(second))))
    for category in np.intersect1d(first.categories, second.categories).tolist():
        rows = np.flatnonzero(first.categories == category)
        columns = np.flatnonzero(second.categories == category)
        found = likeness(first.shapes.select(rows), second.shapes.select(columns))
        alike.similarity[np.ix_(rows, columns)] = found.similarity
        alike.affinity[np.ix_(rows, columns)] = found.affinity
    return alike


def _best_first(affinity: NDArray[np.float64], differences: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of at least PARTNER_SIMILARITY by falling affinity, equal ones by rising score difference."""
    rows, columns = np.nonzero(affinity >= PARTNER_SIMILARITY)
    order = np.lexsort((differences[rows, columns], -affinity[rows, columns]))
    free_rows, free_columns = set(rows.tolist()), set(columns.tolist())
    pairs: list[tuple[int, int]] = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row in free_rows and column in free_columns:
            free_rows.remove(row)
            free_columns.remove(column)
            pairs.append((row, column))
    return pairs


def _joints(
    points: NDArray[np.float64],
    scores: NDArray[np.floating[Any]],
    boxes: NDArray[np.float64],
    layout: KeypointLayout,
    threshold: float,
) -> Joints:
    sigmas = layout.sigmas or (DEFAULT_SIGMA,) * len(layout.names)
    return Joints(points, scores >= threshold, boxes, np.array(sigmas, np.float64))


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

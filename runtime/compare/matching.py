"""How far two results of the same frame agree: which things are the same, and by how much they differ.

Things are boxes, instances, panoptic segments or people; a result without scores is one thing that is always
seen.
The rule, used by the self test and by the workstation's parity alike:

- Partners have the same class and a similarity of at least 0.5, which is what the kind says it is:
  intersection over union of boxes and of the masks of instances and segments, object keypoint similarity of
  people. The best pair is taken first, each thing once. (Segments do not overlap, so this is the panoptic
  quality's own matching.)
- Only what a user sees is judged. With the display threshold t and a margin m, a thing of score t + m or more
  *must* find a partner of score t - m or more on the other side; one between t - m and t + m may, because a
  permitted score error can carry it over the threshold. Stuff has the score 1.
- A missing and an invented thing weigh alike: the matched fraction is the smaller of the two sides' shares.
  Two empty results agree fully; of one empty and one not, nothing is matched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewise.runtime.contract.manifest import Budget
from edgewise.runtime.pixels.masks import IntArray
from edgewise.runtime.results.kind import Kind
from edgewise.runtime.results.overlap import Floats
from edgewise.runtime.results.result import Result, Scored, above
from edgewise.runtime.system.errors import ResultError

PARTNER_SIMILARITY = 0.5
LARGEST_MARGIN = 0.05
MARGIN_OF_SCORE_BUDGET = 3.0


@dataclass(kw_only=True)
class MatchTally:
    """Agreement of a candidate with a reference, on any number of frames judged together, as a budget means
    it.

    Attributes:
        frames: How many were counted.
        reference_count, candidate_count: Things that must find a partner on each side.
        reference_found, candidate_found: Those of them that did.
        pairs: Things that found each other.
        one_empty: Frames on which one side must find partners and no pair at all was found.
        both_empty: Frames on which there was nothing to pair.
        worst_frame: Number of the frame with the least matched fraction plus mean similarity.
    """

    frames: int = 0
    reference_count: int = 0
    candidate_count: int = 0
    reference_found: int = 0
    candidate_found: int = 0
    pairs: int = 0
    similarity_sum: float = 0.0
    score_difference_sum: float = 0.0
    largest_score_difference: float = 0.0
    one_empty: int = 0
    both_empty: int = 0
    worst_frame: int | None = None
    _least_agreement: float = float("inf")

    def add(self, matching: Matching, frame: int = 0) -> None:
        """Count one frame; `frame` is its number, for `worst_frame`."""
        alone = matching.tally
        self.frames += 1
        self.reference_count += alone.reference_count
        self.candidate_count += alone.candidate_count
        self.reference_found += alone.reference_found
        self.candidate_found += alone.candidate_found
        self.pairs += alone.pairs
        self.similarity_sum += alone.similarity_sum
        self.score_difference_sum += alone.score_difference_sum
        self.largest_score_difference = max(self.largest_score_difference, alone.largest_score_difference)
        self.one_empty += alone.one_empty
        self.both_empty += alone.both_empty
        agreement = alone.matched_fraction + alone.similarity
        if agreement < self._least_agreement:
            self._least_agreement, self.worst_frame = agreement, frame

    @property
    def matched_fraction(self) -> float:
        """The smaller of the two shares of things that found their partner; 1 where none must."""
        forward = self.reference_found / self.reference_count if self.reference_count else 1.0
        backward = self.candidate_found / self.candidate_count if self.candidate_count else 1.0
        return min(forward, backward)

    @property
    def similarity(self) -> float:
        """Mean similarity of the pairs; without a pair 1 where none was needed, otherwise 0."""
        return self.similarity_sum / self.pairs if self.pairs else 1.0 - self._needed()

    @property
    def score_difference(self) -> float:
        """Mean absolute score difference of the pairs; without a pair 0 where none was needed, else 1."""
        return self.score_difference_sum / self.pairs if self.pairs else self._needed()

    def _needed(self) -> float:
        return float(bool(self.reference_count or self.candidate_count))


@dataclass(frozen=True)
class Matching:
    """What was paired on one frame.

    Attributes:
        tally: The agreement of this frame alone.
        pairs: (index in the reference, index in the candidate) of every pair.
        similarities: Of every pair, 0..1.
        lost, invented: Indices of things without the partner they must have, in the reference and in the
            candidate.
    """

    tally: MatchTally
    pairs: tuple[tuple[int, int], ...]
    similarities: tuple[float, ...]
    lost: tuple[int, ...]
    invented: tuple[int, ...]


def pooled(matchings: Iterable[Matching]) -> MatchTally:
    """All things in several frames judged together."""
    tally = MatchTally()
    for number, matching in enumerate(matchings):
        tally.add(matching, number)
    return tally


def match(
    kind: Kind[Any, Any],
    reference: Result,
    candidate: Result,
    *,
    threshold: float,
    margin: float = LARGEST_MARGIN,
) -> Matching:
    """Pair the things in two results of the same frame; the module's text states the rule.

    Args:
        kind: Of both results.
        threshold: The score from which a user sees a thing.
        margin: See above.

    Raises:
        ResultError: Frames of different size, results of different kinds, or a NaN score.
    """
    if reference.frame_size != candidate.frame_size:
        raise ResultError(
            f"results of {reference.frame_size} and {candidate.frame_size} frames cannot be compared"
        )
    if type(reference) is not type(candidate):
        raise ResultError(
            f"{type(reference).__name__} and {type(candidate).__name__} cannot be compared",
            hint="export the bundle again",
        )
    first, second = _seen(reference, threshold - margin), _seen(candidate, threshold - margin)
    alike = kind.alike(first.result, second.result)
    same = first.categories[:, None] == second.categories[None]
    differences = np.abs(first.scores[:, None] - second.scores[None])
    pairs = _best_first(np.where(same, alike.affinity, 0.0), differences)
    must_r, must_c = first.scores >= threshold + margin, second.scores >= threshold + margin
    found_r, found_c = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    lost = [index for index in np.flatnonzero(must_r).tolist() if index not in found_r]
    invented = [index for index in np.flatnonzero(must_c).tolist() if index not in found_c]
    similarities = [float(alike.similarity[pair]) for pair in pairs]
    score_differences = [float(differences[pair]) for pair in pairs]
    needed = bool(must_r.any() or must_c.any())
    return Matching(
        tally=MatchTally(
            frames=1,
            reference_count=int(must_r.sum()),
            candidate_count=int(must_c.sum()),
            reference_found=int(must_r.sum()) - len(lost),
            candidate_found=int(must_c.sum()) - len(invented),
            pairs=len(pairs),
            similarity_sum=sum(similarities),
            score_difference_sum=sum(score_differences),
            largest_score_difference=max(score_differences, default=0.0),
            one_empty=int(needed and not pairs),
            both_empty=int(not needed and not pairs),
        ),
        pairs=tuple((int(first.places[row]), int(second.places[column])) for row, column in pairs),
        similarities=tuple(similarities),
        lost=tuple(first.places[lost].tolist()),
        invented=tuple(second.places[invented].tolist()),
    )


def margin_of(budget: Budget) -> float:
    """The margin that goes with a budget: a few times the mean score difference that it permits."""
    return min(LARGEST_MARGIN, MARGIN_OF_SCORE_BUDGET * budget.score_difference)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What of a result takes part, and where it stands in the whole result."""

    result: Result
    categories: IntArray
    scores: Floats
    places: IntArray


def _seen(result: Result, threshold: float) -> _Seen:
    if not isinstance(result, Scored):
        return _Seen(result, np.zeros(1, np.int64), np.ones(1), np.zeros(1, np.int64))
    if np.isnan(result.scores).any():
        raise ResultError("a score is NaN", hint="run `edgewise selftest`")
    scores = result.scores.astype(np.float64)
    places = np.flatnonzero(result.scores >= threshold)
    ids = np.array([label.id for label in result.labels], np.int64)
    seen = above(result, threshold)
    return _Seen(seen, ids[result.classes[places]], scores[places], places)


def _best_first(affinity: Floats, differences: Floats) -> list[tuple[int, int]]:
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

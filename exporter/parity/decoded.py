"""Level 2: decoded results of two stages, matched by the rule of `edgewise.runtime.compare.matching`."""

from __future__ import annotations

from dataclasses import dataclass

from edgewise.runtime.compare.matching import Detections, Matching, margin_of, match
from edgewise.runtime.contract.manifest import Budget
from edgewise.runtime.results.result import Result


def match_results(candidate: Result, reference: Result, *, threshold: float, budget: Budget) -> Matching:
    """Match two results of one frame; `threshold` is the score from which a user sees a thing."""
    return match(
        Detections.of_result(reference),
        Detections.of_result(candidate),
        threshold=threshold,
        margin=margin_of(budget),
    )


def score_pairs(matching: Matching, candidate: Result, reference: Result) -> list[tuple[float, float]]:
    """(reference's, candidate's) score of every pair."""
    return [(float(reference.scores[r]), float(candidate.scores[c])) for r, c in matching.pairs]


@dataclass
class DecodedTally:
    """Matchings summed over images as `matching.pooled` judges them together, in constant memory."""

    images: int = 0
    reference_count: int = 0
    candidate_count: int = 0
    reference_found: int = 0
    candidate_found: int = 0
    pairs: int = 0
    similarity_sum: float = 0.0
    score_difference_sum: float = 0.0
    largest_score_difference: float = 0.0
    both_empty: int = 0
    one_empty: int = 0
    worst_image: int | None = None
    worst_agreement: float = float("inf")
    """Matched fraction plus mean similarity of the worst image, 0..2."""

    def add(self, image_id: int, matching: Matching) -> None:
        self.images += 1
        self.reference_count += matching.reference_count
        self.candidate_count += matching.candidate_count
        self.reference_found += matching.reference_found
        self.candidate_found += matching.candidate_found
        self.pairs += len(matching.similarities)
        self.similarity_sum += sum(matching.similarities)
        self.score_difference_sum += sum(matching.score_differences)
        self.largest_score_difference = max(self.largest_score_difference, *matching.score_differences, 0.0)
        self.one_empty += matching.one_side_empty
        self.both_empty += not (matching.one_side_empty or matching.similarities)
        agreement = matching.matched_fraction + matching.similarity
        if agreement < self.worst_agreement:
            self.worst_agreement, self.worst_image = agreement, image_id

    @property
    def matched_fraction(self) -> float:
        """The smaller of both sides' shares, so that a lost and an invented thing weigh alike."""
        forward = self.reference_found / self.reference_count if self.reference_count else 1.0
        backward = self.candidate_found / self.candidate_count if self.candidate_count else 1.0
        return min(forward, backward)

    @property
    def similarity(self) -> float:
        return self.similarity_sum / self.pairs if self.pairs else self._nothing_to_find()

    @property
    def score_difference(self) -> float:
        return self.score_difference_sum / self.pairs if self.pairs else 1.0 - self._nothing_to_find()

    def _nothing_to_find(self) -> float:
        return 0.0 if self.reference_count or self.candidate_count else 1.0

"""The running state of a comparison: one track a stage, one a pair of stages."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgewise.exporter.parity.decoded import DecodedTally, match_results, score_pairs
from edgewise.exporter.parity.opening import Opened
from edgewise.exporter.parity.report import Against, Status
from edgewise.exporter.parity.stages import StageInfo
from edgewise.exporter.parity.tensors import TensorTally, difference, structure_problems, value_problems
from edgewise.models.tasks.task import Measuring
from edgewise.runtime.compare.checks import class_maps
from edgewise.runtime.contract.manifest import Budget, Manifest
from edgewise.runtime.decoding.decode import decode_result
from edgewise.runtime.engines.base import Tensor
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import EdgewiseError

PROBLEMS_SHOWN = 5
SCORE_PAIRS = 1500
"""Size of the sample of score pairs that the report draws."""


@dataclass(frozen=True, eq=False)
class Image:
    """One image of the dataset: the looks at it, and the graph's input for each."""

    looks: Looks
    inputs: Sequence[Mapping[str, Tensor]]
    index: int
    id: int


@dataclass(frozen=True, eq=False)
class Decoded:
    """What one stage gave for one image: tensors of every look, maps of slots as maps of classes."""

    looks: Sequence[Mapping[str, Tensor]]
    result: Result


@dataclass
class StageTrack:
    """One stage over all images; with the wrong tensors it is not run again, NaN costs its image only."""

    opened: Opened
    measuring: Measuring
    threshold: float
    images: int = 0
    shown: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    stopped: bool = False
    first_problem: int | None = None
    """Id of the first image that the stage failed on."""
    _seconds: list[float] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.opened.stage is None:
            self.stopped = True
            self.problems[self.opened.reason] += 1

    @property
    def info(self) -> StageInfo:
        return self.opened.info

    @property
    def status(self) -> Status:
        if self.opened.status is not Status.PASSED:
            return self.opened.status
        return Status.FAILED if self.problems else Status.PASSED

    @property
    def milliseconds(self) -> float | None:
        return 1e3 * statistics.median(self._seconds) if self._seconds else None

    def problem_lines(self) -> tuple[str, ...]:
        """The most frequent problems, with the number of images."""
        lines = [
            f"{problem} ({count} images)" if count > 1 else problem
            for problem, count in self.problems.most_common(PROBLEMS_SHOWN)
        ]
        more = len(self.problems) - PROBLEMS_SHOWN
        return (*lines, f"and {more} other problems") if more > 0 else tuple(lines)

    def measure(self, manifest: Manifest, image: Image) -> Decoded | None:
        """Run, check and decode one image; None where the stage has nothing comparable to show."""
        found = self._measure(manifest, image)
        if found is None and self.first_problem is None:
            self.first_problem = image.id
        return found

    def _measure(self, manifest: Manifest, image: Image) -> Decoded | None:
        looks = self._run(image)
        if looks is None:
            return None
        try:
            result = decode_result(manifest, image.looks, looks)
        except EdgewiseError as error:
            self.problems[f"cannot be decoded: {error.what}"] += 1
            return None
        self.images += 1
        self.shown += int((result.scores >= self.threshold).sum())
        self.measuring.add(image.index, result)
        return Decoded([{**look, **class_maps(manifest, look)} for look in looks], result)

    def _run(self, image: Image) -> list[dict[str, Tensor]] | None:
        """Checked tensors of every look; None where one of them is unusable."""
        stage = self.opened.stage
        if stage is None or self.stopped:
            return None
        looks: list[dict[str, Tensor]] = []
        start = time.perf_counter()
        try:
            looks += [stage.run(inputs) for inputs in image.inputs]
        except EdgewiseError as error:
            return self._stop(error.what)
        except (RuntimeError, ValueError, TypeError) as error:  # a module that torch cannot run
            return self._stop(f"{type(error).__name__}: {error}")
        if looks:
            self._seconds.append(time.perf_counter() - start)
        wrong = [problem for look in looks for problem in structure_problems(stage.tensors, look)]
        if wrong:
            return self._stop(*dict.fromkeys(wrong))
        unusable = [problem for look in looks for problem in value_problems(look)]
        if unusable:
            self.problems.update(
                {f"{problem.split(' holds ')[0]} holds NaN or infinity" for problem in unusable}
            )
            return None
        return looks

    def _stop(self, *problems: str) -> None:
        self.stopped = True
        self.problems.update(problems)


@dataclass
class PairTrack:
    """A candidate against a reference over all images; constant memory."""

    candidate: str
    reference: str
    against: tuple[Against, ...]
    budget: Budget
    threshold: float
    images: int = 0
    tensors: dict[str, TensorTally] = field(default_factory=dict)
    decoded: DecodedTally = field(default_factory=DecodedTally)
    sampled_scores: list[tuple[float, float]] = field(default_factory=list, repr=False)
    _seen_pairs: int = field(default=0, repr=False)
    _random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0), repr=False)

    def add(self, image_id: int, candidate: Decoded | None, reference: Decoded | None) -> None:
        """Compare what both stages gave for one image; an image that one side lacks stays uncounted."""
        if candidate is None or reference is None:
            return
        for ours, theirs in zip(candidate.looks, reference.looks, strict=True):
            for name in ours:
                if name in theirs:
                    found = difference(ours[name], theirs[name])
                    self.tensors.setdefault(name, TensorTally()).add(image_id, found)
        matching = match_results(
            candidate.result, reference.result, threshold=self.threshold, budget=self.budget
        )
        self.decoded.add(image_id, matching)
        if Against.REFERENCE in self.against:
            for pair in score_pairs(matching, candidate.result, reference.result):
                self._sample(pair)
        self.images += 1

    def _sample(self, pair: tuple[float, float]) -> None:
        """Reservoir sampling: every pair has the same chance to be among those that are kept."""
        self._seen_pairs += 1
        if len(self.sampled_scores) < SCORE_PAIRS:
            self.sampled_scores.append(pair)
            return
        place = int(self._random.integers(self._seen_pairs))
        if place < SCORE_PAIRS:
            self.sampled_scores[place] = pair

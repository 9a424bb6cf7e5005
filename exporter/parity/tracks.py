"""The running state of a comparison: one track a stage, one a pair of stages."""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgewise.exporter.parity.judge import tensor_name
from edgewise.exporter.parity.opening import Opened
from edgewise.exporter.parity.report import Against, Status
from edgewise.exporter.parity.stages import StageInfo
from edgewise.models.tasks.task import Measuring
from edgewise.runtime.compare.matching import MatchTally, margin_of, match
from edgewise.runtime.compare.tensors import TensorTally, difference, structure_problems, value_problems
from edgewise.runtime.contract.manifest import Budget, Manifest
from edgewise.runtime.decoding.decode import decode_result
from edgewise.runtime.decoding.kinds import kind_of
from edgewise.runtime.engines.base import Tensor
from edgewise.runtime.results.result import Result, Scored
from edgewise.runtime.system.errors import EdgewiseError
from edgewise.runtime.walk.walk import Prepared, Walk

PROBLEMS_SHOWN = 5
SCORE_PAIRS = 1500
"""Size of the sample of score pairs that the report draws."""


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """One image of the dataset, preprocessed for every stage."""

    prepared: Prepared
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
    manifest: Manifest
    measuring: Measuring
    images: int = 0
    shown: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    stopped: bool = False
    first_problem: int | None = None
    """Id of the first image that the stage failed on."""
    _seconds: list[float] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        stage = self.opened.stage
        self._walk = Walk(self.manifest, stage.runners) if stage is not None else None
        if stage is None:
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

    def measure(self, image: PreparedImage) -> Decoded | None:
        """Run, check and decode one image; None where the stage has nothing comparable to show."""
        found = self._measure(image)
        if found is None:
            if self.first_problem is None:
                self.first_problem = image.id
            if self.manifest.state and not self.stopped:
                self._stop("stopped, because the frames behind a problem would start from a wrong state")
        return found

    def _measure(self, image: PreparedImage) -> Decoded | None:
        looks = self._run(image)
        if looks is None:
            return None
        manifest, kind = self.manifest, kind_of(self.manifest)
        try:
            result = decode_result(manifest, image.prepared.looks, looks)
        except EdgewiseError as error:
            self.problems[f"cannot be decoded: {error.what}"] += 1
            return None
        self.images += 1
        self.shown += kind.counts(result, manifest.postprocess.shown_from).total()
        self.measuring.add(image.index, result)
        graph = image.prepared.graph
        compared = ({**look, **kind.compared(manifest.postprocess, manifest, look).maps} for look in looks)
        named = [
            {tensor_name(manifest, graph, name): value for name, value in look.items()} for look in compared
        ]
        return Decoded(named, result)

    def result_of_last(self, images: Iterable[PreparedImage]) -> Result | None:
        """Walk some images anew, for a picture of the last; None where it gives nothing to decode."""
        stage, walk = self.opened.stage, self._walk
        if stage is None or walk is None:
            return None
        walk.reset()
        try:
            last = deque((walk.infer(image.prepared) for image in images), maxlen=1)[0]
            specs, outputs = stage.specs[last.graph], last.outputs
            if any(structure_problems(specs, look) + value_problems(look) for look in outputs):
                return None
            return decode_result(self.manifest, last.looks, outputs)
        except EdgewiseError:
            return None

    def _run(self, image: PreparedImage) -> Sequence[Mapping[str, Tensor]] | None:
        """Checked tensors of every look; None where one of them is unusable."""
        stage = self.opened.stage
        if stage is None or self._walk is None or self.stopped:
            return None
        start = time.perf_counter()
        try:
            inferred = self._walk.infer(image.prepared)
        except EdgewiseError as error:
            return self._stop(error.what)
        except (RuntimeError, ValueError, TypeError) as error:  # a module that torch cannot run
            return self._stop(f"{type(error).__name__}: {error}")
        looks = inferred.outputs
        if looks:
            self._seconds.append(time.perf_counter() - start)
        specs = stage.specs[inferred.graph]
        wrong = [problem for look in looks for problem in structure_problems(specs, look)]
        if wrong:
            return self._stop(*dict.fromkeys(wrong))
        unusable = [problem for look in looks for problem in value_problems(look)]
        if unusable:
            self.problems.update({f"{problem.split(' holds ')[0]} holds NaN" for problem in unusable})
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
    manifest: Manifest
    budget: Budget
    images: int = 0
    tensors: dict[str, TensorTally] = field(default_factory=dict)
    decoded: MatchTally = field(default_factory=MatchTally)
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
        matching = match(
            kind_of(self.manifest),
            reference.result,
            candidate.result,
            threshold=self.manifest.postprocess.shown_from,
            margin=margin_of(self.budget),
        )
        self.decoded.add(matching, image_id)
        ours, theirs = candidate.result, reference.result
        if Against.REFERENCE in self.against and isinstance(ours, Scored) and isinstance(theirs, Scored):
            for own, other in matching.pairs:
                self._sample((float(theirs.scores[own]), float(ours.scores[other])))
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

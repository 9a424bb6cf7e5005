"""What a parity run found, as frozen structs: the schema of `parity.json`.

JSON has no infinity, so a figure that is not finite is null there; its check has failed.
"""

from __future__ import annotations

import enum
import math

import msgspec

from edgewise.runtime.compare.checks import Check
from edgewise.runtime.contract.manifest import Precision
from edgewise.runtime.system.documents import decode_json
from edgewise.runtime.system.errors import ParityError

REPORT_FORMAT = 3


class ReportPart(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the report's structs. Reading ignores `passed` and `drop`, written for other readers."""


class Status(enum.Enum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


class Against(enum.Enum):
    """Which stage a comparison takes as its reference."""

    REFERENCE = "reference"
    """The first stage: torch, or the canonical ONNX model where torch was left out on request."""
    BEFORE = "before"
    """The stage that it was made from."""


class TensorFigures(ReportPart, frozen=True, kw_only=True):
    """The worst of one tensor over all images."""

    name: str
    probe: bool
    judged: bool
    """Probes are judged; outputs too where a graph has no probes, else they are reported only."""
    max_abs: float
    mean_abs: float
    relative: float | None
    """None where it is not finite, and for integers."""
    cosine: float | None
    """None for integers."""
    equal: float | None
    """Share of equal elements of integers; None for floats."""
    worst_image: int | None


class DecodedFigures(ReportPart, frozen=True, kw_only=True):
    """Matching of results over all images, by the rule of `runtime/compare/matching.py`; shares in 0..1."""

    reference_count: int
    """Clearly above the display threshold: these must find a partner."""
    candidate_count: int
    matched: int
    """Of both sides' things, those that found theirs."""
    pairs: int
    matched_fraction: float
    similarity: float
    score_difference: float
    largest_score_difference: float
    images_both_empty: int
    """Neither side has anything to pair: agreement."""
    images_one_empty: int
    """One side must find partners and no pair was found: disagreement."""
    worst_image: int | None


class MetricFigures(ReportPart, frozen=True, kw_only=True):
    """`drop` is reference minus candidate: negative where the candidate is better, which is allowed."""

    name: str
    reference: float | None
    candidate: float | None

    @property
    def drop(self) -> float | None:
        if self.reference is None or self.candidate is None:
            return None
        return self.reference - self.candidate


class LayerFigure(ReportPart, frozen=True, kw_only=True):
    """The error of one inner tensor for one image."""

    depth: int
    tensor: str
    node: str
    operator: str
    relative: float | None


class Divergence(ReportPart, frozen=True, kw_only=True):
    """Where two ONNX stages part: the first layer whose error exceeds the limit, or why none is named."""

    against: str
    image: int | None
    limit: float
    layer: LayerFigure | None
    detail: str


class Comparison(ReportPart, frozen=True, kw_only=True):
    """One stage against another, judged by the candidate's budget."""

    candidate: str
    reference: str
    against: tuple[Against, ...]
    """Both where the stage before is the reference itself."""
    images: int
    tensors: tuple[TensorFigures, ...]
    decoded: DecodedFigures | None
    metric: MetricFigures | None
    checks: tuple[Check, ...]
    divergence: Divergence | None = None

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)


class LayerCurve(ReportPart, frozen=True, kw_only=True):
    """Error by depth of a lowered file against the one it was made from, for one image."""

    candidate: str
    reference: str
    image: int
    layers: tuple[LayerFigure, ...]


class ScorePairs(ReportPart, frozen=True, kw_only=True):
    """Scores of matched things, (reference, candidate): a seeded sample of bounded size."""

    candidate: str
    reference: str
    pairs: tuple[tuple[float, float], ...]


class StageReport(ReportPart, frozen=True, kw_only=True):
    name: str
    title: str
    precision: Precision
    before: str | None
    file: str
    """What it runs, the files of several graphs after each other; empty for torch."""
    engine: str
    status: Status
    problems: tuple[str, ...]
    """Why it failed or was not run; the first few, with how often."""
    shown: int
    """Things above the display threshold over all images."""
    metrics: dict[str, float | None]
    milliseconds: float | None
    """Median time of one image through the outputs' engine (and, for lowered files, the probes')."""


class ParityReport(ReportPart, frozen=True, kw_only=True):
    format: int = REPORT_FORMAT
    writer: str
    bundle: str
    """Name in the manifest."""
    manifest_sha256: str
    definition: str
    metric: str
    """Name of the task's metric."""
    things: str
    """What results are made of: instances, segments, people."""
    similarity: str
    """How alike two of them are: mask IoU, segment IoU, OKS (object keypoint similarity)."""
    dataset: str
    """Name of the annotation file with its folder's."""
    images: int
    objects: int
    """Annotated objects on these images, crowds left out."""
    reference: str
    budgets: dict[str, dict[str, float]]
    notes: tuple[str, ...]
    stages: tuple[StageReport, ...]
    comparisons: tuple[Comparison, ...]
    curves: tuple[LayerCurve, ...]
    scores: tuple[ScorePairs, ...]
    seconds: float
    tools: dict[str, str]

    @property
    def passed(self) -> bool:
        """At least one comparison ran, every comparison passed, and no stage failed."""
        return (
            bool(self.comparisons)
            and all(comparison.passed for comparison in self.comparisons)
            and all(stage.status is not Status.FAILED for stage in self.stages)
        )

    def stage(self, name: str) -> StageReport:
        return next(stage for stage in self.stages if stage.name == name)

    def comparison(self, candidate: str, against: Against) -> Comparison | None:
        """The comparison of a stage with the reference or with the stage before; None where there is none."""
        for comparison in self.comparisons:
            if comparison.candidate == candidate and against in comparison.against:
                return comparison
        return None

    def failures(self) -> tuple[str, ...]:
        """One line for each broken budget and each problem of a stage."""
        lines = [
            f"{stage.title}: {problem}"
            for stage in self.stages
            if stage.status is Status.FAILED
            for problem in stage.problems
        ]
        for comparison in self.comparisons:
            pair = (
                f"{self.stage(comparison.candidate).title} against {self.stage(comparison.reference).title}"
            )
            lines += [f"{pair}: {describe(check)}" for check in comparison.checks if not check.passed]
        return tuple(lines)


def describe(check: Check) -> str:
    """`mask AP drop 0.0213, at most 0.0100`, as tables and errors print a check."""
    value = "nothing to compare" if check.value is None else f"{check.value:.4g}"
    bound = "at least" if check.at_least else "at most"
    note = f" ({check.note})" if check.note else ""
    return f"{check.figure} {value}, {bound} {check.limit:.4g}{note}"


def finite(value: float) -> float | None:
    """The value, or None where it is infinite or NaN."""
    return value if math.isfinite(value) else None


def encode_report(report: ParityReport) -> bytes:
    """The report as indented UTF-8 JSON, with the verdict of the whole, each comparison and each check."""
    plain = msgspec.to_builtins(report)
    plain["passed"] = report.passed
    for comparison, written in zip(report.comparisons, plain["comparisons"], strict=True):
        written["passed"] = comparison.passed
        if comparison.metric is not None:
            written["metric"]["drop"] = comparison.metric.drop
        for check, entry in zip(comparison.checks, written["checks"], strict=True):
            entry["passed"] = check.passed
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"


def decode_report(data: bytes) -> ParityReport:
    """Read `parity.json`."""
    return decode_json(data, ParityReport, lambda reason: ParityError(f"not a parity report: {reason}"))

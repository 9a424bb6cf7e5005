"""A bundle proves itself: its golden frames rerun through this machine's preprocessing, engine and decoding.

For each golden the training definition's outputs and decoded result lie in the bundle. Checked, and all of it
fails closed:

1. every file has its hash;
2. decoding the stored outputs here gives the stored result (the same decoding, on another processor);
3. the engine gives every declared output, no NaN, and values inside their declared ranges;
4. tensors: scores slot by slot, and where the engine's file has probes (or the graph declares none and the
   outputs are no sorted slots) each tensor by largest relative error and cosine;
5. the decoded result against the stored one within the manifest's budget, over all goldens together; on no
   golden may one side be empty and the other not.

Lowered files demote probes to inner tensors, so on a device 4 is the slots alone; parity compares probes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import msgspec
import numpy as np

from edgewise.runtime.bundle import Bundle
from edgewise.runtime.engines.base import Tensor, check_tensors
from edgewise.runtime.errors import BundleError, ResultError
from edgewise.runtime.manifest import Budget, Golden, Graph, Precision, Target, TensorSpec
from edgewise.runtime.matching import Detections, Matching, display_threshold, margin_of, match, pooled
from edgewise.runtime.postprocess import postprocess
from edgewise.runtime.session import Session, as_precision, as_target
from edgewise.runtime.sources import Frame, decode_image

SAME_DECODING_IOU = 0.999
SAME_DECODING_SCORE = 1e-5
RANGE_SLACK = 1e-3
"""Share of a declared range by which a value may leave it: rounding, not a wrong activation."""


@dataclass(frozen=True)
class Check:
    """One figure beside its limit.

    Attributes:
        subject: What was looked at: a tensor, the decoded result, ...
        at_least: Whether the limit is the least value allowed, not the largest.
        sample: On what: a golden's image, or all of them.
    """

    subject: str
    quantity: str
    value: float
    limit: float
    at_least: bool = False
    sample: str = ""

    @property
    def passed(self) -> bool:
        """NaN never passes."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def where(self) -> str:
        """Sample and subject in one text, for errors."""
        return f"{self.sample} {self.subject}".strip()


@dataclass(frozen=True)
class SelfTestReport:
    """What was checked on one backend in one precision."""

    bundle: str
    engine: str
    backend: Target
    precision: Precision
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """Whether something was checked and everything held."""
        return bool(self.checks) and not self.failures


def selftest(
    bundle: Bundle,
    backend: str | Target = Target.ONNXRUNTIME,
    precision: str | Precision = Precision.FP32,
    *,
    threads: int | None = None,
    provider: str = "cpu",
) -> SelfTestReport:
    """Rerun every golden of a bundle.

    Raises:
        BundleError: A file is missing or changed, or the bundle has no golden.
        ManifestError: The manifest states no budget for the precision.
        BackendError: The engine cannot be opened, fails, or gives NaN.
        ResultError: Outputs that cannot be decoded.
    """
    target, width = as_target(backend), as_precision(precision)
    bundle.verify()
    budget = bundle.manifest.budget(width)
    if not bundle.manifest.goldens:
        raise BundleError(
            "the bundle has no golden sample to test with", where=str(bundle.path), hint="export it again"
        )
    checks: list[Check] = []
    matchings: list[Matching] = []
    with Session.open(bundle, backend=target, precision=width, threads=threads, provider=provider) as session:
        engine = next(iter(session.engines.values())).name
        for golden in bundle.manifest.goldens:
            found, matching = _rerun(bundle, session, golden, budget)
            checks += found
            matchings.append(matching)
    checks += budget_checks("all goldens", pooled(matchings), budget)
    return SelfTestReport(bundle.manifest.name, engine, target, width, tuple(checks))


def budget_checks(sample: str, matching: Matching, budget: Budget) -> tuple[Check, ...]:
    """The decoded level of a budget as checks."""
    return (
        Check(
            "result",
            "matched instances",
            matching.matched_fraction,
            budget.matched_fraction,
            True,
            sample=sample,
        ),
        Check("result", "mean mask IoU", matching.mask_iou, budget.mask_iou, True, sample=sample),
        Check(
            "result",
            "mean score difference",
            matching.score_difference,
            budget.score_difference,
            sample=sample,
        ),
    )


def tensor_checks(
    sample: str,
    specs: Iterable[TensorSpec],
    reference: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    budget: Budget,
) -> list[Check]:
    """Largest relative error and cosine of each float tensor, by exact name."""
    checks: list[Check] = []
    for spec in specs:
        wanted = reference[spec.name].astype(np.float64).ravel()
        given = found[spec.name].astype(np.float64).ravel()
        scale = float(np.abs(wanted).max())
        error = float(np.abs(given - wanted).max()) / (scale or 1.0)
        norms = float(np.linalg.norm(wanted) * np.linalg.norm(given))
        cosine = float(wanted @ given) / norms if norms else float(not wanted.any() and not given.any())
        checks.append(Check(spec.name, "relative error", error, budget.tensor_relative_error, sample=sample))
        checks.append(Check(spec.name, "cosine", cosine, budget.tensor_cosine, True, sample=sample))
    return checks


def _rerun(bundle: Bundle, session: Session, golden: Golden, budget: Budget) -> tuple[list[Check], Matching]:
    manifest = bundle.manifest
    image = decode_image(bundle.read(golden.image), where=golden.image)
    session.reset()
    prepared = session.prepare(Frame(0, golden.image, image, 0.0))
    graph = manifest.graphs[prepared.graph]
    stored = _read_tensors(bundle, golden, graph)
    records = _read_records(bundle, golden)
    frame_size = (int(image.shape[0]), int(image.shape[1]))
    expected = Detections.of_coco(records, frame_size)

    own = {spec.name: stored[spec.name] for spec in graph.outputs}
    decoded = match(
        expected,
        Detections.of_instances(postprocess(manifest, own, prepared.geometry)),
        threshold=0.0,
        margin=0.0,
    )
    checks = [
        Check("decoding", "matched instances", decoded.matched_fraction, 1.0, True, sample=golden.image),
        Check("decoding", "mean mask IoU", decoded.mask_iou, SAME_DECODING_IOU, True, sample=golden.image),
        Check(
            "decoding", "score difference", decoded.score_difference, SAME_DECODING_SCORE, sample=golden.image
        ),
    ]
    inferred = session.infer(prepared)
    checks += _range_checks(golden.image, graph.outputs, inferred.outputs)
    checks += tensor_level(golden.image, graph, manifest.postprocess, stored, inferred.outputs, budget)
    matching = match(
        expected,
        Detections.of_instances(session.finish(inferred)),
        threshold=display_threshold(manifest.postprocess),
        margin=margin_of(budget),
    )
    checks.append(Check("result", "one side empty", float(matching.one_side_empty), 0.0, sample=golden.image))
    return checks, matching


def tensor_level(
    sample: str,
    graph: Graph,
    decoding: object,
    stored: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    budget: Budget,
) -> list[Check]:
    """The tensor level of one golden, as the module's text says.

    Args:
        decoding: The manifest's postprocessing; one with a `scores` output decodes slots.
        stored: Outputs and probes of the training definition.
        outputs: What the engine gave.
    """
    scores = getattr(decoding, "scores", None)
    checks: list[Check] = []
    if isinstance(scores, str):
        checks.append(_slot_check(sample, scores, stored[scores], outputs[scores], budget))
    elif not graph.probes:
        floats = [spec for spec in graph.outputs if spec.dtype.value.startswith("float")]
        checks += tensor_checks(sample, floats, stored, outputs, budget)
    exposed = [spec for spec in graph.probes if spec.name in outputs]
    return checks + tensor_checks(sample, exposed, stored, outputs, budget)


def _slot_check(sample: str, subject: str, stored: Tensor, found: Tensor, budget: Budget) -> Check:
    """Mean difference of the sorted scores.

    Sorting makes slots comparable: the n-th largest score moves no further than the scores do, even where
    two near-equal instances change places.
    """
    wanted = -np.sort(-stored.astype(np.float64).ravel())
    given = -np.sort(-found.astype(np.float64).ravel())
    occupied = (wanted > 0) | (given > 0)
    value = float(np.abs(wanted - given)[occupied].mean()) if occupied.any() else 0.0
    return Check(subject, "slot difference", value, budget.score_difference, sample=sample)


def _range_checks(sample: str, specs: Sequence[TensorSpec], outputs: Mapping[str, Tensor]) -> list[Check]:
    checks: list[Check] = []
    for spec in specs:
        if spec.value_range is not None:
            low, high = spec.value_range
            tensor = outputs[spec.name]
            outside = max(low - float(tensor.min()), float(tensor.max()) - high, 0.0)
            limit = RANGE_SLACK * (high - low)
            checks.append(Check(spec.name, "outside its range by", outside, limit, sample=sample))
    return checks


def _read_tensors(bundle: Bundle, golden: Golden, graph: Graph) -> dict[str, Tensor]:
    """The stored outputs and probes, with the dtypes and shapes that the manifest declares."""
    try:
        with np.load(io.BytesIO(bundle.read(golden.tensors)), allow_pickle=False) as archive:
            tensors: dict[str, Tensor] = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, BadZipFile) as error:
        raise BundleError(f"not an .npz of tensors: {error}", where=golden.tensors) from None
    check_tensors((*graph.outputs, *graph.probes), tensors, role="golden tensor", where=golden.tensors)
    return tensors


def _read_records(bundle: Bundle, golden: Golden) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(bundle.read(golden.result), type=list[dict[str, Any]])
    except msgspec.MsgspecError as error:
        raise ResultError(f"not COCO results: {error}", where=golden.result) from None

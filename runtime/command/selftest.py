"""A bundle proves itself: its golden frames rerun through this machine's preprocessing, engine and decoding.

For each golden the training definition's outputs and decoded result lie in the bundle. Checked, and all of it
fails closed:

1. every file has its hash;
2. decoding the stored outputs here gives the stored result (the same decoding, on another processor);
3. the engine gives every declared output, no NaN, and values inside their declared ranges;
4. tensors, for every look at the frame: scores slot by slot, class maps pixel by pixel, and where the
   engine's file has probes (or the graph declares none and the outputs are no sorted slots) each float
   tensor by largest relative error and cosine (`edgewise.runtime.compare.checks`);
5. the decoded result against the stored one within the manifest's budget, over all goldens together; on no
   golden may one side be empty and the other not.

Lowered files demote probes to inner tensors, so on a device 4 is the outputs alone; parity compares probes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import msgspec
import numpy as np

from edgewise.runtime.compare.checks import Check, budget_checks, range_checks, tensor_level
from edgewise.runtime.compare.matching import (
    Detections,
    Matching,
    display_threshold,
    margin_of,
    match,
    pooled,
)
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Budget, GoldenFrame, Graph, Manifest, Precision, Target
from edgewise.runtime.contract.postprocessing import HeatmapKeypoints
from edgewise.runtime.decoding.decode import postprocess
from edgewise.runtime.engines.base import Tensor, check_tensors
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.frames.sources import Frame, decode_image
from edgewise.runtime.system.errors import BundleError, ResultError
from edgewise.runtime.walk.session import Session, as_precision, as_target

SAME_DECODING_SIMILARITY = 0.999
SAME_DECODING_SCORE = 1e-5


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
            session.reset()
            for frame in golden.frames:
                found, matching = _rerun(bundle, session, frame, budget)
                checks += found
                matchings.append(matching)
    checks += budget_checks("all goldens", pooled(matchings), budget)
    return SelfTestReport(bundle.manifest.name, engine, target, width, tuple(checks))


def golden_boxes(golden: GoldenFrame) -> FrameBoxes | None:
    """Where the network looks in a golden's frame; None for a model of whole frames."""
    if not golden.boxes:
        return None
    return FrameBoxes(np.array(golden.boxes, np.float64), np.ones(len(golden.boxes), np.float32))


def _rerun(
    bundle: Bundle, session: Session, golden: GoldenFrame, budget: Budget
) -> tuple[list[Check], Matching]:
    manifest, name = bundle.manifest, golden.image
    image = decode_image(bundle.read(name), where=name)
    prepared = session.prepare(Frame(0, name, image, 0.0), golden_boxes(golden))
    graph, views = manifest.graphs[prepared.graph], prepared.views
    stored = _read_tensors(bundle, golden, graph, len(views.looks))
    expected = _read_result(bundle, golden, manifest, views.frame_size)

    own = [{spec.name: look[spec.name] for spec in graph.outputs} for look in stored]
    decoded = match(
        expected, Detections.of_result(postprocess(manifest, views, own)), threshold=0.0, margin=0.0
    )
    checks = [
        Check("decoding", "matched fraction", decoded.matched_fraction, 1.0, True, name),
        Check("decoding", "mean similarity", decoded.similarity, SAME_DECODING_SIMILARITY, True, name),
        Check("decoding", "score difference", decoded.score_difference, SAME_DECODING_SCORE, sample=name),
    ]
    inferred = session.infer(prepared)
    for number, (wanted, outputs) in enumerate(zip(stored, inferred.outputs, strict=True), start=1):
        look = name if len(stored) == 1 else f"{name}, look {number}"
        checks += range_checks(look, graph.outputs, outputs)
        checks += tensor_level(look, manifest, graph, wanted, outputs, budget)
    matching = match(
        expected,
        Detections.of_result(session.finish(inferred)),
        threshold=display_threshold(manifest.postprocess),
        margin=margin_of(budget),
    )
    checks.append(Check("result", "one side empty", float(matching.one_side_empty), 0.0, sample=name))
    return checks, matching


def _read_tensors(bundle: Bundle, golden: GoldenFrame, graph: Graph, looks: int) -> list[dict[str, Tensor]]:
    """The stored outputs and probes of each look, with the dtypes and shapes that the manifest declares."""
    try:
        with np.load(io.BytesIO(bundle.read(golden.tensors)), allow_pickle=False) as archive:
            tensors: dict[str, Tensor] = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, BadZipFile) as error:
        raise BundleError(f"not an .npz of tensors: {error}", where=golden.tensors) from None
    specs = [
        msgspec.structs.replace(spec, shape=(looks * spec.shape[0], *spec.shape[1:]))
        for spec in (*graph.outputs, *graph.probes)
    ]
    check_tensors(specs, tensors, role="golden tensor", where=golden.tensors)
    return [
        {name: np.split(tensor, looks)[number] for name, tensor in tensors.items()} for number in range(looks)
    ]


def _read_result(
    bundle: Bundle, golden: GoldenFrame, manifest: Manifest, frame_size: tuple[int, int]
) -> Detections:
    """The stored result."""
    try:
        records = msgspec.json.decode(bundle.read(golden.result), type=list[dict[str, Any]])
    except msgspec.MsgspecError as error:
        raise ResultError(f"not COCO results: {error}", where=golden.result) from None
    spec = manifest.postprocess
    if isinstance(spec, HeatmapKeypoints):
        return Detections.of_coco(records, frame_size, manifest.keypoints, spec.score_threshold)
    return Detections.of_coco(records, frame_size)

"""A bundle proves itself: its golden clips rerun through this machine's preprocessing, engines and decoding.

For each frame of a golden the training definition's outputs and decoded result lie in the bundle. Checked,
and all of it fails closed:

1. every file has its hash;
2. decoding the stored outputs here gives the stored result (the same decoding, on another processor);
3. the engine gives every declared output, no NaN, and values inside their declared ranges;
4. tensors, for every look at the frame: scores slot by slot, class maps pixel by pixel, and where the
   engine's file has probes (or the graph declares none and the outputs are no sorted slots) each float
   tensor by largest relative error and cosine (`edgewise.runtime.compare.checks`);
5. the decoded result against the stored one within the manifest's budget, over all goldens together; on no
   frame may one side be empty and the other not;
6. every graph that the schedule can run has run;
7. where one launch takes several looks, the tensors of as many golden looks in one;
8. a black frame, a white one and one of noise give results (`edgewise.runtime.walk.extremes`).

State passes from frame to frame of a clip as it does in use. Lowered files demote probes to inner tensors, so
on a device 4 is the outputs alone; parity compares probes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import msgspec
import numpy as np

from edgewise.runtime.compare.checks import Check, Level, decoded_checks, output_checks, range_checks
from edgewise.runtime.compare.matching import Matching, MatchTally, margin_of, match
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Budget, GoldenFrame, Graph, Manifest, Precision, Target
from edgewise.runtime.decoding.decode import decode_result
from edgewise.runtime.decoding.kinds import kind_of
from edgewise.runtime.engines.base import Tensor
from edgewise.runtime.engines.options import ONNXRUNTIME, Backend, as_options, as_precision
from edgewise.runtime.engines.tensor_files import read_npz
from edgewise.runtime.frames.images import decode_image
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.documents import decode_json
from edgewise.runtime.system.errors import BundleError, ResultError
from edgewise.runtime.walk.extremes import extreme_checks
from edgewise.runtime.walk.session import Session
from edgewise.runtime.walk.walk import Prepared, Walk

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
    bundle: Bundle, backend: Backend = ONNXRUNTIME, precision: str | Precision = Precision.FP32
) -> SelfTestReport:
    """Rerun every golden of a bundle.

    Raises:
        BundleError: A file is missing or changed, or the bundle has no golden.
        ManifestError: The manifest states no budget for the precision.
        BackendError: The engine cannot be opened, fails, or gives NaN.
        ResultError: Outputs that cannot be decoded.
    """
    options, asked = as_options(backend), as_precision(precision)
    bundle.verify()
    budget = bundle.manifest.budget(asked)
    if not bundle.manifest.goldens:
        raise BundleError(
            "the bundle has no golden sample to test with", where=str(bundle.path), hint="export it again"
        )
    checks: list[Check] = []
    tally, rerun = MatchTally(), list[_Rerun]()
    with Session.open(bundle, backend=options, precision=asked) as session:
        engine = ", ".join(dict.fromkeys(engine.name for engine in session.engines.values()))
        for golden in bundle.manifest.goldens:
            session.reset()
            for frame in golden.frames:
                rerun.append(_rerun(bundle, session.walk, frame, budget))
                checks += rerun[-1].checks
                tally.add(rerun[-1].matching)
        checks += _launched(session.walk, rerun, budget)
        checks += extreme_checks(session.walk)
    checks += decoded_checks("all goldens", tally, budget)
    checks += _unproven(bundle.manifest, {frame.prepared.graph for frame in rerun})
    return SelfTestReport(bundle.manifest.name, engine, options.target, asked, tuple(checks))


def golden_boxes(golden: GoldenFrame) -> FrameBoxes | None:
    """Where the network looks in a golden's frame; None for a model of whole frames."""
    if not golden.boxes:
        return None
    return FrameBoxes(np.array(golden.boxes, np.float64), np.ones(len(golden.boxes), np.float32))


def _unproven(manifest: Manifest, ran: set[str]) -> Iterator[Check]:
    """A failed check for each graph that the goldens never run."""
    for graph in manifest.schedule.graphs:
        if graph not in ran:
            yield Check(
                level=Level.RUN,
                figure="runs on the goldens",
                value=0.0,
                limit=1.0,
                at_least=True,
                subject=f"graph {graph}",
                sample="all goldens",
            )


@dataclass(frozen=True, eq=False)
class _Rerun:
    """A golden's frame that ran again.

    Attributes:
        stored: The tensors of each look that lie in the bundle.
        checks: What was checked.
        matching: Its result against the stored one.
    """

    prepared: Prepared
    stored: list[dict[str, Tensor]]
    checks: list[Check]
    matching: Matching


def _launched(walk: Walk, rerun: Sequence[_Rerun], budget: Budget) -> Iterator[Check]:
    """The tensors of golden looks that fill a launch together; nothing where a launch takes one."""
    if walk.batch == 1:
        return
    looks, together = 0, list[_Rerun]()
    for frame in cycle(rerun):  # each has a look at least
        if looks >= walk.batch:
            break
        together.append(frame)
        looks += len(frame.stored)
    inferred = walk.infer_together([frame.prepared for frame in together])
    for frame, found in zip(together, inferred, strict=True):
        graph = walk.manifest.graphs[found.graph]
        for number, (wanted, outputs) in enumerate(zip(frame.stored, found.outputs, strict=True), start=1):
            look = f"{frame.prepared.frame.name}, look {number} among {looks}"
            yield from range_checks(look, graph.outputs, outputs)
            yield from output_checks(look, walk.manifest, graph, wanted, outputs, budget)


def _rerun(bundle: Bundle, walk: Walk, golden: GoldenFrame, budget: Budget) -> _Rerun:
    """Run a golden's frame again and check it."""
    manifest, name = bundle.manifest, golden.image
    image = decode_image(bundle.read(name), where=name)
    prepared = walk.prepare(Frame(0, name, image, 0.0), golden_boxes(golden))
    graph, looks = manifest.graphs[prepared.graph], prepared.looks
    stored = _read_tensors(bundle, golden, graph, len(looks.looks))
    expected = _read_result(bundle, golden, looks.frame_size)
    decoded = decode_result(manifest, looks, stored)
    checks = list(_same_decoding(name, manifest, expected, decoded))
    inferred = walk.infer(prepared)
    for number, (wanted, outputs) in enumerate(zip(stored, inferred.outputs, strict=True), start=1):
        look = name if len(stored) == 1 else f"{name}, look {number}"
        checks += range_checks(look, graph.outputs, outputs)
        checks += output_checks(look, manifest, graph, wanted, outputs, budget)
    matching = match(
        kind_of(manifest),
        expected,
        walk.finish(inferred),
        threshold=manifest.postprocess.shown_from,
        margin=margin_of(budget),
    )
    checks.append(
        Check(
            level=Level.DECODED,
            figure="one side empty",
            value=float(matching.tally.one_empty),
            limit=0.0,
            subject="result",
            sample=name,
        )
    )
    return _Rerun(prepared, stored, checks, matching)


def _same_decoding(name: str, manifest: Manifest, expected: Result, decoded: Result) -> Iterator[Check]:
    found = match(kind_of(manifest), expected, decoded, threshold=0.0, margin=0.0).tally
    for figure, value, limit, at_least in (
        ("matched fraction", found.matched_fraction, 1.0, True),
        ("mean similarity", found.similarity, SAME_DECODING_SIMILARITY, True),
        ("score difference", found.score_difference, SAME_DECODING_SCORE, False),
    ):
        yield Check(
            level=Level.DECODED,
            figure=figure,
            value=value,
            limit=limit,
            at_least=at_least,
            subject="decoding",
            sample=name,
        )


def _read_tensors(bundle: Bundle, golden: GoldenFrame, graph: Graph, looks: int) -> list[dict[str, Tensor]]:
    """The stored outputs and probes of each look, with the dtypes and shapes that the manifest declares."""
    specs = [
        msgspec.structs.replace(spec, shape=(looks * spec.shape[0], *spec.shape[1:]))
        for spec in (*graph.outputs, *graph.probes)
    ]
    data = bundle.read(golden.tensors)
    tensors = read_npz(data, specs, role="golden tensor", where=golden.tensors)
    return [
        {name: np.split(tensor, looks)[number] for name, tensor in tensors.items()} for number in range(looks)
    ]


def _read_result(bundle: Bundle, golden: GoldenFrame, frame_size: tuple[int, int]) -> Result:
    """The stored result."""
    manifest = bundle.manifest
    records = decode_json(
        bundle.read(golden.result),
        list[dict[str, Any]],
        lambda reason: ResultError(f"not records of a result: {reason}", where=golden.result),
    )
    try:
        return kind_of(manifest).read(manifest.postprocess, manifest, records, frame_size)
    except ResultError as error:
        raise ResultError(error.what, where=golden.result, hint=error.hint) from None

"""A bundle with state proves itself on clips: every graph runs, and on what the frames before it left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgewise.runtime.command.selftest import SelfTestReport, selftest
from edgewise.runtime.compare.checks import Level
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.schedules import KeyEveryN
from edgewise.runtime.walk.session import Session

from .conftest import ONE_THREAD, video_graph

SCHEDULE = KeyEveryN(key="key", nonkey="nonkey", n=2)


def frame(value: int) -> np.ndarray:
    return np.full((64, 96, 3), value, np.uint8)


CLIP = [frame(255), frame(0), frame(204), frame(0)]
"""Memory: 0 -> (0 + 1) / 2 -> (0.5 + 0.8) / 2; the frames between are black and live on it."""
FRAMES = tuple(f"goldens/0-{index}.png" for index in range(4))


def run(path: Path) -> SelfTestReport:
    return selftest(Bundle.open(path), ONE_THREAD)


def failed(report: SelfTestReport) -> set[tuple[str, str]]:
    return {(check.sample, check.figure) for check in report.failures}


def test_a_clip_over_both_graphs_passes(make_video_bundle: Callable[..., Path]) -> None:
    path = make_video_bundle(SCHEDULE, clips=[CLIP])
    report = run(path)
    assert report.passed, report.failures
    extremes = {"a black frame", "a white frame", "a frame of noise"}
    assert {check.sample for check in report.checks} == {*FRAMES, "all goldens", *extremes}
    with Session.open(path, backend=ONE_THREAD) as session:
        scores = [float(result.scores[0]) for _, result in session.stream(CLIP)]
    np.testing.assert_allclose(scores, [0.5, 0.5, 0.65, 0.65], atol=1e-6)


def test_every_clip_starts_without_state(make_video_bundle: Callable[..., Path]) -> None:
    """An odd number of frames: state or schedule of the first clip would show in the second."""
    assert run(make_video_bundle(SCHEDULE, clips=[CLIP[:3], CLIP], initial_value=0.4)).passed


def test_a_graph_that_finds_nothing_fails(make_video_bundle: Callable[..., Path]) -> None:
    blind = {"nonkey": video_graph(key=False, sight=0.0)}
    found = failed(run(make_video_bundle(SCHEDULE, clips=[CLIP], shipped=blind)))
    between = {(name, figure) for name in FRAMES[1::2] for figure in ("slot difference", "one side empty")}
    assert between <= found
    assert ("all goldens", "matched fraction") in found
    assert {sample for sample, _ in found} == {*FRAMES[1::2], "all goldens"}


def test_a_graph_that_no_golden_runs_fails(make_video_bundle: Callable[..., Path]) -> None:
    """Good or bad: what was not run is not proven."""
    for folder_of in (None, {"nonkey": video_graph(key=False, sight=0.0)}):
        (failure,) = run(make_video_bundle(SCHEDULE, clips=[CLIP[:1]], shipped=folder_of)).failures
        assert (failure.subject, failure.figure) == ("graph nonkey", "runs on the goldens")
        assert failure.level is Level.RUN
    # Nor do many clips of one frame prove it.
    assert len(run(make_video_bundle(SCHEDULE, clips=[CLIP[:1]] * 3)).failures) == 1


@pytest.mark.parametrize("kept", [0.0, 0.9])
def test_state_that_is_wrong_fails(make_video_bundle: Callable[..., Path], kept: float) -> None:
    """The first frame is right, and so is each graph alone; what the key graph leaves is not."""
    forgetful = {"key": video_graph(key=True, kept=kept)}
    found = failed(run(make_video_bundle(SCHEDULE, clips=[CLIP], shipped=forgetful)))
    assert {(name, "slot difference") for name in FRAMES[1:]} <= found
    assert (FRAMES[0], "slot difference") not in found
    assert ((FRAMES[1], "one side empty") in found) == (kept == 0.0)


def test_wrong_state_is_not_seen_on_first_frames_alone(make_video_bundle: Callable[..., Path]) -> None:
    """Why clips are needed: the same forgetful graph holds on frames without a past."""
    forgetful = {"key": video_graph(key=True, kept=0.0)}
    found = failed(run(make_video_bundle(SCHEDULE, clips=[CLIP[:1]] * 2, shipped=forgetful)))
    assert found == {("all goldens", "runs on the goldens")}

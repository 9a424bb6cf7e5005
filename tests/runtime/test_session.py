"""Frames in, results in source coordinates out, with the stages of neighbouring frames overlapping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Precision
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.system.errors import BackendError, SourceError
from edgewise.runtime.walk.pipeline import overlapped
from edgewise.runtime.walk.session import Session
from edgewise.runtime.walk.walk import Preparation, Walk

from .conftest import ONE_THREAD, bright_frame, detector


@pytest.fixture
def session(bundle_folder: Path) -> Generator[Session]:
    with Session.open(bundle_folder, backend=ONE_THREAD) as opened:
        yield opened


def edgewise_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgewise-")]


def test_one_image(session: Session) -> None:
    result = session(bright_frame(size=(64, 96)))
    assert result.names == ("bright", "dim")
    np.testing.assert_allclose(result.boxes[0], [8, 8, 48, 56])
    assert result.frame_size == (64, 96)
    # The bright part is the left three quarters: 72 of 96 columns.
    assert result.masks.areas()[0] == 64 * 72


@pytest.mark.parametrize("image", [None, "picture.png", [[1, 2, 3]]])
def test_no_image_is_told(session: Session, image: Any) -> None:
    """cv2.imread gives None for a file that is not there."""
    with pytest.raises(SourceError) as caught:
        session(image)
    assert ("check the path" in caught.value.hint) == (image is None)
    with pytest.raises(SourceError):
        next(session.stream([image]))


def test_results_are_in_the_coordinates_of_each_frame(session: Session) -> None:
    result = session(bright_frame(size=(320, 960)))
    np.testing.assert_allclose(result.boxes[0], [80, 40, 480, 280])


def test_options_by_name_and_by_bundle(bundle_folder: Path) -> None:
    with Session.open(Bundle.open(bundle_folder), backend="onnxruntime", precision="fp32") as session:
        assert len(session(bright_frame())) == 2
    with pytest.raises(BackendError, match="no backend is called 'openvino'"):
        Session.open(bundle_folder, backend="openvino")
    with pytest.raises(BackendError, match="no precision is called 'int4'"):
        Session.open(bundle_folder, precision="int4")
    with pytest.raises(BackendError, match="no int8 model"):
        Session.open(bundle_folder, precision=Precision.INT8)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_image(session: Session, image: np.ndarray) -> None:
    with pytest.raises(SourceError, match="must be uint8"):
        session(image)


def test_nan_stops_the_run(make_bundle: Callable[..., Path]) -> None:
    path = make_bundle(models={Precision.FP32: detector(nan=True)})
    with (
        Session.open(path, backend=ONE_THREAD) as session,
        pytest.raises(BackendError, match="'scores' holds NaN"),
    ):
        session(bright_frame())


def test_a_stream_gives_every_frame_in_order_as_single_calls_do(session: Session) -> None:
    frames = [bright_frame(value) for value in range(0, 250, 5)]
    streamed = list(session.stream(frames))
    assert [frame.index for frame, _ in streamed] == list(range(len(frames)))
    for image, (frame, result) in zip(frames, streamed, strict=True):
        alone = session(image)
        assert frame.image is image
        np.testing.assert_array_equal(result.scores, alone.scores)
        np.testing.assert_array_equal(result.masks.data, alone.masks.data)
    assert not edgewise_threads()


def test_an_empty_stream(session: Session) -> None:
    assert list(session.stream([])) == []


def test_an_error_comes_after_the_results_before_it(session: Session) -> None:
    def frames() -> Generator[np.ndarray]:
        yield bright_frame()
        yield bright_frame()
        raise SourceError("the third frame is broken")

    done: list[Frame] = []
    with pytest.raises(SourceError, match="third frame"):
        done.extend(frame for frame, _ in session.stream(frames()))
    assert len(done) == 2
    assert not edgewise_threads()


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish"])
def test_an_error_in_a_later_stage_stops_the_source(session: Session, stage: str) -> None:
    taken = 0

    def frames() -> Generator[Frame]:
        nonlocal taken
        while True:
            taken += 1
            yield Frame(taken, "bad" if taken == 3 else "good", bright_frame(), 0.0)

    _fail_in(session.walk, stage, "bad")
    done = []
    with pytest.raises(ZeroDivisionError):
        done.extend(frame.index for frame, _ in session.stream(frames()))
    assert done == [1, 2]
    assert not edgewise_threads()
    stopped_at = taken
    time.sleep(0.05)
    assert taken == stopped_at


def _fail_in(walk: Walk, stage: str, name: str) -> None:
    """Make one stage of a walk fail on the frame of that name."""
    real = getattr(walk, stage)

    class Failing(Preparation):
        def __call__(self, given: Any, boxes: Any = None) -> Any:
            frame = given if isinstance(given, Frame) else given.frame
            if frame.name == name:
                raise ZeroDivisionError
            return real(given)

    setattr(walk, stage, Failing(walk.manifest))


def test_closing_early_stops_the_threads_and_reads_no_further(session: Session) -> None:
    taken = 0

    def endless() -> Generator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield bright_frame()

    stream = session.stream(endless(), depth=2)
    for _ in range(5):
        next(stream)
    stream.close()
    assert not edgewise_threads()
    # Five were taken out; at most two wait before each of three stages and one is in each hand.
    assert 5 <= taken <= 5 + 3 * 2 + 4


# ---------------------------------------------------------------- the pipeline itself


def test_stages_overlap() -> None:
    def slow(item: int) -> int:
        time.sleep(0.02)
        return item

    def source() -> Generator[int]:
        for item in range(15):
            time.sleep(0.02)
            yield item

    start = time.perf_counter()
    assert list(overlapped(source(), (slow, slow))) == list(range(15))
    # One after the other would be 0.9 s, perfect overlap 0.34 s.
    assert time.perf_counter() - start < 0.65


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_slow_consumer_holds_the_source_back(depth: int) -> None:
    taken: list[int] = []

    def source() -> Generator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    stream = overlapped(source(), (abs,), depth=depth)
    next(stream)
    time.sleep(0.1)
    # One was given, and so many wait before and behind the stage: neither it nor the source works ahead.
    assert len(taken) <= 1 + 2 * depth
    assert list(stream) == list(range(1, 100))


def test_an_interrupt_inside_the_source_reaches_the_consumer() -> None:
    def source() -> Generator[int]:
        yield 1
        raise KeyboardInterrupt

    stream = overlapped(source(), (abs,))
    assert next(stream) == 1
    with pytest.raises(KeyboardInterrupt):
        next(stream)


def test_depth_must_be_positive() -> None:
    with pytest.raises(ValueError, match="depth"):
        next(overlapped([1], (abs,), depth=0))

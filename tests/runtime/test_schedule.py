"""Which graph runs when, and what one run leaves for the next, through real two-graph bundles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgewise.runtime.contract.schedules import EveryFrame, KeyEveryN, KeyOnSceneChange
from edgewise.runtime.walk.schedule import graph_choice
from edgewise.runtime.walk.session import Session

from .conftest import ONE_THREAD


def frame(value: int) -> np.ndarray:
    return np.full((64, 96, 3), value, np.uint8)


def scores(session: Session, values: list[int]) -> list[float]:
    results = [result for _, result in session.stream([frame(value) for value in values])]
    return [float(result.scores[0]) if len(result) else 0.0 for result in results]


def test_every_frame_runs_one_graph() -> None:
    choose = graph_choice(EveryFrame(graph="main"))
    assert [choose(frame(0)) for _ in range(3)] == ["main"] * 3
    assert EveryFrame(graph="main").graphs == ("main",)


def test_key_every_n() -> None:
    schedule = KeyEveryN(key="key", nonkey="nonkey", n=3)
    choose = graph_choice(schedule)
    assert [choose(frame(0))[0] for _ in range(7)] == list("knnknnk")
    assert schedule.graphs == ("key", "nonkey")
    assert KeyEveryN(key="main", nonkey="main", n=2).graphs == ("main",)


def test_key_on_scene_change_compares_with_the_last_key_frame() -> None:
    choose = graph_choice(KeyOnSceneChange(key="key", nonkey="nonkey", threshold=10, at_least_every=100))
    # 100 -> 106 -> 112 drifts by 6 a frame: the third is 12 away from the key frame.
    assert [choose(frame(value))[0] for value in (100, 106, 112, 112, 200)] == list("knknk")


def test_key_comes_at_least_so_often() -> None:
    choose = graph_choice(KeyOnSceneChange(key="key", nonkey="nonkey", threshold=255, at_least_every=3))
    assert [choose(frame(0))[0] for _ in range(7)] == list("knnknnk")


def test_state_goes_from_key_frames_to_the_others(make_video_bundle: Callable[..., Path]) -> None:
    path = make_video_bundle(KeyEveryN(key="key", nonkey="nonkey", n=2))
    with Session.open(path, backend=ONE_THREAD) as session:
        # Memory: 0 -> (0 + 1) / 2 by the first key frame -> (0.5 + 0.2) / 2 by the third frame.
        np.testing.assert_allclose(scores(session, [255, 0, 51, 255]), [0.5, 0.5, 0.35, 0.35], atol=1e-6)


def test_a_stream_starts_from_the_initial_state(make_video_bundle: Callable[..., Path]) -> None:
    path = make_video_bundle(KeyEveryN(key="key", nonkey="nonkey", n=2), initial_value=0.8)
    with Session.open(path, backend=ONE_THREAD) as session:
        first = scores(session, [0, 0, 0])
        np.testing.assert_allclose(first, [0.4, 0.4, 0.2], atol=1e-6)
        assert scores(session, [0, 0, 0]) == first


def test_single_calls_go_on_until_reset(make_video_bundle: Callable[..., Path]) -> None:
    path = make_video_bundle(KeyEveryN(key="key", nonkey="nonkey", n=2), initial_value=0.8)
    with Session.open(path, backend=ONE_THREAD) as session:
        assert [session(frame(0)).scores[0] for _ in range(3)] == pytest.approx([0.4, 0.4, 0.2])
        session.reset()
        assert session(frame(0)).scores[0] == pytest.approx(0.4)

"""Live sources: the newest frame, every frame, the end of one, and its loss."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewise.runtime.frames.network import is_file
from edgewise.runtime.frames.newest import Newest
from edgewise.runtime.frames.reading import Reading
from edgewise.runtime.frames.sources import SourceKind, open_source
from edgewise.runtime.system.errors import SourceError

from .stream_server import camera, files, grey, index_of
from .test_cli import Verb, edgewise, only_panel
from .test_sinks import times_of

__all__ = ["edgewise"]

ALL = Reading(every_frame=True, reconnect=0)
NEWEST = Reading(reconnect=0)


def test_the_newest_item_replaces_the_one_that_waits() -> None:
    place: Newest[int] = Newest()
    assert all(place.put(item) for item in range(5))
    assert (place.take(), place.dropped) == (4, 4)
    place.put(5)
    place.end()
    assert (place.take(), place.take(), place.dropped) == (5, None, 4)
    assert not place.put(6)


def test_an_error_comes_behind_what_waits() -> None:
    place: Newest[int] = Newest()
    place.put(1)
    place.end(SourceError("lost"))
    assert place.take() == 1
    with pytest.raises(SourceError, match="lost"):
        place.take()


def test_who_comes_late_gets_the_newest_frame_and_the_rest_is_counted() -> None:
    with camera([40]) as address:
        source = open_source(address, NEWEST)
        assert (source.kind, source.count) == (SourceKind.LIVE, None)
        deadline = time.monotonic() + 60
        while source.losses.dropped < 39:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        (frame,) = source
        assert (frame.index, frame.image_id, index_of(frame.image)) == (39, 39, 39)
        assert source.losses.dropped == 39


def test_every_frame_in_order_where_that_is_asked_for() -> None:
    with camera([40]) as address:
        source = open_source(address, ALL)
        frames = [(frame.index, index_of(frame.image)) for frame in source]
    assert frames == [(index, index) for index in range(40)]
    assert source.losses.dropped == 0


def test_every_seventh_frame() -> None:
    with camera([40]) as address:
        reading = Reading(every=7, every_frame=True, reconnect=0)
        frames = [(frame.index, index_of(frame.image)) for frame in open_source(address, reading)]
    assert frames == [(index, index) for index in range(0, 40, 7)]


def test_a_lost_stream_is_opened_again_and_given_up_after_its_time() -> None:
    with camera([5, 4]) as address:
        source = open_source(address, Reading(every_frame=True, reconnect=0.1))
        frames = iter(source)
        assert [index_of(next(frames).image) for _ in range(9)] == list(range(9))
        assert (source.losses.reconnected, source.losses.lost) == (1, False)
        with pytest.raises(SourceError, match=r"lost after 9 frames .* for 0\.1 s") as caught:
            next(frames)
        assert "--reconnect" in caught.value.hint
        assert source.losses.lost


def test_a_lost_stream_ends_the_run_as_partial(edgewise: Verb, bundle_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with camera([5, 4]) as address:
        arguments = ("run", bundle_folder, address, "-o", out, "--every-frame", "--reconnect", 0.1)
        status, text, error = edgewise(*arguments)
    assert status == 1
    assert "lost after 9 frames" in only_panel(error)
    assert "9 frames" in text
    assert "reconnected 1 times" in text
    images = json.loads((out / "images.partial.json").read_text())
    assert [image["id"] for image in images] == list(range(9))


def test_the_end_of_a_stream_is_an_end(edgewise: Verb, bundle_folder: Path, tmp_path: Path) -> None:
    """As fast as it can, the server sends more than the run takes; what is run and what is dropped is all."""
    out = tmp_path / "out"
    with camera([60]) as address:
        status, text, _ = edgewise("run", bundle_folder, address, "-o", out, "--reconnect", 0)
    assert status == 0
    ids = [image["id"] for image in json.loads((out / "images.json").read_text())]
    dropped = re.search(r"dropped (\d+) frames", text)
    assert len(ids) + (int(dropped[1]) if dropped else 0) == 60
    assert ids == sorted(set(ids))
    assert ids[-1] == 59


def test_a_run_that_cannot_begin_lets_go_of_its_stream(edgewise: Verb, bundle_folder: Path) -> None:
    with camera([3]) as address:
        status, _, error = edgewise("run", bundle_folder, address, "--precision", "int8")
    assert status == 1
    assert "no int8 model" in only_panel(error)
    assert "edgewise-live" not in [thread.name for thread in threading.enumerate()]


def test_the_overlay_keeps_the_time_of_a_stream(edgewise: Verb, bundle_folder: Path, tmp_path: Path) -> None:
    """Whatever was dropped: each frame of the overlay stands at the time that images.json gives it."""
    out = tmp_path / "out"
    with camera([30]) as address:
        assert edgewise("run", bundle_folder, address, "-o", out, "--reconnect", 0)[0] == 0
    given = [image["timestamp"] for image in json.loads((out / "images.json").read_text())]
    # Two frames that come in the same tick are shown one tick after the other.
    shown = times_of(out / "overlay.mp4")
    assert shown == pytest.approx([seconds - given[0] for seconds in given], abs=1e-2)


def motion_jpeg(path: Path, frames: int) -> Path:
    path.write_bytes(b"".join(cv2.imencode(".jpg", grey(index))[1].tobytes() for index in range(frames)))
    return path


@pytest.mark.parametrize("name", ["clip.avi", "clip.mjpeg"])
def test_a_file_behind_an_address_is_a_video(
    edgewise: Verb, bundle_folder: Path, tmp_path: Path, name: str
) -> None:
    """One container announces its frames, the other does not; none is dropped or read twice."""
    if name.endswith("avi"):
        writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter.fourcc(*"MJPG"), 20, (96, 64))
        for index in range(40):
            writer.write(grey(index))
        writer.release()
    else:
        motion_jpeg(tmp_path / name, 40)
    with files(tmp_path) as address:
        source = open_source(f"{address}/{name}")
        assert source.kind is SourceKind.VIDEO
        assert [(frame.index, index_of(frame.image)) for frame in source] == [(n, n) for n in range(40)]
        status, text, _ = edgewise("run", bundle_folder, f"{address}/{name}")
    assert status == 0
    assert "40 frames" in text
    assert "dropped" not in text


def test_what_is_a_file(tmp_path: Path) -> None:
    for name in ("clip.ts", "live.m3u8"):
        (tmp_path / name).write_bytes(b"x" * 100)
    with files(tmp_path) as address:
        assert is_file(f"{address}/clip.ts", 10)
        assert not is_file(f"{address}/live.m3u8", 10)
        assert not is_file(f"{address}/gone.ts", 10)
    assert not is_file(f"{address}/clip.ts", 10)
    assert not is_file("http://user:word@127.0.0.1:9/clip.ts", 10)
    with camera([1]) as address:
        assert not is_file(address, 10)


def test_grey_levels_name_the_frame() -> None:
    assert [index_of(grey(index)) for index in (0, 1, 62)] == [0, 1, 62]
    assert np.unique(grey(62)).tolist() == [248]

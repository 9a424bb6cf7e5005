"""Every source that can be had without a camera, and every way in which one can be wrong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewise.runtime.frames import sources
from edgewise.runtime.frames.images import decode_image, read_image
from edgewise.runtime.frames.sources import Frame, SourceKind, open_source
from edgewise.runtime.system.errors import SourceError


def picture(seed: int = 0, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20, (64, 48))
    for value in range(12):
        writer.write(np.full((48, 64, 3), value * 20, np.uint8))
    writer.release()
    return path


def test_an_image(tmp_path: Path) -> None:
    path = tmp_path / "000000000139.png"
    cv2.imwrite(str(path), picture())
    source = open_source(str(path))
    assert (source.kind, source.count) == (SourceKind.IMAGES, 1)
    (frame,) = source
    assert (frame.index, frame.name, frame.image_id) == (0, path.name, 139)
    np.testing.assert_array_equal(frame.image, picture())


def test_a_grey_image_becomes_bgr(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), picture()[:, :, 0])
    assert read_image(tmp_path / "grey.png").shape == (48, 64, 3)


def test_a_folder_is_sorted_and_leaves_out_what_is_no_image(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "c.bmp"):
        cv2.imwrite(str(tmp_path / name), picture())
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "folder.png").mkdir()
    source = open_source(str(tmp_path))
    assert source.count == 3
    assert [(frame.index, frame.name, frame.image_id) for frame in source] == [
        (0, "a.PNG", 0),
        (1, "b.jpg", 1),
        (2, "c.bmp", 2),
    ]


def test_a_folder_whose_images_are_numbered_keeps_the_numbers(tmp_path: Path) -> None:
    for name in ("000724.png", "000139.png"):
        cv2.imwrite(str(tmp_path / name), picture())
    assert [frame.image_id for frame in open_source(str(tmp_path))] == [139, 724]


def test_a_video(video: Path) -> None:
    source = open_source(str(video))
    assert (source.kind, source.count, source.fps) == (SourceKind.VIDEO, 12, 20)
    frames = list(source)
    assert [frame.name for frame in frames] == [f"clip-{index:06d}" for index in range(12)]
    np.testing.assert_allclose([frame.timestamp for frame in frames], np.arange(12) / 20, atol=1e-3)
    assert all(abs(int(frame.image.mean()) - frame.index * 20) < 8 for frame in frames)


def error_of(text: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        list(open_source(text))
    assert caught.value.where
    assert caught.value.hint
    return caught.value


def test_missing(tmp_path: Path) -> None:
    assert "no such file or folder" in error_of(str(tmp_path / "gone.jpg")).what


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    assert "holds no image" in error_of(str(tmp_path)).what


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.95])
def test_a_truncated_image_is_refused_not_filled_with_grey(tmp_path: Path, suffix: str, part: float) -> None:
    data = cv2.imencode(f".{suffix}", picture())[1].tobytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(data[: int(len(data) * part)])
    assert "empty" in error_of(str(path)).what or "corrupt" in error_of(str(path)).what


def test_text_called_an_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello" * 50)
    assert "corrupt, or no image" in error_of(str(tmp_path / "text.png")).what


def test_a_corrupt_image_in_a_folder_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    (tmp_path / "b.png").write_bytes(b"junk")
    assert error_of(str(tmp_path)).where.endswith("b.png")


def test_bytes_that_are_no_image() -> None:
    with pytest.raises(SourceError, match="empty"):
        decode_image(b"", where="golden")


@pytest.mark.parametrize("data", [b"", b"junk" * 1000])
def test_a_file_that_is_no_video(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    assert "neither an image nor a video" in error_of(str(path)).what


def test_a_video_without_its_index(video: Path) -> None:
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    assert "neither an image nor a video" in error_of(str(video)).what


def test_a_video_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20, (64, 48))
    for seed in range(20):
        writer.write(picture(seed))
    writer.release()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    source = open_source(str(path))
    assert source.count == 20
    frames: list[Frame] = []
    with pytest.raises(SourceError, match=r"broke off after \d+ of 20"):
        frames.extend(source)
    assert 0 < len(frames) < 18


def test_a_stream_that_nobody_serves() -> None:
    assert "cannot be opened" in error_of("rtsp://127.0.0.1:9/stream").what


def test_a_camera_that_is_not_there() -> None:
    assert "cannot be opened" in error_of("97").what


def test_gstreamer_says_what_to_install() -> None:
    if sources.opencv_has_gstreamer():
        pytest.skip("this OpenCV has GStreamer")
    error = error_of("videotestsrc ! videoconvert ! appsink")
    assert "without GStreamer" in error.what
    assert "python3-opencv" in error.hint


def test_gstreamer_is_read_from_the_build_information(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (
        ("  Video I/O:\n    GStreamer:                   YES (1.20.3)\n", True),
        ("  Video I/O:\n    GStreamer:                   NO\n", False),
        ("  Video I/O:\n", False),
    ):
        monkeypatch.setattr(cv2, "getBuildInformation", lambda text=text: text)
        assert sources.opencv_has_gstreamer() is expected

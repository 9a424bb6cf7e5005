"""Every source that can be had without a camera, and every way in which one can be wrong."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewise.runtime.frames import sources
from edgewise.runtime.frames.images import IMAGE_SUFFIXES, decode_image, read_image
from edgewise.runtime.frames.reading import READING, Reading, early_end
from edgewise.runtime.frames.sources import SourceKind, open_source
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


@pytest.mark.parametrize(
    "names", [("1.png", "001.png"), ("1.png", "01.jpg"), ("1.png", "2.png", "x.png"), (f"{1 << 53}.png",)]
)
def test_numbers_that_do_not_tell_images_apart_are_no_ids(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        cv2.imwrite(str(tmp_path / name), picture())
    assert [frame.image_id for frame in open_source(str(tmp_path))] == list(range(len(names)))


def _written(folder: Path, name: str, pixels: np.ndarray) -> Path:
    suffix = {".jfif": ".jpg", ".jpe": ".jpg", ".pxm": ".pgm", ".pgm": ".pgm", ".pbm": ".pgm"}
    path = folder / name
    kind = suffix.get(path.suffix, path.suffix)
    done, data = cv2.imencode(kind, pixels[..., 0] if kind == ".pgm" else pixels)
    assert done
    path.write_bytes(data.tobytes())
    return path


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_of_an_image_is_read_alone_and_in_a_folder(tmp_path: Path, suffix: str) -> None:
    if suffix == ".avif" and not cv2.haveImageWriter("x.avif"):
        pytest.skip("this OpenCV has no AVIF")
    path = _written(tmp_path, f"a{suffix}", picture())
    (alone,) = open_source(str(path))
    (found,) = open_source(str(tmp_path))
    np.testing.assert_array_equal(alone.image, found.image)
    assert np.abs(alone.image.astype(int) - picture()).mean() < 60


def test_what_a_folder_leaves_out_is_named(tmp_path: Path) -> None:
    for name in ("a.png", "b.heic", "c.gif", "notes.txt", ".hidden"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", picture())[1].tobytes())
    assert open_source(str(tmp_path)).left_out == ("b.heic", "c.gif", "notes.txt")


@pytest.mark.parametrize(
    ("suffix", "pixels", "words"),
    [
        (".png", np.full((8, 8, 3), 4000, np.uint16), "uint16"),
        (".tiff", np.full((8, 8), 4000, np.uint16), "uint16"),
        (".tiff", np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), "float32"),
        (".hdr", np.full((8, 8, 3), 0.5, np.float32), "float32"),
    ],
)
def test_more_than_eight_bits_are_refused_not_cut(suffix: str, pixels: np.ndarray, words: str) -> None:
    data = cv2.imencode(suffix, pixels)[1].tobytes()
    with pytest.raises(SourceError, match=words) as caught:
        decode_image(data, where="deep")
    assert "255" in caught.value.hint


def _png(width: int, height: int) -> bytes:
    """The header of a PNG of that size, and no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_png(40_000, 30_000), "more pixels than OpenCV reads"),
        (b"\0\0\0\x1cftypheic" + bytes(40), "does not read .heic"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "does not read .jxl"),
    ],
)
def test_a_sound_file_that_opencv_does_not_read_is_not_called_corrupt(data: bytes, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        decode_image(data, where="picture")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_orientation_says(tmp_path: Path, orientation: int) -> None:
    shown = picture()[..., 0]
    # What a camera held in that way stores of the picture.
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.T,
        6: np.rot90(shown),
        7: shown[::-1, ::-1].T,
        8: np.rot90(shown, -1),
    }[orientation]
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0%c\0\0\0\0\0\0" % orientation
    jpeg = cv2.imencode(".jpg", np.ascontiguousarray(stored), (cv2.IMWRITE_JPEG_QUALITY, 100))[1].tobytes()
    marker = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + marker + jpeg[2:])
    read = read_image(tmp_path / "a.jpg")[..., 0]
    assert read.shape == shown.shape
    assert np.abs(read.astype(int) - shown).max() < 12


def test_a_video(video: Path) -> None:
    source = open_source(str(video))
    assert (source.kind, source.count, source.fps) == (SourceKind.VIDEO, 12, 20)
    frames = list(source)
    assert [frame.name for frame in frames] == [f"clip-{index:06d}" for index in range(12)]
    np.testing.assert_allclose([frame.timestamp for frame in frames], np.arange(12) / 20, atol=1e-3)
    assert all(abs(int(frame.image.mean()) - frame.index * 20) < 8 for frame in frames)


def error_of(text: str, reading: Reading = READING) -> SourceError:
    with pytest.raises(SourceError) as caught:
        list(open_source(text, reading))
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


def test_a_corrupt_image_in_a_folder_is_left_out_and_named(tmp_path: Path) -> None:
    for index in (1, 3, 4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture())
    (tmp_path / "2.png").write_bytes(b"junk")
    source = open_source(str(tmp_path))
    assert [(frame.index, frame.image_id) for frame in source] == [(0, 1), (2, 3), (3, 4)]
    (skipped,) = source.losses.skipped
    assert (skipped.index, skipped.name, skipped.image_id) == (1, "2.png", 2)
    assert "corrupt" in skipped.reason


def test_a_strict_reader_ends_at_a_corrupt_image(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    (tmp_path / "b.png").write_bytes(b"junk")
    assert error_of(str(tmp_path), Reading(strict=True)).where.endswith("b.png")


def test_a_folder_without_one_sound_image_is_an_error(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"junk")
    assert "not one of 2 images can be used; a.png" in error_of(str(tmp_path)).what


def test_every_other_image_keeps_its_place(tmp_path: Path) -> None:
    for name in "abcde":
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture())
    source = open_source(str(tmp_path), Reading(every=2))
    assert source.count == 3
    assert [(frame.index, frame.name) for frame in source] == [(0, "a.png"), (2, "c.png"), (4, "e.png")]


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


def test_every_third_frame_of_a_video_keeps_its_place_and_time(video: Path) -> None:
    source = open_source(str(video), Reading(every=3))
    assert source.count == 4
    frames = list(source)
    assert [frame.index for frame in frames] == [0, 3, 6, 9]
    np.testing.assert_allclose([frame.timestamp for frame in frames], [0, 0.15, 0.3, 0.45], atol=1e-3)
    assert all(abs(int(frame.image.mean()) - frame.index * 20) < 8 for frame in frames)
    assert not source.losses.ended_early


def motion_jpeg(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20, (64, 48))
    for seed in range(frames):
        writer.write(picture(seed))
    writer.release()
    return path


def test_a_video_that_breaks_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = motion_jpeg(tmp_path / "clip.avi", 20)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    source = open_source(str(path))
    assert source.count == 20
    frames = list(source)
    assert 0 < len(frames) < 18
    assert source.losses.ended_early == f"the video ended after {len(frames)} of 20 announced frames"
    assert "ended after" in error_of(str(path), Reading(strict=True)).what


@pytest.mark.parametrize("every", [1, 2, 5])
def test_a_broken_frame_costs_itself_alone(tmp_path: Path, every: int) -> None:
    path = motion_jpeg(tmp_path / "clip.avi", 20)
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data) - 2) if data[at : at + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 20
    lost = {0, 4, 10, 11, 12}
    for index in lost:
        data[starts[index] : starts[index + 1] - 8] = bytes(starts[index + 1] - 8 - starts[index])
    path.write_bytes(data)
    source = open_source(str(path), Reading(every=every))
    frames = list(source)
    asked = set(range(0, 20, every))
    assert [frame.index for frame in frames] == sorted(asked - lost)
    np.testing.assert_allclose([frame.timestamp for frame in frames], [frame.index / 20 for frame in frames])
    assert [image.index for image in source.losses.skipped] == sorted(asked & lost)
    assert not source.losses.ended_early
    assert "cannot be decoded" in error_of(str(path), Reading(every=every, strict=True)).what


@pytest.mark.parametrize("announced", [60, 20, 5, 0])
@pytest.mark.parametrize("every", [1, 4])
def test_what_a_container_announces_decides_nothing(tmp_path: Path, announced: int, every: int) -> None:
    path = motion_jpeg(tmp_path / "clip.avi", 20)
    data = path.read_bytes()
    for field in (b"avih", b"strh"):
        # The number of frames, in the header of the file and in that of its stream (AVIMAINHEADER's
        # dwTotalFrames, AVISTREAMHEADER's dwLength).
        at = data.index(field) + 8 + (16 if field == b"avih" else 32)
        assert data[at : at + 4] == (20).to_bytes(4, "little")
        data = data[:at] + announced.to_bytes(4, "little") + data[at + 4 :]
    path.write_bytes(data)
    source = open_source(str(path), Reading(every=every))
    assert [frame.index for frame in source] == list(range(0, 20, every))
    assert bool(source.losses.ended_early) == (announced == 60)


def test_the_length_in_seconds_tells_too() -> None:
    """A variable rate: few frames, spread over the whole of the announced time."""
    assert not early_end(decoded=8, seconds=1.76, announced=54, fps=30.0)
    assert early_end(decoded=8, seconds=0.27, announced=54, fps=30.0)
    assert not early_end(decoded=8, seconds=0.27, announced=None, fps=30.0)


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

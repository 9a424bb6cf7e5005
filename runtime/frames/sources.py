"""Where frames come from: an image, a folder of images, a video, a camera, a network stream, GStreamer.

One text names a source (`open_source`). Everything that can be known is checked when the source is opened;
what breaks later raises a SourceError from the iteration.
"""

from __future__ import annotations

import enum
from bisect import insort
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.frames.captures import Address, Capture
from edgewise.runtime.frames.image_ids import ImageIds, numbers_by_name
from edgewise.runtime.frames.images import IMAGE_SUFFIXES, images_in, read_image
from edgewise.runtime.frames.live import LiveStream
from edgewise.runtime.frames.network import is_file
from edgewise.runtime.frames.reading import READING, RECONNECT_SECONDS, Losses, Reading, Skipped, early_end
from edgewise.runtime.system.errors import SourceError

STREAM_PREFIXES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://")
TIMEOUT_MS = 10_000
"""How long a network stream may take to open, or to give the next frame."""
CAMERAS = "list cameras with `ls /dev/video*`"
PLAY_IT = "play it in a viewer; convert it with `ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4`"


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    Attributes:
        index: Position in the source, from 0.
        name: File name of an image, `<stem>-<index>` of a video frame.
        image: uint8 [H, W, 3] BGR. Nobody writes to it.
        timestamp: Seconds from the start of a video or stream; 0 for images.
        image_id: The number that COCO results carry: what a file of ids says (`open_source`), or the integer
            that an image's file is named by, where all images of the source are named by integers that
            differ, or the index.
    """

    index: int
    name: str
    image: NDArray[np.uint8]
    timestamp: float
    image_id: int = 0


class SourceKind(enum.Enum):
    IMAGES = "images"
    VIDEO = "video"
    LIVE = "live"


@dataclass(frozen=True)
class Source:
    """An opened source; iterate once.

    Attributes:
        name: What the user wrote.
        count: Number of frames, where it is known (of a video, as its container announces: often an
            estimate).
        fps: Nominal frames per second of a video or stream, where it says so.
        losses: What could not be given so far; it grows while the frames are taken.
        close: Ends a live source, also where a thread waits for its next frame. Others end by themselves.
        left_out: Names of the files of a folder that are no images by their names.
    """

    name: str
    kind: SourceKind
    frames: Iterator[Frame]
    count: int | None = None
    fps: float | None = None
    losses: Losses = field(default_factory=Losses)
    close: Callable[[], None] = lambda: None
    left_out: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Frame]:
        return self.frames

    def skip(self, frame: Frame, error: SourceError) -> None:
        """Note a frame among the losses that was given, and cannot be used."""
        skipped = Skipped(frame.index, frame.name, frame.image_id, error.what)
        insort(self.losses.skipped, skipped, key=lambda other: other.index)


def open_source(text: str, reading: Reading = READING, ids: ImageIds | None = None) -> Source:
    """Open what the text names.

    A GStreamer pipeline contains ` ! `; a network stream starts with `rtsp://`, `http://` or the like; digits
    alone are a camera index (write `./0` for a file of that name); the rest is a file or a folder.

    An image of a folder that cannot be read is left out and noted in the source's losses. So is a video that
    ends early: what its container announces is an estimate.

    A camera or stream gives its newest frame whenever one is asked for, and is opened again when it is lost
    (`Reading`). A file is a video, also where it lies behind an http address or a pipeline.

    Args:
        text: See above.
        reading: Which frames are given, and whether a loss is an error.
        ids: Numbers of images, by their files' names. Frames of videos and streams are numbered by position.

    Raises:
        SourceError: Missing, unreadable, empty, with an image that `ids` does not know, or needing an OpenCV
            that is not installed.
    """
    if " ! " in text:
        return _open_gstreamer(text, reading)
    if text.lower().startswith(STREAM_PREFIXES):
        return _open_network(text, reading)
    if text.isdecimal():
        return _open_live(_live_address(text, int(text), CAMERAS), reading)
    path = Path(text).expanduser()
    if path.is_dir():
        found, losses = images_in(path), Losses()
        frames = _image_frames(found.files, ids, reading, losses)
        count = _every(len(found.files), reading)
        return Source(text, SourceKind.IMAGES, frames, count, losses=losses, left_out=found.left_out)
    if not path.exists():
        raise SourceError("no such file or folder", where=text, hint="check the path")
    if path.is_char_device():
        return _open_live(_live_address(text, str(path), CAMERAS), reading)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        frame = next(_image_frames([path], ids, Reading(strict=True), Losses()))
        return Source(text, SourceKind.IMAGES, iter([frame]), 1)
    return _open_video(path, text, reading)


def _image_frames(
    files: Sequence[Path], ids: ImageIds | None, reading: Reading, losses: Losses
) -> Generator[Frame]:
    names = [file.name for file in files]
    numbers = numbers_by_name(names) if ids is None else ids.numbers(names)
    return _read_images(files, numbers, reading, losses)


def _read_images(
    files: Sequence[Path], numbers: Sequence[int], reading: Reading, losses: Losses
) -> Generator[Frame]:
    given = 0
    for index in range(0, len(files), reading.every):
        file, image_id = files[index], numbers[index]
        try:
            image = read_image(file)
        except SourceError as error:
            if reading.strict:
                raise
            losses.skipped.append(Skipped(index, file.name, image_id, error.what))
            continue
        given += 1
        yield Frame(index, file.name, image, 0.0, image_id)
    if not given:
        raise losses.error(str(files[0].parent))


def _every(count: int, reading: Reading) -> int:
    """How many of so many frames are taken."""
    return -(-count // reading.every)


def _open_video(path: Path, text: str, reading: Reading) -> Source:
    unopened = "neither an image nor a video that OpenCV can decode"
    silent = "the video opens, but not one frame can be decoded"
    return _video(Capture(Address(text, str(path), unopened, silent, PLAY_IT)), path.stem, text, reading)


def _video(capture: Capture, stem: str, text: str, reading: Reading) -> Source:
    count = None if capture.announced is None else _every(capture.announced, reading)
    losses = Losses()
    frames = _video_frames(capture, stem, reading, losses, text)
    return Source(text, SourceKind.VIDEO, frames, count, capture.fps, losses)


def _video_frames(video: Capture, stem: str, reading: Reading, losses: Losses, text: str) -> Generator[Frame]:
    def broken(index: int) -> None:
        if index % reading.every == 0:
            losses.skipped.append(Skipped(index, name(index), index, "the frame cannot be decoded"))
            if reading.strict:
                raise SourceError("a frame cannot be decoded", where=f"{text}, frame {index}", hint=PLAY_IT)

    def name(index: int) -> str:
        return f"{stem}-{index:06d}"

    try:
        while video.advance():
            index = video.index
            for passed in video.broken:
                broken(passed)
            if index % reading.every == 0:
                image = video.image()
                if image is None:
                    broken(index)
                else:
                    yield Frame(index, name(index), image, video.seconds, index)
    finally:
        video.close()
    losses.ended_early = early_end(video.index + 1, video.seconds, video.announced, video.fps)
    if reading.strict and losses.ended_early:
        raise SourceError(losses.ended_early, where=text, hint=PLAY_IT)


def _live_address(
    text: str, opened: str | int, hint: str, backend: int = cv2.CAP_ANY, parameters: Sequence[int] = ()
) -> Address:
    unopened = "the camera or stream cannot be opened"
    silent = "the camera or stream opens, but gives no frame"
    return Address(text, opened, unopened, silent, hint, backend, parameters)


def _open_live(address: Address, reading: Reading, patience: float = RECONNECT_SECONDS) -> Source:
    """A camera or stream; what announces its frames is a video, wherever it lies, and has an end."""
    capture = Capture(address)
    if capture.announced is not None and not isinstance(address.opened, int):
        return _video(capture, "video", address.text, reading)
    if reading.reconnect is not None:
        patience = reading.reconnect
    losses = Losses()
    stream = LiveStream(address, capture, reading, patience, losses)
    frames = (
        Frame(shot.index, f"live-{shot.index:06d}", shot.image, shot.seconds, shot.index) for shot in stream
    )
    return Source(address.text, SourceKind.LIVE, frames, None, capture.fps, losses, stream.close)


def _open_network(text: str, reading: Reading) -> Source:
    timeouts = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS)
    hint = "check the address and the network"
    address = _live_address(text, text, hint, cv2.CAP_FFMPEG, timeouts)
    if text.lower().startswith("http") and is_file(text, TIMEOUT_MS / 1000):
        return _video(Capture(address), "video", text, reading)
    return _open_live(address, reading)


def _open_gstreamer(text: str, reading: Reading) -> Source:
    if not opencv_has_gstreamer():
        raise SourceError(
            "this OpenCV was built without GStreamer, as pip's wheels are",
            where=text,
            hint="use the system's: `apt install python3-opencv gstreamer1.0-plugins-good`, "
            "`pip uninstall opencv-python-headless`, and a virtual environment made with "
            "--system-site-packages",
        )
    if "appsink" not in text:
        raise SourceError(
            "the GStreamer pipeline has no appsink",
            where=text,
            hint="end it with `! videoconvert ! video/x-raw,format=BGR ! appsink`",
        )
    hint = "run the pipeline with gst-launch-1.0 and fakesink in its place"
    # A pipeline may well be finite, and would start anew: its end is an end unless the user knows better.
    return _open_live(_live_address(text, text, hint, cv2.CAP_GSTREAMER), reading, patience=0.0)


def opencv_has_gstreamer() -> bool:
    """Whether the installed OpenCV can open GStreamer pipelines."""
    for line in cv2.getBuildInformation().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "GStreamer":
            return value.strip().upper().startswith("YES")
    return False

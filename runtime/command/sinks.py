"""Where results go: overlays as images or as a video, and COCO results.

Everything of a run is written in a hidden folder and renamed at the end, so a file under its final name is
complete (`runtime/system/output_set.py`). A run can end in three ways:

- complete: `results.json`, `images.json`, `overlay/` or `overlay.mp4`;
- interrupted (Ctrl-C, or a live stream that broke off): the same files, valid as far as they go, named
  `results.partial.json` and so on;
- failed: nothing.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.command.mp4_times import set_times
from edgewise.runtime.frames.reading import Losses
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.results.result import Result, is_settled
from edgewise.runtime.system.errors import ResultError

RESULTS = "results.json"
IMAGES = "images.json"
OVERLAY_FOLDER = "overlay"
OVERLAY_SUFFIX = ".jpg"
OVERLAY_VIDEO = "overlay.mp4"
DEFAULT_FPS = 25.0


class CocoResults:
    """COCO results of any kind, streamed: memory does not grow with the number of frames.

    `results` is the list that COCO's tools read, masks as RLE, people as keypoints. `images` lists id, file
    name, size and timestamp of every frame, also of those without a result; `settled` is false on those whose
    suppression ran out of rounds. An image that could not be read stands there with its id, its file name and
    why it was `skipped`.
    """

    def __init__(self, results: Path, images: Path, losses: Losses | None = None) -> None:
        self._results = _JsonList(results)
        self._images = _JsonList(images)
        self._losses = losses or Losses()

    def write(self, frame: Frame, result: Result) -> None:
        self._name_skipped(before=frame.index)
        height, width = frame.image.shape[:2]
        entry = {
            "id": frame.image_id,
            "file_name": frame.name,
            "height": height,
            "width": width,
            "timestamp": frame.timestamp,
        }
        self._images.append(entry if is_settled(result) else {**entry, "settled": False})
        for record in result.records(frame.image_id):
            self._results.append(record)

    def close(self) -> None:
        self._name_skipped()
        self._results.close()
        self._images.close()

    def _name_skipped(self, before: int | None = None) -> None:
        for image in self._losses.untold(before):
            self._images.append({"id": image.image_id, "file_name": image.name, "skipped": image.reason})


class OverlayImages:
    """One JPEG a frame, named after the source image."""

    def __init__(self, folder: Path, *, threshold: float) -> None:
        folder.mkdir()
        self._folder = folder
        self._threshold = threshold
        self._used: set[str] = set()

    def write(self, frame: Frame, result: Result) -> None:
        stem = Path(frame.name).stem
        name = stem if stem not in self._used else frame.name
        self._used.add(name)
        path = self._folder / f"{name}{OVERLAY_SUFFIX}"
        good, data = cv2.imencode(OVERLAY_SUFFIX, result.draw(frame.image, threshold=self._threshold))
        if not good:
            raise ResultError("an overlay cannot be encoded as JPEG", where=frame.name)
        path.write_bytes(data.tobytes())

    def close(self) -> None:
        """Every image is complete already."""


class OverlayVideo:
    """An MP4 (MPEG-4 part 2, which every OpenCV wheel can write) of the size of the first frame.

    A later frame of another size is fitted into that size, with black beside it: a stream may change its
    resolution, and a video cannot. Each frame is shown at the time that it has in the source, whose rate may
    vary and of which frames may have been dropped.
    """

    def __init__(self, path: Path, *, threshold: float, fps: float | None) -> None:
        self._path = path
        self._threshold = threshold
        self._fps = fps or DEFAULT_FPS
        self._writer: Any = None
        self._size = (0, 0)
        self._times = array("d")

    def write(self, frame: Frame, result: Result) -> None:
        drawn: NDArray[np.uint8] = result.draw(frame.image, threshold=self._threshold)
        size = (drawn.shape[1], drawn.shape[0])
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._size = size
            self._writer = cv2.VideoWriter(str(self._path), codec, self._fps, size)
            if not self._writer.isOpened():
                raise ResultError(
                    "OpenCV cannot write an MP4 video",
                    where=str(self._path),
                    hint="pass --no-overlay, or install opencv-python-headless from pip",
                )
        self._writer.write(drawn if size == self._size else _fitted(drawn, self._size))
        self._times.append(frame.timestamp)

    def close(self) -> None:
        """Finish the file, set its times and count its frames: OpenCV's writer does not report a full disk.

        Raises:
            ResultError: The file does not hold what was written.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        held = set_times(self._path, self._times, 1 / self._fps)
        if held != len(self._times):
            raise ResultError(
                f"the overlay video holds {held} of {len(self._times)} frames",
                where=str(self._path),
                hint="is the disk full?",
            )


class _JsonList:
    """A JSON array on disk, one element a line."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self._stream.write(b"[")
        self._count = 0

    def append(self, value: dict[str, Any]) -> None:
        self._stream.write(b",\n" if self._count else b"\n")
        self._stream.write(msgspec.json.encode(value))
        self._count += 1

    def close(self) -> None:
        if not self._stream.closed:
            self._stream.write(b"\n]\n")
            self._stream.close()


def _fitted(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The image, scaled to fit into (width, height) in its own proportions, in the middle of black."""
    width, height = size
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    fitted = np.zeros((height, width, 3), np.uint8)
    fitted[top : top + inner[1], left : left + inner[0]] = cv2.resize(
        image, inner, interpolation=cv2.INTER_AREA
    )
    return fitted

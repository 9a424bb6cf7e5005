"""The times of an MP4's frames, set after it was written: OpenCV's writer knows one constant rate alone.

Boxes and fields are those of ISO/IEC 14496-12. A sample table (`stts`) says how long each frame is shown; the
headers of movie, track and media (`mvhd`, `tkhd`, `mdhd`) say how long the whole is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import BinaryIO

TICKS = 10_000
"""Of a second. The 32 bits of a header hold five days of them."""
INSIDE = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
"""Boxes that hold other boxes, on the way to those that are changed."""
MOST = 2**32 - 1


def set_times(path: Path, seconds: Sequence[float], last: float) -> int:
    """Show each frame of an MP4 of one video track from its time to that of the next one.

    Args:
        path: The file; its frames stay as they are, its index is written anew.
        seconds: The time of each frame. Where times do not grow, a frame is shown for one tick.
        last: For how many seconds the last frame is shown.

    Returns:
        How many frames the file holds, 0 where it has no index. Where they are not as many as the times, it
        is not changed.
    """
    with path.open("r+b") as stream:
        index = next((box for box in _top_boxes(stream) if box[0] == b"moov"), None)
        if index is None:
            return 0
        _, start, size = index
        stream.seek(start)
        data = stream.read(size)
        held = _samples(data)
        if held == 0 or held != len(seconds):
            return held
        marks = [round((second - seconds[0]) * TICKS) for second in seconds]
        marks.append(marks[-1] + round(last * TICKS))
        durations = [min(max(after - before, 1), MOST) for before, after in pairwise(marks)]
        if start + size == stream.seek(0, 2):
            stream.truncate(start)
        else:
            stream.seek(start + 4)
            stream.write(b"free")
        stream.seek(0, 2)
        stream.write(_retimed(data, durations))
    return held


def _top_boxes(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and size of every box of a file."""
    start, end = 0, stream.seek(0, 2)
    while start + 8 <= end:
        stream.seek(start)
        size, kind = struct.unpack(">I4s", stream.read(8))
        if size == 1:
            size = int.from_bytes(stream.read(8), "big")
        if not 8 <= size <= end - start:
            return
        yield kind, start, size
        start += size


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and payload of every box in a payload."""
    start = 0
    while start + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8:
            return
        yield kind, data[start + 8 : start + size]
        start += size


def _samples(data: bytes) -> int:
    """The number of frames that a `stsz` somewhere in the boxes counts."""
    for kind, payload in _boxes(data):
        if kind == b"stsz":
            return int.from_bytes(payload[8:12], "big")
        if kind in INSIDE and (found := _samples(payload)):
            return found
    return 0


def _retimed(data: bytes, durations: Sequence[int]) -> bytes:
    """The boxes with other times; edit lists, which know the old ones, are left out."""
    total = min(sum(durations), MOST)
    written: list[bytes] = []
    for kind, payload in _boxes(data):
        if kind == b"edts":
            continue
        if kind in INSIDE:
            payload = _retimed(payload, durations)
        elif kind == b"stts":
            runs = [(len(list(run)), duration) for duration, run in groupby(durations)]
            payload = struct.pack(">II", 0, len(runs)) + b"".join(struct.pack(">II", *run) for run in runs)
        elif kind in (b"mvhd", b"mdhd", b"tkhd"):
            payload = _lasting(kind, payload, total)
        written.append(struct.pack(">I4s", 8 + len(payload), kind) + payload)
    return b"".join(written)


def _lasting(kind: bytes, header: bytes, total: int) -> bytes:
    """A header with another duration. Dates and durations take four bytes, or eight in version 1."""
    width = 8 if header[0] == 1 else 4
    at = 4 + 2 * width  # behind the version and two dates
    if kind == b"tkhd":
        at, before = at + 8, header[: at + 8]  # the track's number and four bytes of nothing
    else:
        at, before = at + 4, header[:at] + TICKS.to_bytes(4, "big")
    return before + total.to_bytes(width, "big") + header[at + width :]

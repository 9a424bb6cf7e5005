"""Surfaces as COCO DensePose records: an image of part, U and V inside each record, in the published form.

`densepose` holds `shape`, [3, height, width], and `data`, a PNG in base64 whose red is the part, and whose
green and blue are U and V times 255, cut off to 0..255 and to whole numbers. It lies at the whole part of
`bbox`. Read back, U and V are the middle of such a step, so that writing gives the same again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import cv2
import msgspec
import numpy as np

from edgewise.runtime.contract.parts import Coordinate
from edgewise.runtime.kinds.surface.crops import Charts, Labels, SurfaceCrops
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.results.records import as_records
from edgewise.runtime.results.result import Record
from edgewise.runtime.system.errors import ResultError


def encode_crop(labels: Labels, uv: Charts) -> dict[str, Any]:
    """What stands under `densepose`, of labels [h, w] and uv [2, h, w]."""
    steps = (uv * np.float32(255)).clip(0, 255).astype(np.uint8)
    # OpenCV writes the channels of a picture from blue to red.
    _, data = cv2.imencode(".png", np.stack([steps[1], steps[0], labels], axis=-1))
    return {"shape": [3, *labels.shape], "data": base64.b64encode(data.tobytes()).decode("ascii")}


def read_crops(records: Sequence[Record], parts: int, frame_size: Size) -> SurfaceCrops:
    """The crops of one image's records.

    Raises:
        ResultError: A record has none, a broken one, one that leaves the frame or one with unknown parts.
    """
    crops: list[tuple[Labels, Charts]] = []
    places: list[list[int]] = []
    for record in as_records(records, _Surfaced, "a surface"):
        crop = _decode(record.densepose, parts)
        crops.append(crop)
        places.append([int(record.bbox[0]), int(record.bbox[1]), *crop[0].shape[::-1]])
    return SurfaceCrops.of(crops, np.array(places, np.int64).reshape(-1, 4), frame_size)


def _decode(surface: _Crop, parts: int) -> tuple[Labels, Charts]:
    _, height, width = surface.shape
    try:
        data = np.frombuffer(base64.b64decode(surface.data, validate=True), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if _size_of(data) == (height, width) else None
    except (binascii.Error, cv2.error):
        image = None
    if image is None or image.shape != (height, width, 3):
        raise ResultError(
            f"the surface of a record is no PNG of {height} x {width} pixels", hint="export the bundle again"
        )
    labels = np.ascontiguousarray(image[..., 2], np.uint8)
    if labels.max(initial=0) > parts:
        raise ResultError(f"the surface of a record shows part {labels.max()} of {parts}")
    uv = (image[..., 1::-1].astype(np.float32).transpose(2, 0, 1) + np.float32(0.5)) / np.float32(255)
    return labels, np.where(labels > 0, np.minimum(uv, 1), 0).astype(np.float32)


def _size_of(data: np.ndarray) -> tuple[int, int] | None:
    """(height, width) that a PNG says of itself, before anything is allocated by it; None: it is no PNG."""
    head = data[:24].tobytes()
    if len(head) < 24 or not head.startswith(b"\x89PNG\r\n\x1a\n") or head[12:16] != b"IHDR":
        return None
    return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")


class _Crop(msgspec.Struct):
    shape: tuple[int, int, int]
    data: str


class _Surfaced(msgspec.Struct):
    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    densepose: _Crop

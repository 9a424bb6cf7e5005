"""Where the square around a box lies, in whole pixels of the frame."""

from __future__ import annotations

import math

from edgewise.runtime.contract.preprocessing import BoxSide, SquareCrop
from edgewise.runtime.pixels.geometry import Geometry, Size, scaling
from edgewise.runtime.system.errors import SourceError

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels; the last ones do not belong to it."""

LARGEST = 1 << 14
"""Pixels along a side that are cut out and resized."""


def square_window(spec: SquareCrop, source_size: Size, box: tuple[float, float, float, float]) -> Window:
    """The square around a box, or what of it lies in a frame of (height, width) where `spec.clipped`.

    A square that lies wholly outside is padded in either case.

    Raises:
        SourceError: The box is empty, or larger than can be resized.
    """
    x1, y1, x2, y2 = box
    if not (math.isfinite(x1 + y1 + x2 + y2) and x2 > x1 and y2 > y1):
        raise SourceError(f"the box {box} to crop around is empty")
    of_box = max if spec.side is BoxSide.LONGER else min
    side = max(1, int(spec.padding * of_box(x2 - x1, y2 - y1)))
    if side > LARGEST:
        raise SourceError(
            f"a square of {side} pixels is to be cut out; it may have {LARGEST} at most",
            hint="give smaller frames or boxes",
        )
    left, top = math.floor((x1 + x2) / 2) - side // 2, math.floor((y1 + y2) / 2) - side // 2
    window = left, top, left + side, top + side
    if spec.clipped:
        height, width = source_size
        inside = max(left, 0), max(top, 0), min(window[2], width), min(window[3], height)
        if inside[0] < inside[2] and inside[1] < inside[3]:
            return inside
    return window


def square_geometry(spec: SquareCrop, source_size: Size, box: tuple[float, float, float, float]) -> Geometry:
    """The way from the frame to the network's input and back; SourceError as `square_window`."""
    left, top, right, bottom = square_window(spec, source_size, box)
    scale_x, scale_y = spec.size[1] / (right - left), spec.size[0] / (bottom - top)
    return scaling(source_size, spec.size, (scale_x, scale_y), (-scale_x * left, -scale_y * top))

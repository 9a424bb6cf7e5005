"""An affine crop whose integers do not depend on OpenCV's version.

Where `cv2.warpAffine` reads differs between OpenCV 4 (rounded to 1/32 pixel in steps) and 5 (float). Here the
positions are fixed-point numbers of our own, and `cv2.remap` reads at them: bytes weighted with integers.
Linear and nearest crops are equal from OpenCV 4.6 to 5. Cubic ones may differ by one step, as the weights do.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.geometry import Matrix, Size
from edgewise.runtime.system.errors import SourceError

_POSITION_BITS = 20
"""Positions are added up in units of 2^-20 pixel."""
_FRACTION_BITS = 5
"""`cv2.remap` takes them in units of 1/32 pixel."""
_REACH = 4
"""No interpolation reads further than this from a position."""
_LARGEST = 2**15 - 1 - _REACH


def warp(
    image: NDArray[np.uint8],
    matrix: Matrix,
    size: Size,
    interpolation: int = cv2.INTER_LINEAR,
    border: tuple[int, ...] = (0,),
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """What an affine map shows of an image.

    Args:
        image: uint8 [H, W] or [H, W, C].
        matrix: float64 [2, 3], invertible, from the image to the result in continuous pixels.
        size: (height, width) of the result.
        interpolation: cv2.INTER_LINEAR, INTER_NEAREST or INTER_CUBIC.
        border: What lies outside of the image, a value a channel.
        out: Where the result may go.

    Raises:
        SourceError: The map spans more than 32,763 pixels of the image along one side.
    """
    (a, b, across), (c, d, down) = matrix.tolist()
    determinant = a * d - b * c
    columns, rows = np.arange(size[1], dtype=np.int64), np.arange(size[0], dtype=np.int64)[:, None]

    def positions(of_column: float, of_row: float) -> NDArray[np.int64]:
        """Of every pixel of the result along one axis of the image; one row or column where it is enough."""
        start = of_column * (0.5 - across) + of_row * (0.5 - down) - 0.5
        along = _fixed(start, 60) + (
            _fixed(of_column, 44) * columns if of_column else np.zeros((1, 1), np.int64)
        )
        return along + _fixed(of_row, 44) * rows if of_row else along

    kept = 0 if interpolation == cv2.INTER_NEAREST else _FRACTION_BITS
    left_out = _POSITION_BITS - kept
    half = 1 << left_out - 1
    x = positions(d / determinant, -b / determinant) + half >> left_out
    y = positions(-c / determinant, a / determinant) + half >> left_out
    (x_first, x_last), (y_first, y_last) = (
        _window(along >> kept, length) for along, length in ((x, image.shape[1]), (y, image.shape[0]))
    )
    within = (
        np.clip((along >> kept) - first, -_REACH, last - first + _REACH).astype(np.int16)
        for along, first, last in ((x, x_first, x_last), (y, y_first, y_last))
    )
    # Pairs (x, y) of int16, written as one number: filling them apart takes as long as sampling.
    x_half, y_half = (half.view(np.uint16).astype("<u4") for half in within)
    pixels = np.broadcast_to(x_half | y_half << np.uint32(16), size)
    pixels = np.ascontiguousarray(pixels).view(np.int16).reshape(*size, 2)
    fractions = None
    if kept:
        mask = (1 << kept) - 1
        fractions = np.empty(size, np.uint16)
        np.add(((y & mask) << kept).astype(np.uint16), (x & mask).astype(np.uint16), out=fractions)
    window = image[y_first:y_last, x_first:x_last]
    shown = cv2.remap(  # pyright: ignore[reportCallIssue]
        window,
        pixels,
        fractions,  # pyright: ignore[reportArgumentType]
        interpolation,
        dst=out,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=border,
    )
    return np.asarray(shown, np.uint8)


def _fixed(value: float, bits: int) -> int:
    """In units of 2^-20, within +-2^bits of them: what lies further shows nothing but the border anyway."""
    return round(min(max(value * 2.0**_POSITION_BITS, -(2.0**bits)), 2.0**bits))


def _window(pixels: NDArray[np.int64], length: int) -> tuple[int, int]:
    """The first and last + 1 of an axis's pixels that are read; never empty."""
    first = min(max(int(pixels.min()) - _REACH, 0), length - 1)
    last = min(max(int(pixels.max()) + _REACH, first + 1), length)
    if last - first > _LARGEST:
        raise SourceError(
            f"a crop spans {last - first} of {length} pixels; OpenCV samples from {_LARGEST} at most",
            hint="give smaller frames or boxes",
        )
    return first, last

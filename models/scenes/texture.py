"""Random colours and textures from integer arithmetic, so that a seed means the same pixels everywhere.

Only `Generator.random` and `Generator.integers` are drawn (no transcendental functions inside), and images
are enlarged with OpenCV's bit-exact linear interpolation.
"""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.pixels.colours import Colour

Image = NDArray[np.uint8]


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A float in [low, high)."""
    return low + (high - low) * float(rng.random())


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour from hue (turns; wraps around), saturation and value (0..1, clipped)."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return round(255 * blue), round(255 * green), round(255 * red)


def noise(rng: np.random.Generator, size: tuple[int, int], cell: tuple[float, float]) -> NDArray[np.float32]:
    """Value noise [h, w] in -1..1, one random value every `cell` = (height, width) pixels."""
    height, width = size
    grid = rng.integers(
        0,
        256,
        (max(2, math.ceil(height / cell[0]) + 1), max(2, math.ceil(width / cell[1]) + 1)),
        dtype=np.uint8,
    )
    smooth = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    return smooth.astype(np.float32) / np.float32(127.5) - np.float32(1)


def tint(colour: Colour) -> NDArray[np.float32]:
    """A colour as float32 [3], to be broadcast over an image."""
    return np.array(colour, np.float32)


def surface(rng: np.random.Generator, size: tuple[int, int], unit: float) -> NDArray[np.float32]:
    """The paint of a thing, float32 [h, w, 3]: plain, stripes, checks, dots or blotches in free colours."""
    hue = float(rng.random())
    base = np.array(hsv(hue, uniform(rng, 0.25, 0.95), uniform(rng, 0.5, 1.0)), np.float32)
    accent = np.array(
        hsv(hue + uniform(rng, -0.2, 0.2), uniform(rng, 0.1, 0.9), uniform(rng, 0.35, 1.0)), np.float32
    )
    mix = _PATTERNS[int(rng.integers(len(_PATTERNS)))](rng, size, unit)[..., None]
    return base + (accent - base) * mix


def _plain(rng: np.random.Generator, size: tuple[int, int], unit: float) -> NDArray[np.float32]:
    return np.zeros(size, np.float32)


def _stripes(rng: np.random.Generator, size: tuple[int, int], unit: float) -> NDArray[np.float32]:
    return ((_ramp(rng, size) // (unit * uniform(rng, 4, 10))) % 2).astype(np.float32)


def _checks(rng: np.random.Generator, size: tuple[int, int], unit: float) -> NDArray[np.float32]:
    cell = unit * uniform(rng, 5, 11)
    rows = np.arange(size[0], dtype=np.float32)[:, None] // cell
    columns = np.arange(size[1], dtype=np.float32)[None, :] // cell
    return ((rows + columns) % 2).astype(np.float32)


def _dots(rng: np.random.Generator, size: tuple[int, int], unit: float) -> NDArray[np.float32]:
    cell = unit * uniform(rng, 7, 13)
    rows = np.arange(size[0], dtype=np.float32)[:, None] % cell - cell / 2
    columns = np.arange(size[1], dtype=np.float32)[None, :] % cell - cell / 2
    return (rows * rows + columns * columns < (0.3 * cell) ** 2).astype(np.float32)


def _blotches(rng: np.random.Generator, size: tuple[int, int], unit: float) -> NDArray[np.float32]:
    cell = unit * uniform(rng, 8, 16)
    return np.float32(0.5) + np.float32(0.5) * noise(rng, size, (cell, cell))


_PATTERNS = (_plain, _plain, _stripes, _checks, _dots, _blotches)


def _ramp(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """Distance along a random direction, float32 [h, w]."""
    angle = uniform(rng, 0, math.pi)
    rows = np.arange(size[0], dtype=np.float32)[:, None] * np.float32(math.sin(angle))
    columns = np.arange(size[1], dtype=np.float32)[None, :] * np.float32(math.cos(angle))
    return rows + columns


def shading(size: tuple[int, int]) -> NDArray[np.float32]:
    """Light from the upper left as a factor [h, w, 1], about 1.12 down to 0.72."""
    rows = np.linspace(0, 1, size[0], dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, size[1], dtype=np.float32)[None, :]
    return (np.float32(1.12) - np.float32(0.25) * rows - np.float32(0.15) * columns)[..., None]

"""Landscapes: stuff regions with wavy borders that partition the picture."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.models.scenes.texture import Image, hsv, noise, tint, uniform
from edgewise.models.scenes.vocabulary import STUFF_NAMES

Size = tuple[int, int]
Picture = NDArray[np.float32]
SKY, MOUNTAIN, GRASS, SAND, WATER, ROAD = range(len(STUFF_NAMES))


def landscape(rng: np.random.Generator, size: Size) -> tuple[Picture, Image, float]:
    """Paint a landscape.

    Returns:
        The picture float32 [h, w, 3] BGR in 0..255, the stuff class of each pixel uint8 [h, w] (index into
        STUFF_NAMES) and the row of the horizon.
    """
    height, width = size
    stuff = np.full(size, SKY, np.uint8)
    horizon = uniform(rng, 0.28, 0.52) * height
    if rng.random() < 0.55:
        ridge = _wave(rng, width, horizon - uniform(rng, 0.04, 0.2) * height, 0.09 * height, 4.0)
        _fill_below(stuff, ridge, MOUNTAIN)
    ground = [GRASS, SAND][int(rng.random() < 0.4)]
    _fill_below(stuff, _wave(rng, width, horizon, 0.015 * height, 2.0), ground)
    choice = rng.random()
    if choice < 0.3:
        top = _wave(rng, width, horizon + uniform(rng, 0.02, 0.12) * height, 0.012 * height, 2.0)
        bottom = _wave(rng, width, horizon + uniform(rng, 0.2, 0.4) * height, 0.03 * height, 3.0)
        _fill_between(stuff, top, bottom, WATER)
    elif choice < 0.5:
        _fill_below(stuff, _wave(rng, width, uniform(rng, 0.66, 0.85) * height, 0.04 * height, 2.5), WATER)
    elif choice < 0.7:
        other = GRASS + SAND - ground
        _fill_below(stuff, _wave(rng, width, uniform(rng, 0.6, 0.85) * height, 0.05 * height, 2.5), other)
    if rng.random() < 0.4:
        _lay_road(rng, stuff, horizon)
    picture = np.zeros((height, width, 3), np.float32)
    for index in np.flatnonzero(np.bincount(stuff.ravel(), minlength=len(STUFF_NAMES))):
        cv2.copyTo(_PAINTERS[index](rng, size), (stuff == index).view(np.uint8), picture)
    return picture, stuff, horizon


def _wave(
    rng: np.random.Generator, width: int, level: float, amplitude: float, cycles: float
) -> NDArray[np.int64]:
    """A wavy border: its row for each column."""
    phase = np.arange(width, dtype=np.float64) * (2 * math.pi / width)
    rows = np.full(width, level)
    for harmonic in (1, 2, 4):
        turns = cycles * harmonic * uniform(rng, 0.3, 0.7)
        rows += amplitude / harmonic * np.sin(turns * phase + uniform(rng, 0, 2 * math.pi))
    return np.round(rows).astype(np.int64)


def _fill_below(stuff: Image, border: NDArray[np.int64], index: int) -> None:
    stuff[np.arange(stuff.shape[0])[:, None] >= border[None, :]] = index


def _fill_between(stuff: Image, top: NDArray[np.int64], bottom: NDArray[np.int64], index: int) -> None:
    rows = np.arange(stuff.shape[0])[:, None]
    stuff[(rows >= top[None, :]) & (rows < bottom[None, :])] = index


def _lay_road(rng: np.random.Generator, stuff: Image, horizon: float) -> None:
    """A winding road that widens from the horizon to the lower edge."""
    height, width = stuff.shape
    start, end = uniform(rng, 0.2, 0.8) * width, uniform(rng, 0.1, 0.9) * width
    broad, bend, phase = uniform(rng, 0.1, 0.22) * width, uniform(rng, 0, 0.12) * width, uniform(rng, 0, 6.28)
    left: list[tuple[int, int]] = []
    right: list[tuple[int, int]] = []
    for step in range(25):
        along = step / 24
        row = round(horizon + (height + 2 - horizon) * along)
        middle = start + (end - start) * along * along + bend * along * math.sin(phase + 5 * along)
        half = 0.012 * width + broad * along**1.3
        left.append((round(middle - half), row))
        right.append((round(middle + half), row))
    cv2.fillPoly(stuff, [np.array([*left, *reversed(right)], np.int32)], ROAD)


def _paint_sky(rng: np.random.Generator, size: Size) -> Picture:
    top = tint(hsv(uniform(rng, 0.53, 0.62), uniform(rng, 0.35, 0.7), uniform(rng, 0.7, 0.95)))
    low = tint(hsv(uniform(rng, 0.02, 0.14), uniform(rng, 0.05, 0.4), uniform(rng, 0.9, 1.0)))
    height, width = size
    down = np.minimum(np.linspace(0, 1.8, height, dtype=np.float32), 1)[:, None, None]
    sky = top + (low - top) * down + np.zeros((1, width, 1), np.float32)
    clouds = noise(rng, size, (height / 9, width / 5)) + np.float32(0.5) * noise(
        rng, size, (height / 22, width / 12)
    )
    cover = np.clip(clouds * np.float32(1.4) - np.float32(uniform(rng, 0.1, 0.9)), 0, 0.85)[..., None]
    return sky + (np.float32(250) - sky) * cover


def _paint_mountain(rng: np.random.Generator, size: Size) -> Picture:
    colour = hsv(uniform(rng, 0.55, 0.75), uniform(rng, 0.12, 0.4), uniform(rng, 0.38, 0.62))
    height, width = size
    rocks = noise(rng, size, (height / 14, width / 26)) + noise(rng, size, (height / 40, width / 60))
    return tint(colour) + np.float32(13) * rocks[..., None]


def _paint_grass(rng: np.random.Generator, size: Size) -> Picture:
    colour = hsv(uniform(rng, 0.22, 0.36), uniform(rng, 0.45, 0.75), uniform(rng, 0.42, 0.72))
    height, width = size
    blades = noise(rng, size, (height / 42, width / 128)) + noise(rng, size, (height / 7, width / 7))
    return tint(colour) + np.float32(14) * blades[..., None]


def _paint_sand(rng: np.random.Generator, size: Size) -> Picture:
    colour = hsv(uniform(rng, 0.09, 0.14), uniform(rng, 0.25, 0.5), uniform(rng, 0.75, 0.95))
    height, width = size
    grains = noise(rng, size, (height / 128, width / 128)) + noise(rng, size, (height / 12, width / 5))
    return tint(colour) + np.float32(9) * grains[..., None]


def _paint_water(rng: np.random.Generator, size: Size) -> Picture:
    colour = hsv(uniform(rng, 0.5, 0.62), uniform(rng, 0.5, 0.8), uniform(rng, 0.45, 0.75))
    height, width = size
    ripples = noise(rng, size, (height / 85, width / 16)) + noise(rng, size, (height / 40, width / 6))
    return tint(colour) + np.float32(13) * ripples[..., None]


def _paint_road(rng: np.random.Generator, size: Size) -> Picture:
    colour = hsv(uniform(rng, 0.0, 1.0), uniform(rng, 0.0, 0.08), uniform(rng, 0.3, 0.52))
    height, width = size
    return tint(colour) + np.float32(8) * noise(rng, size, (height / 100, width / 100))[..., None]


_PAINTERS: tuple[Callable[[np.random.Generator, Size], Picture], ...] = (
    _paint_sky,
    _paint_mountain,
    _paint_grass,
    _paint_sand,
    _paint_water,
    _paint_road,
)

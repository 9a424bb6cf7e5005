"""One scene from a seed and an index: a landscape, things in depth order, light and sensor noise."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.models.scenes.background import landscape
from edgewise.models.scenes.sprite import Sprite, figure_sprite, shape_sprite
from edgewise.models.scenes.texture import Image, uniform
from edgewise.models.scenes.vocabulary import KEYPOINT_NAMES, THING_NAMES

EMPTY_SHARE = 0.05
MOST_THINGS = 7
SMALLEST, LARGEST = 20.0, 140.0
"""Extent of shapes in pixels of a 256-pixel scene; figures stand between 60 and 150."""
LEAST_VISIBLE = 0.4
PLACEMENT_TRIES = 6


@dataclass(frozen=True)
class Thing:
    """One visible thing.

    Attributes:
        class_index: Index into THING_NAMES and LABELS.
        keypoints: int32 [17, 3] rows of x, y, visibility in COCO's form (0 not labelled, 1 labelled but
            hidden, 2 visible), x and y being the pixel that holds the point; None for shapes.
        surface: float64 [n, 5] rows of column, row, part (from 1), U, V, one for each pixel that is seen;
            None for shapes.
    """

    class_index: int
    keypoints: NDArray[np.int32] | None
    surface: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Attributes:
        image: uint8 [h, w, 3] BGR.
        stuff: uint8 [h, w], the stuff class behind every pixel (index into STUFF_NAMES).
        owners: int16 [h, w], the index into `things` of the thing seen at a pixel, -1 for stuff.
        things: From the farthest to the nearest.
    """

    image: Image
    stuff: Image
    owners: NDArray[np.int16]
    things: tuple[Thing, ...]


def render_scene(seed: int, index: int, size: tuple[int, int] = (256, 256)) -> Scene:
    """Render scene `index` of the series `seed`.

    The same arguments give the same pixels on every machine, and every scene has its own random stream, so
    scenes can be rendered in any order. Different seeds give unrelated series.

    Args:
        seed: Series, >= 0.
        index: Scene of the series, >= 0.
        size: (height, width), each at least 64; lengths scale with the shorter side.
    """
    rng = np.random.default_rng((seed, index))
    unit = min(size) / 256
    picture, stuff, horizon = landscape(rng, size)
    owners = np.full(size, -1, np.int16)
    visible: list[int] = []
    areas: list[int] = []
    placed: list[tuple[int, Sprite, tuple[int, int]]] = []
    wanted = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, MOST_THINGS + 1))
    for _ in range(wanted):
        class_index = int(rng.integers(len(THING_NAMES)))
        sprite = _draw(rng, class_index, unit)
        for _ in range(PLACEMENT_TRIES):
            corner = _choose_place(rng, sprite, size, horizon)
            if try_place(sprite, corner, owners, visible, areas):
                blend(picture, sprite, corner, unit)
                placed.append((class_index, sprite, corner))
                break
    image = expose(rng, picture)
    things = tuple(
        Thing(
            class_index,
            _place_keypoints(sprite, corner, owners, index),
            _seen_surface(sprite, corner, owners, index),
        )
        for index, (class_index, sprite, corner) in enumerate(placed)
    )
    return Scene(image, stuff, owners, things)


def _draw(rng: np.random.Generator, class_index: int, unit: float) -> Sprite:
    name = THING_NAMES[class_index]
    if name == "person":
        return figure_sprite(rng, uniform(rng, 60, 150) * unit, unit)
    extent = SMALLEST * (LARGEST / SMALLEST) ** float(rng.random())
    return shape_sprite(rng, name, extent * unit, unit)


def _choose_place(
    rng: np.random.Generator, sprite: Sprite, size: tuple[int, int], horizon: float
) -> tuple[int, int]:
    """Row and column of the sprite's upper left pixel; figures stand on the ground."""
    height, width = sprite.coverage.shape
    if sprite.keypoints is not None:
        top = uniform(rng, max(horizon, height), size[0] + 0.1 * height) - height
    else:
        top = uniform(rng, -0.2 * height, size[0] - 0.8 * height)
    return round(top), round(uniform(rng, -0.2 * width, size[1] - 0.8 * width))


def try_place(
    sprite: Sprite,
    corner: tuple[int, int],
    owners: NDArray[np.int16],
    visible: list[int],
    areas: list[int],
) -> bool:
    """Take the sprite's pixels in `owners`, unless too little of it or of something behind would be seen."""
    mask = sprite.coverage >= 128
    on_canvas, on_sprite = overlap(mask.shape, corner, owners.shape)
    seen = mask[on_sprite]
    area, count = int(mask.sum()), int(seen.sum())
    if count < LEAST_VISIBLE * area:
        return False
    window = owners[on_canvas]
    hidden = np.bincount(window[seen] + 1, minlength=len(visible) + 1)[1:]
    if any(
        left - lost < LEAST_VISIBLE * whole
        for left, lost, whole in zip(visible, hidden, areas, strict=True)
        if lost
    ):
        return False
    window[seen] = len(visible)
    for index, lost in enumerate(hidden):
        visible[index] -= int(lost)
    visible.append(count)
    areas.append(area)
    return True


def overlap(
    shape: tuple[int, ...], corner: tuple[int, int], canvas: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The canvas window that a sprite at `corner` covers, and the part of the sprite inside it; both may be
    empty."""
    sides = [_shared(*side) for side in zip(shape[:2], corner, canvas[:2], strict=True)]
    (rows, of_rows), (columns, of_columns) = sides
    return (rows, columns), (of_rows, of_columns)


def _shared(length: int, first: int, limit: int) -> tuple[slice, slice]:
    """Along one axis: the canvas's pixels, and the sprite's that they show."""
    start = min(max(first, 0), limit)
    stop = max(start, min(first + length, limit))
    return slice(start, stop), slice(start - first, stop - first)


def blend(picture: NDArray[np.float32], sprite: Sprite, corner: tuple[int, int], unit: float) -> None:
    """Lay the sprite and its soft shadow over the picture."""
    offset, softness = max(1, round(3 * unit)), 2 * max(1, round(3 * unit)) + 1
    shadow = cv2.copyMakeBorder(sprite.coverage, *4 * [softness], cv2.BORDER_CONSTANT)
    shadow = cv2.blur(shadow, (softness, softness))
    place = (corner[0] - softness + offset, corner[1] - softness + offset)
    window, part = overlap(shadow.shape, place, picture.shape)
    picture[window] *= 1 - shadow[part][..., None].astype(np.float32) * np.float32(0.38 / 255)
    window, part = overlap(sprite.coverage.shape, corner, picture.shape)
    share = sprite.coverage[part][..., None].astype(np.float32) / np.float32(255)
    picture[window] += (sprite.colour[part] - picture[window]) * share


def expose(rng: np.random.Generator, picture: NDArray[np.float32]) -> Image:
    """Exposure, colour cast and sensor noise."""
    gain = uniform(rng, 0.78, 1.12) * np.array([uniform(rng, 0.95, 1.05) for _ in range(3)], np.float32)
    picture = picture * gain.astype(np.float32)
    picture += rng.integers(-4, 5, picture.shape, dtype=np.int8)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def _place_keypoints(
    sprite: Sprite, corner: tuple[int, int], owners: NDArray[np.int16], owner: int
) -> NDArray[np.int32] | None:
    if sprite.keypoints is None or sprite.facing is None:
        return None
    result = np.zeros((len(KEYPOINT_NAMES), 3), np.int32)
    columns, rows = np.floor(sprite.keypoints).astype(np.int32).T + np.array([[corner[1]], [corner[0]]])
    for index, (row, column) in enumerate(zip(rows, columns, strict=True)):
        if 0 <= row < owners.shape[0] and 0 <= column < owners.shape[1]:
            seen = owners[row, column] == owner and sprite.facing[index]
            result[index] = column, row, 2 if seen else 1
    return result


def _seen_surface(
    sprite: Sprite, corner: tuple[int, int], owners: NDArray[np.int16], owner: int
) -> NDArray[np.float64] | None:
    if sprite.parts is None or sprite.uv is None:
        return None
    on_canvas, on_sprite = overlap(sprite.parts.shape, corner, owners.shape)
    parts, uv = sprite.parts[on_sprite], sprite.uv[(slice(None), *on_sprite)]
    rows, columns = np.nonzero((owners[on_canvas] == owner) & (parts > 0))
    places = (columns + on_canvas[1].start, rows + on_canvas[0].start)
    return np.stack([*places, parts[rows, columns], *uv[:, rows, columns]], axis=1).astype(np.float64)

"""Augmentation of whole images in source pixels: light and colour, zoom in or out, mirror.

After SSD (Liu et al. 2016), with one change: what a crop leaves of an object is either a proper object, with
the tight box of its remaining mask, or a region that the loss ignores. It is never unlabelled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.models.data.example import Example, Image

FILL = (104, 117, 124)
"""BGR of the canvas around a zoomed-out image: ImageNet's mean."""
KEPT_SHARE = 0.25
"""An object that a crop leaves with less of its area becomes an ignored region."""
_CROP_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """How strongly examples are varied; the defaults are SSD's, and for crops the hourglass paper's.

    Attributes:
        mirror: Probability of a left-right flip.
        brightness: Largest offset, of 255.
        contrast: Factors are drawn from 1 - contrast .. 1 + contrast.
        saturation: As contrast.
        hue: Largest turn in degrees.
        zoom_out: Largest enlargement of the canvas around the image; 1 is none.
        zoom_out_probability: How often.
        zoom_in: Smallest side of a crop as part of the image's; 1 is none.
        zoom_in_probability: How often, where the canvas was not enlarged.
        stretch: Crops have up to this aspect ratio relative to the image's.
        rotation: Largest turn of a person's crop in degrees, either way.
        rescale: A person's crop is magnified by 1 - rescale .. 1 + rescale.
        shift: Largest move of a person's crop, as part of its sides.
    """

    mirror: float = 0.5
    brightness: float = 32.0
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 18.0
    zoom_out: float = 4.0
    zoom_out_probability: float = 0.5
    zoom_in: float = 0.3
    zoom_in_probability: float = 0.8
    stretch: float = 2.0
    rotation: float = 30.0
    rescale: float = 0.25
    shift: float = 0.0


NO_AUGMENTATION = Augmentation(
    mirror=0,
    brightness=0,
    contrast=0,
    saturation=0,
    hue=0,
    zoom_out=1,
    zoom_in=1,
    stretch=1,
    rotation=0,
    rescale=0,
)


def augment(rng: np.random.Generator, example: Example, settings: Augmentation) -> Example:
    """One random variation of an example; the input is left as it is."""
    frame = vary_colour(rng, example.frame, settings)
    example = replace(example, frame=frame)
    example = cut(example, _choose_window(rng, example, settings))
    return mirror(example) if rng.random() < settings.mirror else example


def vary_colour(rng: np.random.Generator, frame: Image, settings: Augmentation) -> Image:
    """Brightness, contrast, hue and saturation of a uint8 BGR frame."""
    levels = np.arange(256, dtype=np.float64)
    gain = 1 + _signed(rng) * settings.contrast
    offset = _signed(rng) * settings.brightness
    frame = np.asarray(cv2.LUT(frame, _bytes(levels * gain + offset)), np.uint8)
    turn = _signed(rng) * settings.hue / 2
    factor = 1 + _signed(rng) * settings.saturation
    if turn == 0 and factor == 1:
        return frame
    # OpenCV's 8-bit hue counts in steps of two degrees.
    hue = ((np.round(levels + turn)) % 180).astype(np.uint8)
    table = np.stack([hue, _bytes(levels * factor), levels.astype(np.uint8)], axis=1)[None]
    return np.asarray(
        cv2.cvtColor(cv2.LUT(cv2.cvtColor(frame, cv2.COLOR_BGR2HSV), table), cv2.COLOR_HSV2BGR), np.uint8
    )


def mirror(example: Example) -> Example:
    """The example flipped left to right."""
    width = example.frame.shape[1]
    return Example(
        np.ascontiguousarray(example.frame[:, ::-1]),
        _mirrored(example.boxes, width),
        example.classes,
        np.ascontiguousarray(example.masks[:, :, ::-1]),
        _mirrored(example.crowd_boxes, width),
        None if example.semantic is None else np.ascontiguousarray(example.semantic[:, ::-1]),
        None if example.points is None else _mirrored_points(example.points, example.flip_pairs, width),
        example.flip_pairs,
    )


def cut(example: Example, window: tuple[int, int, int, int]) -> Example:
    """The part of an example under a window, which may reach over the image's edges.

    Args:
        example: Left as it is.
        window: (x1, y1, x2, y2) in pixels; beyond the image the canvas is `FILL` and of no known class.
    """
    height, width = example.frame.shape[:2]
    x1, y1, x2, y2 = window
    if window == (0, 0, width, height):
        return example
    canvas = np.empty((y2 - y1, x2 - x1, 3), np.uint8)
    canvas[...] = FILL
    masks = np.zeros((len(example.masks), y2 - y1, x2 - x1), np.bool_)
    inner = slice(max(y1, 0), min(y2, height)), slice(max(x1, 0), min(x2, width))
    place = (
        slice(inner[0].start - y1, inner[0].stop - y1),
        slice(inner[1].start - x1, inner[1].stop - x1),
    )
    canvas[place] = example.frame[inner]
    masks[:, place[0], place[1]] = example.masks[:, inner[0], inner[1]]
    semantic = None
    if example.semantic is not None:
        semantic = np.full((y2 - y1, x2 - x1), -1, np.int16)
        semantic[place] = example.semantic[inner]
    bounds = (place[1].start, place[0].start, place[1].stop, place[0].stop)
    boxes = _clipped(example.boxes - (x1, y1, x1, y1), bounds)
    crowds = _clipped(example.crowd_boxes - (x1, y1, x1, y1), bounds)
    before, after = example.masks.sum(axis=(1, 2)), masks.sum(axis=(1, 2))
    whole = after == before
    kept = after >= np.maximum(KEPT_SHARE * before, 1)
    for index in np.flatnonzero(kept & ~whole):
        boxes[index] = tight_box(masks[index])
    if semantic is not None:
        semantic[masks[~kept].any(axis=0)] = -1
    scraps = boxes[~kept & (after > 0)]
    crowds = np.concatenate([crowds, scraps])
    crowds = crowds[(crowds[:, 2] > crowds[:, 0]) & (crowds[:, 3] > crowds[:, 1])]
    points = None if example.points is None else _seen_points(example.points[kept], window, bounds)
    return Example(
        canvas, boxes[kept], example.classes[kept], masks[kept], crowds, semantic, points, example.flip_pairs
    )


def swapped(points: NDArray[np.float64], flip_pairs: tuple[tuple[int, int], ...]) -> NDArray[np.float64]:
    """Points [k, ...] with the rows of each pair exchanged: left and right of a mirrored person."""
    order = np.arange(len(points))
    for left, right in flip_pairs:
        order[[left, right]] = right, left
    return points[order]


def tight_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """The box around a mask's pixels; the mask must not be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _choose_window(
    rng: np.random.Generator, example: Example, settings: Augmentation
) -> tuple[int, int, int, int]:
    """A larger canvas, a crop that holds the centre of an object, or the whole image."""
    height, width = example.frame.shape[:2]
    whole = (0, 0, width, height)
    if settings.zoom_out > 1 and rng.random() < settings.zoom_out_probability:
        factor = 1 + (settings.zoom_out - 1) * float(rng.random())
        return _window(rng, whole, (factor * height, factor * width))
    if settings.zoom_in >= 1 or rng.random() >= settings.zoom_in_probability:
        return whole
    centres = (example.boxes[:, :2] + example.boxes[:, 2:]) / 2
    for _ in range(_CROP_TRIES):
        scale = settings.zoom_in + (1 - settings.zoom_in) * float(rng.random())
        aspect = settings.stretch ** (0.5 * _signed(rng))
        size = (min(1.0, scale / aspect) * height, min(1.0, scale * aspect) * width)
        x1, y1, x2, y2 = window = _window(rng, whole, size)
        if len(centres) == 0 or ((centres > (x1, y1)) & (centres < (x2, y2))).all(axis=1).any():
            return window
    return whole


def _window(
    rng: np.random.Generator, whole: tuple[int, int, int, int], size: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A window of (height, width) somewhere inside the image, or around it where it is larger."""
    height, width = max(1, round(size[0])), max(1, round(size[1]))
    left = round((whole[2] - width) * float(rng.random()))
    top = round((whole[3] - height) * float(rng.random()))
    return left, top, left + width, top + height


def _clipped(boxes: NDArray[np.float64], bounds: tuple[int, int, int, int]) -> NDArray[np.float64]:
    x1, y1, x2, y2 = bounds
    return np.clip(boxes, (x1, y1, x1, y1), (x2, y2, x2, y2))


def _mirrored(boxes: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def _mirrored_points(
    points: NDArray[np.float64], flip_pairs: tuple[tuple[int, int], ...], width: int
) -> NDArray[np.float64]:
    turned = swapped(points.swapaxes(0, 1), flip_pairs).swapaxes(0, 1)
    turned[..., 0] = width - turned[..., 0]
    return turned


def _seen_points(
    points: NDArray[np.float64], window: tuple[int, int, int, int], bounds: tuple[int, int, int, int]
) -> NDArray[np.float64]:
    """Points in the pixels of a window; those outside what `bounds` shows of the picture are unlabelled."""
    moved = points.copy()
    moved[..., :2] -= window[:2]
    low, high = np.array(bounds[:2]), np.array(bounds[2:])
    inside = ((moved[..., :2] >= low) & (moved[..., :2] < high)).all(axis=2)
    moved[..., 2] *= inside
    return moved


def _signed(rng: np.random.Generator) -> float:
    return 2 * float(rng.random()) - 1


def _bytes(levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)

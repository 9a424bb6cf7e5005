"""Augmentation of crops around people: one affine map in network pixels, and the colours of what it shows.

After Newell et al. (2016): turned, rescaled, shifted and mirrored about the middle of the crop. The variation
is joined with the crop's own geometry, so that the frame is still resampled once.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgewise.models.data.augment import Augmentation, vary_colour
from edgewise.models.data.example import Image
from edgewise.runtime.contract.preprocessing import AffineCrop, SquareCrop
from edgewise.runtime.frames.preprocessing import warp_into
from edgewise.runtime.pixels.geometry import Geometry

Matrix = NDArray[np.float64]


def vary_crop(
    rng: np.random.Generator,
    source: tuple[Image, Geometry],
    spec: AffineCrop | SquareCrop,
    geometry: Geometry,
    settings: Augmentation,
) -> tuple[Image, Geometry, bool]:
    """One random variation of a crop.

    Args:
        rng: Decides the variation.
        source: What the unvaried crop is read from, uint8 [H, W, 3] BGR, and where (`crop_source`).
        spec: The crop's size, interpolation and padding.
        geometry: Where the unvaried crop lies in the whole picture.
        settings: How strongly it is varied.

    Returns:
        uint8 [h, w, 3], its geometry (turned, perhaps mirrored), and whether it is mirrored.
    """
    matrix = _variation(rng, spec.size, settings)
    mirrored = bool(rng.random() < settings.mirror)
    if mirrored:
        matrix = _joined(np.array([[-1.0, 0.0, spec.size[1]], [0.0, 1.0, 0.0]]), matrix)
    frame, sampling = source
    varied, read = (replace(each, matrix=_joined(matrix, each.matrix)) for each in (geometry, sampling))
    crop = np.empty((*spec.size, 3), np.uint8)
    warp_into(spec, frame, crop, read)
    return vary_colour(rng, crop, settings), varied, mirrored


def _variation(rng: np.random.Generator, size: tuple[int, int], settings: Augmentation) -> Matrix:
    """Turn and rescale about the middle of a (height, width) crop, then shift."""
    height, width = size
    turn, scale, right, down = (2 * rng.random(4) - 1).tolist()
    angle = math.radians(turn * settings.rotation)
    factor = 1 + scale * settings.rescale
    cosine, sine = factor * math.cos(angle), factor * math.sin(angle)
    x, y = width / 2, height / 2
    return np.array(
        [
            [cosine, -sine, x - cosine * x + sine * y + right * settings.shift * width],
            [sine, cosine, y - sine * x - cosine * y + down * settings.shift * height],
        ]
    )


def _joined(outer: Matrix, inner: Matrix) -> Matrix:
    """The map that does `inner`, then `outer`."""
    result = outer[:, :2] @ inner
    result[:, 2] += outer[:, 2]
    return result

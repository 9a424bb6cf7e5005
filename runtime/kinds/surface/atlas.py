"""Texture of a surface: read off a frame, and painted onto another person.

The sheet is the published one: parts in rows of six, each a square with U to the right and V upwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.kinds.surface.crops import SurfaceCrops
from edgewise.runtime.pixels.colours import Frame
from edgewise.runtime.system.errors import ResultError

SIDE = 200
"""Texels along an axis of a part, as published."""
_ACROSS = 6
"""Parts in a row of the sheet."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """The texture of all parts.

    Args:
        texels: uint8 [parts, side, side, 3], BGR; the row counts from V = 1 down, the column from U = 0.
        seen: bool [parts, side, side], where the texture was observed. The other texels of a part that was
            seen at all have the colour of the nearest one that was.

    Raises:
        ResultError: The arrays do not belong together.
    """

    texels: NDArray[np.uint8]
    seen: NDArray[np.bool_]

    def __post_init__(self) -> None:
        parts, side = self.texels.shape[:2]
        if (
            self.texels.shape != (parts, side, side, 3)
            or self.texels.dtype != np.uint8
            or (self.seen.shape, self.seen.dtype) != ((parts, side, side), np.bool_)
        ):
            raise ResultError(
                "an atlas is uint8 texels [parts, side, side, 3] and bool seen [parts, side, side], not "
                f"{self.texels.dtype} {list(self.texels.shape)} and {self.seen.dtype} {list(self.seen.shape)}"
            )

    def sheet(self) -> NDArray[np.uint8]:
        """uint8 [rows * side, 6 * side, 4], BGRA; of alpha 0 where no texture is."""
        parts, side = self.seen.shape[:2]
        rows = -(-parts // _ACROSS)
        tiles = np.zeros((rows * _ACROSS, side, side, 4), np.uint8)
        tiles[:parts, ..., :3] = self.texels
        tiles[:parts, ..., 3] = 255 * np.asarray(self.seen.any(axis=(1, 2)), np.uint8)[:, None, None]
        grid = tiles.reshape(rows, _ACROSS, side, side, 4).swapaxes(1, 2)
        return np.ascontiguousarray(grid).reshape(rows * side, _ACROSS * side, 4)

    @classmethod
    def of_sheet(cls, sheet: NDArray[np.uint8], parts: int = 24) -> Atlas:
        """Of such an image, or one without alpha, say the published texture map of 800 x 1200 pixels.

        Raises:
            ResultError: The image is no sheet of so many parts.
        """
        rows = -(-parts // _ACROSS)
        height, width = sheet.shape[:2]
        side = width // _ACROSS
        if (
            sheet.dtype != np.uint8
            or sheet.ndim != 3
            or sheet.shape[2] not in (3, 4)
            or (height, width) != (rows * side, _ACROSS * side)
            or not side
        ):
            raise ResultError(
                f"a sheet of {parts} parts is a uint8 image of {rows} x {_ACROSS} squares in three or four "
                f"channels, not {sheet.dtype} {list(sheet.shape)}"
            )
        tiles = sheet.reshape(rows, side, _ACROSS, side, -1).swapaxes(1, 2)
        tiles = np.ascontiguousarray(tiles.reshape(rows * _ACROSS, side, side, -1)[:parts])
        seen = tiles[..., 3] > 0 if tiles.shape[-1] == 4 else np.ones(tiles.shape[:3], np.bool_)
        return cls(np.ascontiguousarray(tiles[..., :3]), seen)


def read_texture(frame: Frame, crops: SurfaceCrops, parts: int, side: int) -> Atlas:
    """The mean colour that each texel shows in the frame, of all people together."""
    texel_count = parts * side * side
    sums, counts = np.zeros((3, texel_count)), np.zeros(texel_count)
    for (labels, uv), (x, y, w, h) in zip(crops, crops.places.tolist(), strict=True):
        shown = labels > 0
        texel = _texels(labels[shown], uv[:, shown], side)
        counts += np.bincount(texel, minlength=texel_count)
        for total, channel in zip(sums, frame[y : y + h, x : x + w][shown].T, strict=True):
            total += np.bincount(texel, channel.astype(np.float64), minlength=texel_count)
    seen = (counts > 0).reshape(parts, side, side)
    means = np.rint(sums / np.maximum(counts, 1)).astype(np.uint8).T.reshape(parts, side, side, 3)
    for texels, known in zip(means, seen, strict=True):
        if known.any() and not known.all():
            texels[:] = texels.reshape(-1, 3)[_nearest(known)]
    return Atlas(means, seen)


def paint_texture(frame: Frame, crops: SurfaceCrops, atlas: Atlas) -> Frame:
    """A copy of the frame with the texture on every person; parts without any stay as they are.

    Raises:
        ResultError: The people have parts that the atlas has not.
    """
    if crops.labels.max(initial=0) > len(atlas.texels):
        raise ResultError(
            f"the atlas has {len(atlas.texels)} parts, a person shows part {crops.labels.max()}",
            hint="use the texture of a surface of the same model",
        )
    canvas, side = frame.copy(), atlas.texels.shape[1]
    colours = atlas.texels.reshape(-1, 3)
    textured = np.concatenate([[False], atlas.seen.any(axis=(1, 2))])
    # The first person is the surest, and stands on top.
    people = list(zip(crops, crops.places.tolist(), strict=True))
    for (labels, uv), (x, y, w, h) in reversed(people):
        shown = textured[labels]
        canvas[y : y + h, x : x + w][shown] = colours[_texels(labels[shown], uv[:, shown], side)]
    return canvas


def _texels(labels: NDArray[np.uint8], uv: NDArray[np.float32], side: int) -> NDArray[np.int64]:
    """int64 [n], flat index of the texel of labels [n], none 0, and uv [2, n]."""
    u, v = np.rint(np.clip(uv, 0, 1) * (side - 1)).astype(np.int64)
    return ((labels.astype(np.int64) - 1) * side + (side - 1 - v)) * side + u


def _nearest(known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """int64 [side, side]: flat index of the nearest known place, at least one of which there is."""
    unknown = np.where(known, 0, 1).astype(np.uint8)
    _, found = cv2.distanceTransformWithLabels(
        unknown, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    zones = np.asarray(found, np.int64)
    places = np.zeros(int(zones.max()) + 1, np.int64)
    places[zones[known]] = np.flatnonzero(known)
    return places[zones]

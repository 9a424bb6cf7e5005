"""Image files: which of them a folder holds, and their pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.system.errors import SourceError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as uint8 [H, W, 3] BGR, turned as its EXIF orientation says.

    Raises:
        SourceError: Missing, truncated, or no image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"the image cannot be read: {error.strerror}", where=str(path), hint="check the path"
        ) from None
    return decode_image(data, where=str(path))


def decode_image(data: bytes, *, where: str) -> NDArray[np.uint8]:
    """Decode an encoded image as uint8 [H, W, 3] BGR; a truncated file is refused, not filled with grey.

    Raises:
        SourceError: Empty, truncated, or no image.
    """
    image = None
    if data:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            image = None
    if image is None:
        raise SourceError(
            "the image is empty" if not data else "the image is corrupt, or no image",
            where=where,
            hint="open it in a viewer; copy or convert it again",
        )
    return image.astype(np.uint8, copy=False)


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name; subfolders are not searched.

    Raises:
        SourceError: There are none.
    """
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise SourceError(
            "the folder holds no image",
            where=str(folder),
            hint=f"images end in {', '.join(sorted(IMAGE_SUFFIXES))}; subfolders are not searched",
        )
    return files

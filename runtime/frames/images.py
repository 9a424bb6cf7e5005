"""Image files: which of them a folder holds, and their pixels. Every image of the project is read here.

Pixels are as a viewer shows them: turned by the EXIF orientation, without transparency. What has more than 8
bits a channel is refused: which of its values are black and white is not in the file, and a guess would show
nowhere but in the results.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.system.errors import SourceError

IMAGE_SUFFIXES = frozenset(
    {
        *(".bmp", ".dib", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp", ".avif", ".tif", ".tiff"),
        *(".jp2", ".pam", ".pbm", ".pgm", ".pnm", ".ppm", ".pxm", ".ras", ".sr"),
    }
)
"""What images of a folder end in. Pictures that move (`.gif`) are videos."""

_SIGNATURES = (
    (4, b"ftypavi", ".avif"),
    (4, b"ftyphei", ".heic"),
    (4, b"ftypmif1", ".heic"),
    (4, b"jP  ", ".jp2"),
    (4, b"JXL ", ".jxl"),
    (0, b"\xff\x0a", ".jxl"),
    (0, b"v/1\x01", ".exr"),
    (0, b"GIF8", ".gif"),
)
"""Place, bytes and suffix of formats that not every OpenCV is built with."""


@dataclass(frozen=True)
class ImageFolder:
    """What lies in a folder of images; subfolders and hidden files are not looked at.

    Attributes:
        files: The images, sorted by name.
        left_out: Names of the files whose suffix is no image's.
    """

    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()


def images_in(folder: Path) -> ImageFolder:
    """The image files of a folder.

    Raises:
        SourceError: There are none.
    """
    present = sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())
    files = tuple(file for file in present if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise SourceError(
            "the folder holds no image",
            where=str(folder),
            hint=f"images end in {', '.join(sorted(IMAGE_SUFFIXES))}; subfolders are not searched",
        )
    return ImageFolder(files, tuple(file.name for file in present if file not in set(files)))


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as uint8 [H, W, 3] BGR, turned as its EXIF orientation says.

    Raises:
        SourceError: Missing, or as `decode_image`.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(
            f"the image cannot be read: {reason}", where=str(path), hint="check the path"
        ) from None
    return decode_image(data, where=str(path))


def decode_image(data: bytes, *, where: str) -> NDArray[np.uint8]:
    """Decode an encoded image as uint8 [H, W, 3] BGR; a truncated file is refused, not filled with grey.

    Raises:
        SourceError: Empty, truncated, no image, of a format or a size that this OpenCV does not read, or with
            more than 8 bits a channel.
    """
    image, reason = None, ""
    if data:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        except cv2.error as error:
            reason = str(error)
    if image is None:
        raise _undecoded(data, reason, where)
    if image.dtype != np.uint8:
        raise _too_deep(image, where)
    return image.astype(np.uint8, copy=False)


def _too_deep(image: NDArray[Any], where: str) -> SourceError:
    return SourceError(
        f"the image holds {image.dtype} values; what is looked at has 8 bits a channel",
        where=where,
        hint="read it with cv2.IMREAD_UNCHANGED, bring the values that matter to 0..255 "
        "(cv2.convertScaleAbs with alpha=255 / WHITE), and save that",
    )


def _undecoded(data: bytes, reason: str, where: str) -> SourceError:
    """Why bytes are no image here, as exactly as can be known."""
    if not data:
        return SourceError(
            "the image is empty", where=where, hint="open it in a viewer; copy or convert it again"
        )
    if "CV_IO_MAX_IMAGE" in reason:
        return SourceError(
            "the image has more pixels than OpenCV reads: 2^30 in all, 2^20 a side",
            where=where,
            hint="cut it into tiles, or make it smaller",
        )
    for place, signature, suffix in _SIGNATURES:
        if data[place:].startswith(signature) and not cv2.haveImageWriter(f"x{suffix}"):
            return SourceError(
                f"this OpenCV does not read {suffix} images", where=where, hint="convert it to .png or .jpg"
            )
    # What OpenCV has no colours for, such as grey floats, it still reads as it is.
    with suppress(cv2.error):
        plain = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if plain is not None and plain.dtype != np.uint8:
            return _too_deep(plain, where)
    return SourceError(
        "the image is corrupt, or no image",
        where=where,
        hint="open it in a viewer; copy or convert it again",
    )

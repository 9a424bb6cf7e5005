"""The ways in which a part of a picture can be covered."""

from __future__ import annotations

import enum


class Cover(enum.Enum):
    """How a part of a picture is covered. Nothing of it is kept but a few average colours."""

    BLUR = "blur"
    PIXELATE = "pixelate"
    BOX = "box"

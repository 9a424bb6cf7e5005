"""Colours that tell classes, and things of one class, apart."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
"""uint8 [height, width, 3], BGR."""
Colour = tuple[int, int, int]
"""BGR, 0..255."""


def instance_colour(class_index: int, nth: int) -> Colour:
    """BGR: the class chooses the hue, its `nth` instance shifts hue and lightness a little."""
    hue = (0.58 + class_index * 0.381966 + (nth % 5) * 0.028) % 1.0
    lightness = 0.5 + 0.1 * ((nth * 2) % 3 - 1)
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
    return round(blue * 255), round(green * 255), round(red * 255)

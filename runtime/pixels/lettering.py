"""Text on pictures: its size by the frame's, a label on a plate, ink that stands out from the plate."""

from __future__ import annotations

from dataclasses import dataclass

import cv2

from edgewise.runtime.pixels.colours import Colour, Frame

BRIGHT, DARK = (250, 250, 250), (20, 20, 20)

_FONT = cv2.FONT_HERSHEY_SIMPLEX

Rectangle = tuple[int, int, int, int]
"""x, y, width, height in pixels."""


def frame_unit(frame: Frame) -> float:
    """The shorter side in units of 480 pixels; lines and letters grow more slowly than frames."""
    return min(frame.shape[:2]) / 480


def ink_on(colour: Colour, bright: Colour = BRIGHT, dark: Colour = DARK) -> Colour:
    """The brighter ink on a dark colour, the darker on a bright one (luma of ITU-R BT.601)."""
    blue, green, red = colour
    return bright if 0.114 * blue + 0.587 * green + 0.299 * red < 140 else dark


@dataclass(frozen=True)
class Lettering:
    """Letters of one size.

    Attributes:
        scale: Of OpenCV's font.
        weight: Thickness of a stroke in pixels.
    """

    scale: float
    weight: int

    @classmethod
    def of(cls, frame: Frame) -> Lettering:
        """The size that suits the frame."""
        unit = frame_unit(frame)
        return cls(max(0.4, 0.45 * unit**0.6), max(1, round(unit**0.75) - 1))

    def extent(self, text: str) -> tuple[int, int, int]:
        """Width, height above the baseline and depth below it, in pixels."""
        (width, height), depth = cv2.getTextSize(text, _FONT, self.scale, self.weight)
        return width, height, depth

    def write(self, canvas: Frame, text: str, at: tuple[int, int], ink: Colour) -> None:
        """Write with the lower left corner of the text at x, y."""
        cv2.putText(canvas, text, at, _FONT, self.scale, ink, self.weight, cv2.LINE_AA)

    def plate_size(self, text: str) -> tuple[int, int]:
        """Width and height of a plate with this text."""
        width, height, depth = self.extent(text)
        return width + 2 * _pad(height), height + depth + 2 * _pad(height)

    def plate_at(self, frame: Frame, box: list[float], text: str) -> Rectangle:
        """A plate on the left of a box (xyxy): above it, else on its upper edge, inside the frame."""
        frame_height, frame_width = frame.shape[:2]
        width, height = self.plate_size(text)
        left = max(0, min(round(box[0]), frame_width - width))
        above = round(box[1]) - height
        top = above if above >= 0 else min(max(0, round(box[1])), max(0, frame_height - height))
        return left, top, width, height

    def label(self, canvas: Frame, plate: Rectangle, text: str, colour: Colour, ink: Colour) -> None:
        """Fill the plate with the colour and write the text on it."""
        left, top, width, height = plate
        cv2.rectangle(canvas, (left, top), (left + width - 1, top + height - 1), colour, cv2.FILLED)
        letters = self.extent(text)[1]
        self.write(canvas, text, (left + _pad(letters), top + _pad(letters) + letters), ink)


def _pad(letters: int) -> int:
    return max(2, letters // 4)

"""Where a model of crops looks in each frame."""

from __future__ import annotations

from typing import Protocol

from edgewise.runtime.sources import Frame
from edgewise.runtime.views import FrameBoxes


class BoxSource(Protocol):
    """Gives the boxes of every frame of a stream."""

    def boxes(self, frame: Frame) -> FrameBoxes: ...

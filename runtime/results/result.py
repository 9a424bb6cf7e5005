"""What every kind of result can do, so that sinks, parity and the command line need not know which it is."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.pixels.geometry import Size

Same = TypeVar("Same", bound="Result")


class Result(Protocol):
    """n things found in one frame (instances, segments or people), in source coordinates.

    `boxes` float32 [n, 4] are xyxy in continuous frame pixels, `scores` float32 [n] lie in 0..1, `classes`
    int32 [n] index `labels`, `frame_size` is (height, width); `draw` leaves out what scores less than
    `display_threshold` unless it is told otherwise.
    """

    @property
    def boxes(self) -> NDArray[np.float32]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    @property
    def classes(self) -> NDArray[np.int32]: ...
    @property
    def labels(self) -> tuple[ClassLabel, ...]: ...
    @property
    def frame_size(self) -> Size: ...
    @property
    def display_threshold(self) -> float: ...

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each."""
        ...

    def __len__(self) -> int: ...

    def above(self: Same, threshold: float) -> Same:
        """The same result with only what scores at least `threshold`."""
        ...

    def draw(self, frame: NDArray[np.uint8], threshold: float | None = None) -> NDArray[np.uint8]:
        """A copy of the frame (uint8 [height, width, 3] BGR) with the result on it."""
        ...

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO result records, one for each."""
        ...

"""What results can do, so that sinks, parity and the command line need not know of which kind they are."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.pixels.geometry import Size

Record = dict[str, Any]
"""A part of a result as plain JSON values; COCO's result form where the kind has one."""

Same = TypeVar("Same", bound="Scored")


class Result(Protocol):
    """What a model says about one frame, in source coordinates; `frame_size` is (height, width)."""

    @property
    def frame_size(self) -> Size: ...

    def draw(self, frame: NDArray[np.uint8], threshold: float | None = None) -> NDArray[np.uint8]:
        """A copy of the frame (uint8 [height, width, 3] BGR) with the result on it.

        Args:
            frame: Of this result's size.
            threshold: For results with scores: show those of at least this; the display threshold by default.
        """
        ...

    def records(self, image_id: int) -> list[Record]:
        """The result as records, from which its kind reads it again."""
        ...


@runtime_checkable
class Scored(Result, Protocol):
    """A result of n things (instances, segments, people) with boxes, scores and classes.

    `boxes` float32 [n, 4] are xyxy in continuous frame pixels, `scores` float32 [n] lie in 0..1, `classes`
    int32 [n] index `labels`; `draw` leaves out what scores less than `display_threshold` unless it is told
    otherwise; `records` are COCO results, one for each thing.
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
    def display_threshold(self) -> float: ...

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each."""
        ...

    def __len__(self) -> int: ...

    def above(self: Same, threshold: float) -> Same:
        """The same result with only what scores at least `threshold`."""
        ...


@runtime_checkable
class Suppressed(Protocol):
    """A result of a graph that suppresses by a fixed number of rounds."""

    @property
    def settled(self) -> bool:
        """Whether the rounds were enough; where not, a few things may be too many or missing."""
        ...


def is_settled(result: Result) -> bool:
    """Whether nothing of a result hangs on more suppression rounds than the graph has."""
    return result.settled if isinstance(result, Suppressed) else True


def above(result: Result, threshold: float) -> Result:
    """The result without what scores less than the threshold; whole where its kind has no scores."""
    return result.above(threshold) if isinstance(result, Scored) else result

"""What the network looks at in one frame: the whole of it, or a crop around each box.

A graph runs once a look; the looks with their outputs become the result (`decoding/decode.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.preprocessing import Preprocess
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.pixels.geometry import Geometry, Size
from edgewise.runtime.system.errors import SourceError


@dataclass(frozen=True, eq=False)
class FrameBoxes:
    """Where to look in one frame.

    Args:
        boxes: float64 [n, 4], xyxy in continuous source pixels (corner convention); they may leave the frame.
        scores: float32 [n], 0..1; 1 where their source states none.

    Raises:
        SourceError: The arrays do not belong together, or a box is empty.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.boxes.dtype != np.float64:
            raise SourceError(
                f"{count} boxes must be float64 [{count}, 4], not {self.boxes.dtype} {list(self.boxes.shape)}"
            )
        bad = np.flatnonzero(
            ~(np.isfinite(self.boxes).all(axis=1) & (self.boxes[:, 2:] > self.boxes[:, :2]).all(axis=1))
        )
        if len(bad):
            raise SourceError(f"the box {self.boxes[bad[0]].tolist()} to look at is empty")

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, eq=False)
class Look:
    """One look of the network.

    Attributes:
        tensor: uint8 [1, h, w, 3], the graph's input.
        geometry: The way back to the frame, of the look before it was mirrored.
        mirrored: Whether `tensor` was flipped left to right.
    """

    tensor: NDArray[np.uint8]
    geometry: Geometry
    mirrored: bool = False


@dataclass(frozen=True, eq=False)
class Looks:
    """All looks at one frame.

    Attributes:
        frame_size: (height, width) of the frame.
        looks: One for a model of whole frames; for a model of crops one a box (with the flip test two: as it
            is, then mirrored), none where there is no box.
        boxes: What the crops are around; None for a model of whole frames.
    """

    frame_size: Size
    looks: tuple[Look, ...]
    boxes: FrameBoxes | None = None


def take_looks(
    spec: Preprocess,
    frame: NDArray[np.uint8],
    boxes: FrameBoxes | None = None,
    *,
    mirrored: bool = False,
    where: str = "",
) -> Looks:
    """Preprocess one frame for every look that a model takes at it.

    Args:
        spec: Whether a look is the whole frame or the crop around a box.
        frame: uint8 [H, W, 3], BGR.
        boxes: Where to look, for a model of crops; the whole frame where None.
        mirrored: Whether each crop is also looked at in the mirror.
        where: Name of the model in errors.

    Raises:
        SourceError: The frame or a box does not fit the preprocessing, or boxes for a model of whole frames.
    """
    frame_size = (int(frame.shape[0]), int(frame.shape[1]))
    if not spec.needs_boxes:
        if boxes is not None:
            raise SourceError(
                "boxes were given to a model that looks at whole frames",
                where=where,
                hint="leave the boxes out",
            )
        tensor, geometry = preprocess(spec, frame)
        return Looks(frame_size, (Look(tensor, geometry),))
    if boxes is None:
        boxes = whole_frame(frame_size)
    looks: list[Look] = []
    for x1, y1, x2, y2 in boxes.boxes.tolist():
        tensor, geometry = preprocess(spec, frame, box=(x1, y1, x2, y2))
        looks.append(Look(tensor, geometry))
        if mirrored:
            looks.append(Look(np.ascontiguousarray(tensor[:, :, ::-1]), geometry, mirrored=True))
    return Looks(frame_size, tuple(looks), boxes)


def whole_frame(frame_size: Size) -> FrameBoxes:
    """One box of score 1 around a frame of (height, width)."""
    height, width = frame_size
    return FrameBoxes(np.array([[0.0, 0.0, width, height]], np.float64), np.ones(1, np.float32))

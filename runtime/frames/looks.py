"""What the network looks at in one frame: the whole of it, or a crop around each box.

Every room that runs a model (session, self test, evaluation, calibration, parity) asks `views_of` for the
looks of a frame, runs the graph once a look, and hands the looks with their outputs to `postprocess`.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import HeatmapKeypoints
from edgewise.runtime.contract.preprocessing import AffineCrop
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.pixels.geometry import Geometry, Size
from edgewise.runtime.system.errors import ManifestError, SourceError


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
class View:
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
class Views:
    """All looks at one frame.

    Attributes:
        frame_size: (height, width) of the frame.
        looks: One for a model of whole frames; for a model of crops one a box (with the flip test two: as it
            is, then mirrored), none where there is no box.
        boxes: What the crops are around; None for a model of whole frames.
    """

    frame_size: Size
    looks: tuple[View, ...]
    boxes: FrameBoxes | None = None


def views_of(manifest: Manifest, frame: NDArray[np.uint8], boxes: FrameBoxes | None = None) -> Views:
    """Preprocess one frame for every look that a model takes at it.

    Args:
        manifest: Its `preprocess` says what a look is, its `postprocess` whether crops are mirrored too.
        frame: uint8 [H, W, 3], BGR.
        boxes: Where to look, for a model of crops; the whole frame where None.

    Raises:
        SourceError: The frame or a box does not fit the preprocessing, or boxes for a model of whole frames.
    """
    spec, decoding = manifest.preprocess, manifest.postprocess
    frame_size = (int(frame.shape[0]), int(frame.shape[1]))
    if not isinstance(spec, AffineCrop):
        if boxes is not None:
            raise SourceError(
                "boxes were given to a model that looks at whole frames",
                where=manifest.name,
                hint="leave the boxes out",
            )
        tensor, geometry = preprocess(spec, frame)
        return Views(frame_size, (View(tensor, geometry),))
    if boxes is None:
        boxes = whole_frame(frame_size)
    mirror = isinstance(decoding, HeatmapKeypoints) and decoding.flip_test
    looks: list[View] = []
    for x1, y1, x2, y2 in boxes.boxes.tolist():
        tensor, geometry = preprocess(spec, frame, box=(x1, y1, x2, y2))
        looks.append(View(tensor, geometry))
        if mirror:
            looks.append(View(np.ascontiguousarray(tensor[:, :, ::-1]), geometry, mirrored=True))
    return Views(frame_size, tuple(looks), boxes)


def with_flip_test(manifest: Manifest, flip_test: bool) -> Manifest:
    """The same model, looking at the mirrored crop too, or not.

    Raises:
        ManifestError: The model has no flip test to switch.
    """
    decoding = manifest.postprocess
    if not isinstance(decoding, HeatmapKeypoints) or not manifest.preprocess.needs_boxes:
        raise ManifestError(
            "only models of keypoints in crops have a flip test",
            where=manifest.name,
            hint="leave --flip-test and --no-flip-test out",
        )
    switched = msgspec.structs.replace(decoding, flip_test=flip_test)
    return msgspec.structs.replace(manifest, postprocess=switched)


def whole_frame(frame_size: Size) -> FrameBoxes:
    """One box of score 1 around a frame of (height, width)."""
    height, width = frame_size
    return FrameBoxes(np.array([[0.0, 0.0, width, height]], np.float64), np.ones(1, np.float32))

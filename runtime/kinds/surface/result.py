"""Surfaces of people over numpy arrays, in the coordinates of the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.kinds.surface.atlas import SIDE, Atlas, paint_texture, read_texture
from edgewise.runtime.kinds.surface.crops import SurfaceCrops
from edgewise.runtime.kinds.surface.draw import draw_surfaces
from edgewise.runtime.kinds.surface.records import encode_crop
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.results.arrays import require_arrays, require_frame, require_known_classes
from edgewise.runtime.system.errors import ResultError


@dataclass(frozen=True, eq=False)
class Surface:
    """The surfaces of n people in one frame, in descending order of score.

    Args:
        boxes: float32 [n, 4], xyxy in continuous frame pixels (corner convention: the frame is
            0..width, 0..height), inside the frame.
        scores: float32 [n], 0..1.
        classes: int32 [n], index into `labels`.
        crops: Part, U and V of the pixels in each box.
        parts: How many parts there are, numbered from 1.
        labels: The manifest's classes.
        frame_size: (height, width).
        display_threshold: `draw` leaves out what scores less.
        settled: Whether the graph's suppression rounds were enough; where not, a person may be too many or
            missing.

    Raises:
        ResultError: The arrays do not belong together.

    >>> import numpy as np
    >>> from edgewise.runtime.contract.manifest import ClassLabel
    >>> found = Surface(
    ...     boxes=np.array([[2, 1, 4, 3]], np.float32),
    ...     scores=np.array([0.75], np.float32),
    ...     classes=np.array([0], np.int32),
    ...     crops=SurfaceCrops.of(
    ...         [(np.array([[1, 1], [0, 2]], np.uint8), np.full((2, 2, 2), 0.5, np.float32))],
    ...         np.array([[2, 1, 2, 2]]),
    ...         (4, 6),
    ...     ),
    ...     parts=24,
    ...     labels=(ClassLabel(id=1, name="person"),),
    ...     frame_size=(4, 6),
    ... )
    >>> len(found), found.names
    (1, ('person',))
    >>> part, uv = next(iter(found.crops))
    >>> part.shape, uv.shape
    ((2, 2), (2, 2, 2))
    >>> found.records(image_id=3)[0]["densepose"]["shape"]
    [3, 2, 2]
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    crops: SurfaceCrops
    parts: int
    labels: tuple[ClassLabel, ...]
    frame_size: Size
    display_threshold: float = 0.8
    settled: bool = True

    def __post_init__(self) -> None:
        count = len(self.scores)
        require_arrays(
            f"{count} surfaces are",
            {
                "boxes": (self.boxes, (count, 4), np.float32),
                "scores": (self.scores, (count,), np.float32),
                "classes": (self.classes, (count,), np.int32),
            },
        )
        if len(self.crops) != count or self.crops.frame_size != self.frame_size:
            raise ResultError(
                f"{len(self.crops)} crops of a {self.crops.frame_size} frame do not belong to {count} "
                f"surfaces of a {self.frame_size} frame"
            )
        if self.crops.labels.max(initial=0) > self.parts:
            raise ResultError(f"a pixel shows part {self.crops.labels.max()} of {self.parts}")
        require_known_classes(self.classes, self.labels)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | NDArray[Any] | list[int] | list[bool]) -> Surface:
        """The people at an index, a slice, or a boolean or integer array; always a `Surface`."""
        chosen = np.atleast_1d(np.arange(len(self))[index])
        return Surface(
            self.boxes[chosen],
            self.scores[chosen],
            self.classes[chosen],
            self.crops.select(chosen),
            self.parts,
            self.labels,
            self.frame_size,
            self.display_threshold,
            self.settled,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each person."""
        return tuple(self.labels[int(index)].name for index in self.classes)

    def above(self, threshold: float) -> Surface:
        """The people that score at least `threshold`."""
        return self[self.scores >= threshold]

    def draw(self, frame: NDArray[np.uint8], threshold: float | None = None) -> NDArray[np.uint8]:
        """A copy of the frame with tinted parts, contour lines of U (yellow) and V (white), boxes and labels.

        Args:
            frame: uint8 [height, width, 3], BGR, of this result's size.
            threshold: Show scores of at least this; the display threshold by default.

        Raises:
            ResultError: The frame has another size or dtype.
        """
        require_frame(frame, self.frame_size)
        shown = self.above(self.display_threshold if threshold is None else threshold)
        return draw_surfaces(
            frame, shown.boxes, shown.scores, shown.classes, shown.crops, shown.names, self.parts
        )

    def texture(self, frame: NDArray[np.uint8], side: int = SIDE) -> Atlas:
        """The texture that these people show in the frame, of all of them together (`surface[0]` is one).

        Args:
            frame: uint8 [height, width, 3], BGR, of this result's size.
            side: Texels along an axis of a part.

        Raises:
            ResultError: The frame has another size or dtype, or the side is none.
        """
        require_frame(frame, self.frame_size)
        if not 1 <= side <= 4096:
            raise ResultError(f"a part of {side} texels has no texture", hint="use a side of 1 to 4096")
        return read_texture(frame, self.crops, self.parts, side)

    def paint(self, frame: NDArray[np.uint8], atlas: Atlas) -> NDArray[np.uint8]:
        """A copy of the frame in which these people wear a texture; parts that it lacks stay as they are.

        Args:
            frame: uint8 [height, width, 3], BGR, of this result's size.
            atlas: From `texture`, of whatever frame, or `Atlas.of_sheet`.

        Raises:
            ResultError: The frame has another size or dtype, or the atlas too few parts.
        """
        require_frame(frame, self.frame_size)
        return paint_texture(frame, self.crops, atlas)

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """COCO DensePose results: one dictionary a person.

        `bbox` is x, y, width, height, not rounded, because the crop lies at its whole part; `category_id` is
        the label's id; `densepose` holds part, U and V in 256 steps (`kinds/surface/records.py`).
        """
        corners = self.boxes.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        return [
            {
                "image_id": image_id,
                "category_id": self.labels[int(self.classes[index])].id,
                "bbox": boxes[index],
                "score": float(self.scores[index]),
                "densepose": encode_crop(*crop),
            }
            for index, crop in enumerate(self.crops)
        ]

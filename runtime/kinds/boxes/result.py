"""Detected boxes over numpy arrays, in the coordinates of the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.pixels.box_marks import mark_boxes, thing_colours
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.results.arrays import require_arrays, require_frame, require_known_classes
from edgewise.runtime.results.to_supervision import to_detections


@dataclass(frozen=True, eq=False)
class Boxes:
    """n detected boxes of one frame, in descending order of score.

    Args:
        boxes: float32 [n, 4], xyxy in continuous frame pixels (corner convention: the frame is
            0..width, 0..height), inside the frame.
        scores: float32 [n], 0..1.
        classes: int32 [n], index into `labels`.
        labels: The manifest's classes.
        frame_size: (height, width).
        display_threshold: `draw` leaves out what scores less.
        settled: Whether the graph's suppression rounds were enough; where not, a box may be too many or
            missing.

    Raises:
        ResultError: The arrays do not belong together.

    >>> import numpy as np
    >>> from edgewise.runtime.contract.manifest import ClassLabel
    >>> found = Boxes(
    ...     boxes=np.array([[2, 1, 5, 3], [0, 0, 1, 1]], np.float32),
    ...     scores=np.array([0.75, 0.25], np.float32),
    ...     classes=np.array([0, 0], np.int32),
    ...     labels=(ClassLabel(id=17, name="cat"),),
    ...     frame_size=(4, 6),
    ... )
    >>> len(found), found.names
    (2, ('cat', 'cat'))
    >>> len(found.above(0.5))
    1
    >>> found.records(image_id=3)[0]["bbox"]
    [2.0, 1.0, 3.0, 2.0]
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    labels: tuple[ClassLabel, ...]
    frame_size: Size
    display_threshold: float = 0.5
    settled: bool = True

    def __post_init__(self) -> None:
        count = len(self.scores)
        require_arrays(
            f"{count} boxes are",
            {
                "boxes": (self.boxes, (count, 4), np.float32),
                "scores": (self.scores, (count,), np.float32),
                "classes": (self.classes, (count,), np.int32),
            },
        )
        require_known_classes(self.classes, self.labels)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | NDArray[Any] | list[int] | list[bool]) -> Boxes:
        """The boxes at an index, a slice, or a boolean or integer array; always `Boxes`."""
        chosen = np.atleast_1d(np.arange(len(self))[index])
        return Boxes(
            self.boxes[chosen],
            self.scores[chosen],
            self.classes[chosen],
            self.labels,
            self.frame_size,
            self.display_threshold,
            self.settled,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each box."""
        return tuple(self.labels[int(index)].name for index in self.classes)

    def above(self, threshold: float) -> Boxes:
        """The boxes that score at least `threshold`."""
        return self[self.scores >= threshold]

    def draw(self, frame: NDArray[np.uint8], threshold: float | None = None) -> NDArray[np.uint8]:
        """A copy of the frame with outlines and labels, the best on top.

        Args:
            frame: uint8 [height, width, 3], BGR, of this result's size.
            threshold: Show scores of at least this; the display threshold by default.

        Raises:
            ResultError: The frame has another size or dtype.
        """
        require_frame(frame, self.frame_size)
        shown = self.above(self.display_threshold if threshold is None else threshold)
        canvas = frame.copy()
        mark_boxes(canvas, shown.boxes, shown.scores, shown.names, thing_colours(shown.classes))
        return canvas

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: one dictionary a box.

        `bbox` is x, y, width, height, rounded to a ten-thousandth of a pixel. `category_id` is the
        label's id. A box that has no width or no height is left out.
        """
        corners = self.boxes.astype(np.float64)
        sides = corners[:, 2:] - corners[:, :2]
        boxes = np.concatenate([corners[:, :2], sides], axis=1).round(4).tolist()
        return [
            {
                "image_id": image_id,
                "category_id": self.labels[int(self.classes[index])].id,
                "bbox": boxes[index],
                "score": float(self.scores[index]),
            }
            for index in np.flatnonzero((sides > 0).all(axis=1)).tolist()
        ]

    def to_supervision(self) -> Any:
        """`supervision.Detections`; `data["class_name"]` has the names.

        Raises:
            ResultError: The package supervision is not installed.
        """
        return to_detections(self.boxes, self.scores, self.classes, self.names)

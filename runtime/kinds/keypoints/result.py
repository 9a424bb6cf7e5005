"""What a keypoint session returns: people with named points, in the coordinates of the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassLabel, KeypointLayout
from edgewise.runtime.kinds.keypoints.draw import draw_people
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.results.arrays import require_arrays, require_frame, require_known_classes
from edgewise.runtime.results.to_supervision import to_key_points
from edgewise.runtime.system.errors import ResultError


@dataclass(frozen=True, eq=False)
class Keypoints:
    """n people (or hands, or animals) of one frame with k points each, in the order of the boxes.

    Args:
        points: float32 [n, k, 2], x and y in continuous frame pixels (pixel column j covers [j, j + 1)); they
            may lie outside the frame.
        point_scores: float32 [n, k], 0..1.
        boxes: float32 [n, 4], xyxy in continuous frame pixels: where the network looked, or what it found.
        scores: float32 [n], 0..1: of crops the box's score times the mean score of its counted points, of
            people that the network found the box's.
        classes: int32 [n], index into `labels`.
        labels: The manifest's classes.
        layout: Names, limbs and flip pairs of the k points.
        frame_size: (height, width).
        display_threshold: `draw` leaves out people who score less.
        point_threshold: `draw` shows points that score less faintly.
        settled: Whether the graph's suppression rounds were enough, where it finds the boxes itself; where
            not, a person may be too many or missing.

    Raises:
        ResultError: The arrays do not belong together.

    >>> import numpy as np
    >>> from edgewise.runtime.contract.manifest import ClassLabel, KeypointLayout
    >>> found = Keypoints(
    ...     points=np.array([[[3.5, 1.5], [3.5, 4.0]]], np.float32),
    ...     point_scores=np.array([[0.75, 0.25]], np.float32),
    ...     boxes=np.array([[2, 1, 5, 6]], np.float32),
    ...     scores=np.array([0.5], np.float32),
    ...     classes=np.array([0], np.int32),
    ...     labels=(ClassLabel(id=1, name="person"),),
    ...     layout=KeypointLayout(names=("head", "foot"), limbs=((0, 1),)),
    ...     frame_size=(8, 6),
    ... )
    >>> len(found), found.names
    (1, ('person',))
    >>> found.records(image_id=9)[0]["keypoints"]
    [3.0, 1.0, 0.75, 3.0, 3.5, 0.25]
    >>> found.above(0.6).points.shape
    (0, 2, 2)
    >>> int((found.draw(np.zeros((8, 6, 3), np.uint8)) > 0).any(axis=2).sum()) > 4
    True
    """

    points: NDArray[np.float32]
    point_scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    labels: tuple[ClassLabel, ...]
    layout: KeypointLayout
    frame_size: Size
    display_threshold: float = 0.0
    point_threshold: float = 0.0
    settled: bool = True

    def __post_init__(self) -> None:
        count, named = len(self.scores), len(self.layout.names)
        expected = {
            "points": (self.points, (count, named, 2), np.float32),
            "point scores": (self.point_scores, (count, named), np.float32),
            "boxes": (self.boxes, (count, 4), np.float32),
            "scores": (self.scores, (count,), np.float32),
            "classes": (self.classes, (count,), np.int32),
        }
        require_arrays(f"{count} people with {named} keypoints are", expected)
        if not np.isfinite(self.points).all():
            raise ResultError("a keypoint's coordinate is not finite")
        require_known_classes(self.classes, self.labels)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | NDArray[Any] | list[int] | list[bool]) -> Keypoints:
        """The people at an index, a slice, or a boolean or integer array; always `Keypoints`."""
        chosen = np.atleast_1d(np.arange(len(self))[index])
        return Keypoints(
            self.points[chosen],
            self.point_scores[chosen],
            self.boxes[chosen],
            self.scores[chosen],
            self.classes[chosen],
            self.labels,
            self.layout,
            self.frame_size,
            self.display_threshold,
            self.point_threshold,
            self.settled,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each person."""
        return tuple(self.labels[int(index)].name for index in self.classes)

    def above(self, threshold: float) -> Keypoints:
        """The people who score at least `threshold`."""
        return self[self.scores >= threshold]

    def draw(self, frame: NDArray[np.uint8], threshold: float | None = None) -> NDArray[np.uint8]:
        """A copy of the frame with boxes, limbs and points.

        Args:
            frame: uint8 [height, width, 3], BGR, of this result's size.
            threshold: Show people who score at least this; the display threshold by default.

        Raises:
            ResultError: The frame has another size or dtype.
        """
        require_frame(frame, self.frame_size)
        shown = self.above(self.display_threshold if threshold is None else threshold)
        return draw_people(
            frame,
            shown.points,
            shown.point_scores,
            shown.boxes,
            shown.scores,
            shown.names,
            self.layout,
            self.point_threshold,
        )

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: one dictionary a person.

        `keypoints` is x, y, score of each point. COCO's annotations name the pixel that a point lies in, so
        its coordinates are those of pixel centres: x and y here are the continuous ones less 0.5. `bbox` is
        x, y, width, height in continuous pixels, `category_id` the label's id. Coordinates are rounded to
        thousandths.
        """
        places = np.rint((self.points.astype(np.float64) - 0.5) * 1000) / 1000
        triples = np.concatenate([places, self.point_scores[..., None]], axis=2)
        corners = self.boxes.astype(np.float64)
        sides = corners[:, 2:] - corners[:, :2]
        boxes = (np.rint(np.concatenate([corners[:, :2], sides], axis=1) * 1000) / 1000).tolist()
        return [
            {
                "image_id": image_id,
                "category_id": self.labels[int(self.classes[index])].id,
                "keypoints": triples[index].ravel().tolist(),
                "score": float(self.scores[index]),
                "bbox": boxes[index],
            }
            for index in range(len(self))
        ]

    def to_supervision(self) -> Any:
        """`supervision.KeyPoints`, in continuous frame pixels; `data["class_name"]` has the names.

        Raises:
            ResultError: The package supervision is not installed.
        """
        return to_key_points(self.points, self.point_scores, self.classes, self.names)

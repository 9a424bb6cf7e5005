"""Detected instances over numpy arrays, in the coordinates of the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.kinds.instances.draw import draw_instances
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.pixels.masks import BoolArray, MaskCrops
from edgewise.runtime.pixels.rle import encode_rle
from edgewise.runtime.results.arrays import require_arrays, require_frame, require_known_classes
from edgewise.runtime.results.to_supervision import to_detections
from edgewise.runtime.system.errors import ResultError


@dataclass(frozen=True, eq=False)
class Instances:
    """n detected instances of one frame, in descending order of score.

    Args:
        boxes: float32 [n, 4], xyxy in continuous frame pixels (corner convention: the frame is
            0..width, 0..height), inside the frame.
        scores: float32 [n], 0..1.
        classes: int32 [n], index into `labels`.
        masks: One mask each.
        labels: The manifest's classes.
        frame_size: (height, width).
        display_threshold: `draw` leaves out what scores less.
        settled: Whether the graph's suppression rounds were enough; where not, an instance may be too many
            or missing.

    Raises:
        ResultError: The arrays do not belong together.

    >>> import numpy as np
    >>> from edgewise.runtime.contract.manifest import ClassLabel
    >>> from edgewise.runtime.pixels.masks import crop_dense
    >>> mask = np.zeros((1, 4, 6), np.bool_)
    >>> mask[0, 1:3, 2:5] = True
    >>> found = Instances(
    ...     boxes=np.array([[2, 1, 5, 3]], np.float32),
    ...     scores=np.array([0.75], np.float32),
    ...     classes=np.array([0], np.int32),
    ...     masks=crop_dense(mask),
    ...     labels=(ClassLabel(id=17, name="cat"),),
    ...     frame_size=(4, 6),
    ... )
    >>> len(found), found.names
    (1, ('cat',))
    >>> len(found[found.scores > 0.9])
    0
    >>> int(found.dense_masks().sum())
    6
    >>> found.records(image_id=3)[0]["bbox"]
    [2.0, 1.0, 3.0, 2.0]
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    masks: MaskCrops
    labels: tuple[ClassLabel, ...]
    frame_size: Size
    display_threshold: float = 0.3
    settled: bool = True

    def __post_init__(self) -> None:
        count = len(self.scores)
        expected = {
            "boxes": (self.boxes, (count, 4), np.float32),
            "scores": (self.scores, (count,), np.float32),
            "classes": (self.classes, (count,), np.int32),
        }
        require_arrays(f"{count} instances are", expected)
        if len(self.masks) != count or self.masks.frame_size != self.frame_size:
            raise ResultError(
                f"{len(self.masks)} masks of a {self.masks.frame_size} frame do not belong to {count} "
                f"instances of a {self.frame_size} frame"
            )
        require_known_classes(self.classes, self.labels)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | NDArray[Any] | list[int] | list[bool]) -> Instances:
        """The instances at an index, a slice, or a boolean or integer array; always `Instances`."""
        chosen = np.atleast_1d(np.arange(len(self))[index])
        return Instances(
            self.boxes[chosen],
            self.scores[chosen],
            self.classes[chosen],
            self.masks.select(chosen),
            self.labels,
            self.frame_size,
            self.display_threshold,
            self.settled,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each instance."""
        return tuple(self.labels[int(index)].name for index in self.classes)

    def above(self, threshold: float) -> Instances:
        """The instances that score at least `threshold`."""
        return self[self.scores >= threshold]

    def dense_masks(self) -> BoolArray:
        """bool [n, height, width]; a byte for every pixel of every instance."""
        return self.masks.dense()

    def draw(self, frame: NDArray[np.uint8], threshold: float | None = None) -> NDArray[np.uint8]:
        """A copy of the frame with masks, outlines, boxes and labels.

        Args:
            frame: uint8 [height, width, 3], BGR, of this result's size.
            threshold: Show scores of at least this; the display threshold by default.

        Raises:
            ResultError: The frame has another size or dtype.
        """
        require_frame(frame, self.frame_size)
        shown = self.above(self.display_threshold if threshold is None else threshold)
        return draw_instances(frame, shown.boxes, shown.scores, shown.classes, shown.masks, shown.names)

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: one dictionary an instance, masks as compressed RLE.

        `bbox` is x, y, width, height, each rounded to the nearest tenth of a pixel (half to even), as the
        paper's code does after taking the difference. `category_id` is the label's id. An instance whose box
        has no width or no height is left out.
        """
        corners = self.boxes.astype(np.float64)
        sides = corners[:, 2:] - corners[:, :2]
        boxes = (np.rint(np.concatenate([corners[:, :2], sides], axis=1) * 10) / 10).tolist()
        counts = encode_rle(self.masks)
        return [
            {
                "image_id": image_id,
                "category_id": self.labels[int(self.classes[index])].id,
                "bbox": boxes[index],
                "score": float(self.scores[index]),
                "segmentation": {"size": list(self.frame_size), "counts": counts[index]},
            }
            for index in np.flatnonzero((sides > 0).all(axis=1)).tolist()
        ]

    def to_supervision(self) -> Any:
        """`supervision.Detections` with whole-frame masks; `data["class_name"]` has the names.

        Raises:
            ResultError: The package supervision is not installed.
        """
        masks = self.dense_masks() if len(self) else None
        return to_detections(self.boxes, self.scores, self.classes, self.names, masks)

"""A panoptic segmentation over numpy arrays, in the coordinates of the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassKind, ClassLabel
from edgewise.runtime.kinds.panoptic.draw import draw_panoptic
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.pixels.label_maps import LabelMap, label_runs, narrowest, rename_labels
from edgewise.runtime.pixels.masks import BoolArray, MaskCrops
from edgewise.runtime.pixels.rle import encode_rle
from edgewise.runtime.results.arrays import require_arrays, require_frame, require_known_classes
from edgewise.runtime.system.errors import ResultError

MOST_SEGMENTS = (1 << 16) - 1


@dataclass(frozen=True, eq=False)
class Panoptic:
    """n segments of one frame that do not overlap: things by falling score, then stuff by class.

    Args:
        segments: uint16 [height, width], the segment id 1..n of every pixel, 0 where there is none (void).
        boxes: float32 [n, 4], xyxy in continuous frame pixels (corner convention), tight around the pixels of
            segment i + 1.
        scores: float32 [n], 0..1; 1.0 for stuff.
        classes: int32 [n], index into `labels`.
        areas: int64 [n], pixels of each segment, at least 1.
        labels: The manifest's classes.
        frame_size: (height, width).
        display_threshold: `draw` leaves out things that score less.
        settled: Whether the graph's suppression rounds were enough; where not, a thing may be too many or
            missing.

    Raises:
        ResultError: The arrays do not belong together, or segments are not in order; `Panoptic.of_segments`
            brings any map into this form.

    >>> import numpy as np
    >>> from edgewise.runtime.contract.manifest import ClassKind, ClassLabel
    >>> sky = ClassLabel(id=40, name="sky", kind=ClassKind.STUFF)
    >>> found = Panoptic.of_segments(
    ...     np.array([[1, 1, 1, 1], [1, 2, 2, 0]]),
    ...     classes=[1, 0],
    ...     scores=[1.0, 0.75],
    ...     labels=(ClassLabel(id=17, name="cat"), sky),
    ... )
    >>> found.names, found.areas.tolist()
    (('cat', 'sky'), [2, 5])
    >>> found.segments.tolist()
    [[2, 2, 2, 2], [2, 1, 1, 0]]
    >>> found.above(0.9).segments.tolist()
    [[1, 1, 1, 1], [1, 0, 0, 0]]
    >>> found.records(image_id=3)[0]["bbox"]
    [1.0, 1.0, 2.0, 1.0]
    >>> annotation, image = found.to_coco_panoptic(image_id=3, file_name="3.png")
    >>> annotation["segments_info"][1]["category_id"], image.shape
    (40, (2, 4, 3))
    """

    segments: NDArray[np.uint16]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    areas: NDArray[np.int64]
    labels: tuple[ClassLabel, ...]
    frame_size: Size
    display_threshold: float = 0.5
    settled: bool = True

    def __post_init__(self) -> None:
        count = len(self.scores)
        expected = {
            "map": (self.segments, self.frame_size, np.uint16),
            "boxes": (self.boxes, (count, 4), np.float32),
            "scores": (self.scores, (count,), np.float32),
            "classes": (self.classes, (count,), np.int32),
            "areas": (self.areas, (count,), np.int64),
        }
        require_arrays(f"{count} segments is", expected)
        require_known_classes(self.classes, self.labels)
        if int(self.segments.max(initial=0)) > count:
            raise ResultError(f"the map holds the id {self.segments.max()}; there are {count} segments")
        if (self.areas < 1).any() or int(self.areas.sum()) != np.count_nonzero(self.segments):
            raise ResultError("the areas of the segments are not those of the map")
        things = self.things
        if (np.diff(things.astype(np.int8)) > 0).any() or (np.diff(self.scores[things]) > 0).any():
            raise ResultError(
                "segments are not in order: things by falling score, then stuff",
                hint="build the result with Panoptic.of_segments",
            )

    @classmethod
    def of_segments(
        cls,
        segments: LabelMap,
        classes: Any,
        scores: Any,
        labels: tuple[ClassLabel, ...],
        display_threshold: float = 0.5,
    ) -> Panoptic:
        """The result for a map in any order: sorted, without segments of no pixel, areas and boxes found.

        Args:
            segments: Integers [height, width]: 0 for void, i + 1 for the segment of `classes[i]`.
            classes: [n], index into `labels`.
            scores: [n], of things; whatever stands there for stuff becomes 1.0.
            labels: The manifest's classes.
            display_threshold: See the class.

        Raises:
            ResultError: An id outside 0..n, a class index outside `labels`, or more than 65535 segments.
        """
        indices, marks = np.asarray(classes, np.int32).reshape(-1), np.asarray(scores, np.float32).reshape(-1)
        count = len(indices)
        if segments.ndim != 2 or segments.dtype.kind not in "iu" or len(marks) != count:
            raise ResultError(
                f"a map of integers [height, width] with {count} classes and as many scores was wanted, not "
                f"{segments.dtype} {list(segments.shape)} with {len(marks)} scores"
            )
        if count > MOST_SEGMENTS:
            raise ResultError(f"a map holds at most {MOST_SEGMENTS} segments, not {count}")
        if count and not (indices.min() >= 0 and indices.max() < len(labels)):
            raise ResultError(f"a class index lies outside the {len(labels)} labels")
        if segments.size and not (segments.min() >= 0 and segments.max() <= count):
            raise ResultError(f"the map holds an id outside 0..{count}")
        compact = segments.astype(narrowest(count + 1))
        runs = label_runs(compact)
        areas = runs.areas(count + 1)[1:]
        things = _things(labels)[indices]
        order = np.lexsort((np.where(things, 0, indices), np.where(things, -marks, 0), ~things))
        order = order[areas[order] > 0]
        return cls(
            segments=_renumbered(compact, order, count),
            boxes=runs.boxes(count + 1)[1:][order].astype(np.float32),
            scores=np.where(things, marks, 1).astype(np.float32)[order],
            classes=indices[order],
            areas=areas[order],
            labels=labels,
            frame_size=(segments.shape[0], segments.shape[1]),
            display_threshold=display_threshold,
        )

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each segment."""
        return tuple(self.labels[int(index)].name for index in self.classes)

    @property
    def things(self) -> BoolArray:
        """bool [n], whether a segment is a thing; the others are stuff."""
        return _things(self.labels)[self.classes]

    @property
    def masks(self) -> MaskCrops:
        """The segments' masks, computed anew: tight crops that do not overlap."""
        columns = np.asarray(cv2.transpose(self.segments), np.uint16).reshape(self.frame_size[::-1])
        corners = self.boxes.astype(np.int64)
        places = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        pieces = [
            (columns[x : x + w, y : y + h] == index + 1).ravel()
            for index, (x, y, w, h) in enumerate(places.tolist())
        ]
        data = np.concatenate(pieces) if pieces else np.zeros(0, np.bool_)
        return MaskCrops(data, places, self.frame_size)

    def above(self, threshold: float) -> Panoptic:
        """The segments that score at least `threshold`, numbered anew; the others become void."""
        kept = np.flatnonzero(self.scores >= threshold)
        if len(kept) == len(self):
            return self
        return Panoptic(
            segments=_renumbered(self.segments, kept, len(self)),
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            classes=self.classes[kept],
            areas=self.areas[kept],
            labels=self.labels,
            frame_size=self.frame_size,
            display_threshold=self.display_threshold,
            settled=self.settled,
        )

    def draw(self, frame: NDArray[np.uint8], threshold: float | None = None) -> NDArray[np.uint8]:
        """A copy of the frame with tinted segments, borders and names.

        Args:
            frame: uint8 [height, width, 3], BGR, of this result's size.
            threshold: Show scores of at least this; the display threshold by default.

        Raises:
            ResultError: The frame has another size or dtype.
        """
        require_frame(frame, self.frame_size)
        shown = self.above(self.display_threshold if threshold is None else threshold)
        return draw_panoptic(
            frame, shown.segments, shown.boxes, shown.scores, shown.classes, shown.things, shown.names
        )

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: one dictionary a segment, stuff included, masks as compressed RLE.

        `bbox` is x, y, width, height; `category_id` is the label's id. Evaluators of panoptic quality want
        `to_coco_panoptic` instead.
        """
        counts = encode_rle(self.masks)
        return [
            {
                "image_id": image_id,
                "category_id": self.labels[int(self.classes[index])].id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(self.scores[index]),
                "segmentation": {"size": list(self.frame_size), "counts": counts[index]},
            }
            for index, (x1, y1, x2, y2) in enumerate(self.boxes.tolist())
        ]

    def to_coco_panoptic(self, image_id: int, file_name: str) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        """The annotation of COCO's panoptic format, and the picture of segment ids that belongs to it.

        Args:
            image_id: Of the frame.
            file_name: Under which the caller stores the picture, as PNG.

        Returns:
            The annotation with `segments_info` (id, category_id, area, bbox as whole x, y, width, height,
            iscrowd 0), and uint8 [height, width, 3] BGR: id = R + 256 * G + 65536 * B.
        """
        described = [
            {
                "id": index + 1,
                "category_id": self.labels[int(self.classes[index])].id,
                "area": int(self.areas[index]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "iscrowd": 0,
            }
            for index, (x1, y1, x2, y2) in enumerate(self.boxes.astype(np.int64).tolist())
        ]
        picture = np.zeros((*self.frame_size, 3), np.uint8)
        picture[..., 2] = self.segments & 255
        if len(self) > 255:
            picture[..., 1] = self.segments >> 8
        return {"image_id": image_id, "file_name": file_name, "segments_info": described}, picture


def _things(labels: tuple[ClassLabel, ...]) -> BoolArray:
    return np.array([label.kind is ClassKind.THING for label in labels], np.bool_)


def _renumbered(segments: LabelMap, kept: NDArray[np.int64], count: int) -> NDArray[np.uint16]:
    """The map of `count` segments with only those at the indices `kept`, as ids 1.. in that order."""
    names = np.zeros(count + 1, np.uint16)
    names[kept + 1] = np.arange(1, len(kept) + 1)
    return rename_labels(segments, names)

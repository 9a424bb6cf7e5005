"""Where a model of crops looks in each frame: everywhere, where a file says, or where a detector says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import ClassLabel, Manifest
from edgewise.runtime.contract.parts import Coordinate, Fraction, Id
from edgewise.runtime.frames.coco import CategoryEntry, Flag, ImageEntry, read_coco
from edgewise.runtime.frames.image_ids import ImageIds
from edgewise.runtime.frames.images import IMAGE_SUFFIXES
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.results.result import Scored, is_settled
from edgewise.runtime.system.errors import SourceError

if TYPE_CHECKING:
    from edgewise.runtime.walk.session import Session

MOST_PEOPLE = 20
"""Crops of one frame after a detector: what bounds the time of a frame."""
IMAGES_BESIDE = "images.json"
"""What `edgewise run` writes beside its results: the file name of every image id."""


class BoxSource(Protocol):
    """Gives the boxes of every frame of a stream."""

    def boxes(self, frame: Frame) -> FrameBoxes: ...


@dataclass(frozen=True, eq=False)
class CocoBoxes:
    """Boxes from a file in COCO's form, matched to frames by file name, or by number.

    A frame that is an image file is looked up by its name, wherever the file of boxes knows names. The frames
    of a video are looked up by their names too, as `edgewise run` writes them, and otherwise by position.
    Image numbers are those of `Frame.image_id`.

    Attributes:
        file: Where the boxes come from, for errors.
        named: Boxes by file name without folders.
        numbered: Boxes by image number.
        ids: The numbers of the images that it lists; None where it lists none.
    """

    file: Path
    named: Mapping[str, FrameBoxes]
    numbered: Mapping[int, FrameBoxes]
    ids: ImageIds | None = None

    @classmethod
    def open(
        cls,
        file: Path,
        wanted: ClassLabel,
        *,
        class_name: str | None = None,
        least_score: float = 0.0,
        most: int | None = None,
    ) -> CocoBoxes:
        """Read an annotation file, or a list of detections.

        An annotation file is an object of `images`, `annotations` and `categories`; annotations of crowds are
        left out. A list of detections has records of `image_id` or `file_name`, `bbox`, `score` and
        `category_id`; where `images.json` of an edgewise run lies beside it, the numbers get their names and
        images without a detection are known. Boxes of no extent are left out.

        Args:
            file: JSON.
            wanted: The class that is looked at: by its name among a file's categories, by its id in a list of
                detections (a record without a category counts as one).
            class_name: Another name of that class among a file's categories.
            least_score: Boxes that score less are left out.
            most: Only so many of an image, the best; all where None.

        Raises:
            SourceError: Unreadable, not of one of the two forms, or without the wanted class.
        """
        data = _read(file)
        if data.lstrip()[:1] == b"[":
            if class_name is not None:
                raise SourceError(
                    f"a list of detections has no names of classes; {class_name!r} cannot be looked up",
                    where=str(file),
                    hint=f"leave --boxes-class out: records of category_id {wanted.id} are taken",
                )
            records, images = _decode(data, list[_Box], file), _images_beside(file)
            category = wanted.id
        else:
            dataset = _decode(data, _Annotations, file)
            records, images = dataset.annotations, dataset.images
            category = _category(dataset.categories, class_name or wanted.name, file)
        ids = ImageIds.of(images, file)
        names = {number: name for name, number in ids.by_name.items()}
        named: dict[str, list[_Box]] = {name: [] for name in names.values()}
        numbered: dict[int, list[_Box]] = {number: [] for number in names}
        for record in records:
            name, number = _image_of(record, names, file)
            if name is not None:
                named.setdefault(name, []).append(record)
            if number is not None:
                numbered.setdefault(number, []).append(record)
        return cls(
            file,
            {name: _chosen(boxes, category, least_score, most) for name, boxes in named.items()},
            {number: _chosen(boxes, category, least_score, most) for number, boxes in numbered.items()},
            ids if images else None,
        )

    def boxes(self, frame: Frame) -> FrameBoxes:
        """The boxes of a frame, in the order of the file.

        Raises:
            SourceError: The file does not know the frame.
        """
        found = self.named.get(frame.name)
        is_image = Path(frame.name).suffix.lower() in IMAGE_SUFFIXES
        if found is None and not (is_image and self.named):
            found = self.numbered.get(frame.image_id)
        if found is None:
            raise SourceError(
                f"the file of boxes does not know the frame {frame.name!r} (image number {frame.image_id})",
                where=str(self.file),
                hint=f"list every image, with a box or not: in the annotation file's `images`, or in an "
                f"{IMAGES_BESIDE} beside the detections",
            )
        return found


class DetectorBoxes:
    """Boxes of one class from a detector, or any bundle whose results have boxes.

    The detector runs where its boxes are asked for: `Session.stream` does that in the thread that reads the
    source, beside the inference of the frame before.
    """

    def __init__(
        self,
        session: Session,
        class_name: str = "person",
        *,
        least_score: float | None = None,
        most: int | None = MOST_PEOPLE,
    ) -> None:
        """Take an opened detector; whoever opened it closes it.

        Args:
            session: Of a bundle that looks at whole frames.
            class_name: The class that is looked at.
            least_score: Boxes that score less are left out; the detector's display threshold where None.
            most: Only so many of a frame, the best; all where None.

        Raises:
            SourceError: The bundle looks at crops itself, or has no such class.
        """
        manifest = session.manifest
        if manifest.preprocess.needs_boxes:
            raise SourceError(
                "this bundle cannot give boxes: it looks at crops itself",
                where=manifest.name,
                hint="pass a bundle that looks at whole frames, or a COCO file",
            )
        names = [label.name for label in manifest.classes]
        if class_name not in names:
            raise SourceError(
                f"the detector knows no class {class_name!r}; it knows {', '.join(names)}",
                where=manifest.name,
                hint="choose one with --boxes-class",
            )
        session.reset()
        self.incomplete: set[int] = set()
        """Numbers of the frames in which the graph ran out of suppression rounds or slots."""
        self._session = session
        self._class = names.index(class_name)
        self._least_score = least_score
        self._most = most

    def boxes(self, frame: Frame) -> FrameBoxes:
        """Run the detector; the best first."""
        result = self._session(frame.image)
        if not isinstance(result, Scored):
            raise SourceError(
                "this bundle cannot give boxes: its results have none",
                where=self._session.manifest.name,
                hint="pass a bundle of boxes, instances or panoptic segments, or a COCO file",
            )
        least = result.display_threshold if self._least_score is None else self._least_score
        slots = slots_of(self._session.manifest)
        full = slots is not None and int((result.scores >= least).sum()) >= slots
        if full or not is_settled(result):
            self.incomplete.add(frame.index)
        taken = (result.classes == self._class) & (result.scores >= least)
        return _best(result.boxes[taken].astype(np.float64), result.scores[taken], self._most)


def slots_of(manifest: Manifest) -> int | None:
    """As many things as a graph can give, the last axis of its scores; None where it has no slots."""
    name = getattr(manifest.postprocess, "scores", None)
    found = (output for graph in manifest.graphs.values() for output in graph.outputs)
    return next((output.shape[-1] for output in found if output.name == name), None)


def require_crops(manifest: Manifest) -> None:
    """Raise SourceError where a model has no use for boxes."""
    if not manifest.preprocess.needs_boxes:
        raise SourceError(
            "boxes were given to a model that looks at whole frames",
            where=manifest.name,
            hint="leave --boxes out",
        )


# ---------------------------------------------------------------- COCO's form


class _RunImage(ImageEntry, frozen=True):
    skipped: str = ""
    """Why the run left the image out: nothing is known about it then."""


class _Box(msgspec.Struct):
    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    """x, y, width, height in continuous pixels."""
    image_id: Id | None = None
    file_name: str | None = None
    category_id: Id | None = None
    score: Fraction = 1.0
    iscrowd: Flag = 0


class _Annotations(msgspec.Struct):
    images: list[ImageEntry]
    annotations: list[_Box]
    categories: list[CategoryEntry]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SourceError(
            f"the file of boxes cannot be read: {error.strerror}",
            where=str(file),
            hint="--boxes takes a detector's bundle or a COCO file",
        ) from None


Read = TypeVar("Read")


def _decode(data: bytes, kind: type[Read], file: Path) -> Read:
    return read_coco(
        data,
        kind,
        lambda reason: SourceError(
            f"the file of boxes is neither a COCO annotation file nor a list of detections: {reason}",
            where=str(file),
            hint="an annotation file is an object of images, annotations and categories; a list of "
            "detections has records of image_id or file_name, bbox (x, y, width, height), score, category_id",
        ),
    )


def _images_beside(file: Path) -> list[ImageEntry]:
    beside = file.with_name(IMAGES_BESIDE)
    if beside == file or not beside.is_file():
        return []
    return [image for image in _decode(_read(beside), list[_RunImage], beside) if not image.skipped]


def _category(categories: Sequence[CategoryEntry], wanted: str, file: Path) -> int:
    for category in categories:
        if category.name == wanted:
            return category.id
    raise SourceError(
        f"no category of the file is called {wanted!r}; they are "
        f"{', '.join(category.name for category in categories) or 'none'}",
        where=str(file),
        hint="choose one with --boxes-class",
    )


def _image_of(record: _Box, names: Mapping[int, str], file: Path) -> tuple[str | None, int | None]:
    """File name and number of a record's image, as far as they are known.

    Raises:
        SourceError: It has neither, or the file lists its images and not this one.
    """
    number = record.image_id
    if record.file_name is not None:
        return Path(record.file_name).name, number
    if number is None:
        raise SourceError("a box states neither image_id nor file_name", where=str(file))
    if names and number not in names:
        raise SourceError(f"a box belongs to the image {number}, which is not listed", where=str(file))
    return names.get(number), number


def _chosen(records: Sequence[_Box], category: int, least_score: float, most: int | None) -> FrameBoxes:
    taken = [
        record
        for record in records
        if record.category_id in (category, None) and not record.iscrowd and record.score >= least_score
    ]
    given = np.array([record.bbox for record in taken], np.float64).reshape(-1, 4)
    scores = np.array([record.score for record in taken], np.float32)
    seen = (given[:, 2:] > 0).all(axis=1)
    corners = np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], axis=1)
    return _best(corners[seen], scores[seen], most)


def _best(boxes: NDArray[np.float64], scores: NDArray[np.float32], most: int | None) -> FrameBoxes:
    """At most `most` boxes, the best, in the order in which they came."""
    kept = np.sort(np.argsort(-scores, kind="stable")[:most])
    return FrameBoxes(boxes[kept], scores[kept])

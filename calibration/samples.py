"""Which images a model is calibrated on: chosen by a seed, named by their contents, refused when unfit.

An image is chosen by the hash of the seed and its name, so that the choice depends on nothing else: not on
the order of a listing, nor on a library's random numbers. A model of crops looks at one box of each image,
chosen in the same way among those that are annotated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.parts import Coordinate, Id
from edgewise.runtime.contract.preprocessing import Preprocess
from edgewise.runtime.frames.coco import Flag, ImageEntry, read_coco
from edgewise.runtime.frames.images import IMAGE_SUFFIXES, decode_image
from edgewise.runtime.frames.preprocessing import Box, preprocess
from edgewise.runtime.system.errors import CalibrationError, EdgewiseError

LEAST_CORRELATION = 0.3
"""Generated scenes lie above 0.85, white noise below 0.1, as JPEG of quality 50 and more too."""

LEAST_DEVIATION = 1.0
"""Of grey values 0..255."""


@dataclass(frozen=True)
class Sample:
    """One image of the set.

    Attributes:
        name: Its path below the set's folder, with forward slashes.
        sha256: Of the file.
        box: Where a model of crops looks, x1, y1, x2, y2 in continuous source pixels; None for the whole
            image.
    """

    name: str
    path: Path
    sha256: str
    box: Box | None = None

    @property
    def line(self) -> str:
        """`<sha256>  <name>`, then the box where there is one: what the hash of a set is made over."""
        box = "" if self.box is None else "  " + " ".join(repr(float(side)) for side in self.box)
        return f"{self.sha256}  {self.name}{box}\n"


@dataclass(frozen=True)
class CalibrationSet:
    """A list of images, none twice, in the order of the choice."""

    samples: tuple[Sample, ...]
    seed: int

    @classmethod
    def from_folder(
        cls, folder: Path, *, count: int, seed: int = 0, exclude: Iterable[Path] = ()
    ) -> CalibrationSet:
        """Choose images of a folder and its subfolders.

        Args:
            folder: Holds images of any format that OpenCV reads.
            count: How many to choose, at least 1.
            seed: Another seed gives another choice.
            exclude: Image files of the evaluation set; none of them may be among the chosen, whatever its
                name.

        Raises:
            CalibrationError: No folder, no or too few images (equal files count once), an image that cannot
                be read, is constant or holds noise, or an image of the evaluation set.
        """
        if not folder.is_dir():
            raise CalibrationError("no such folder of calibration images", where=str(folder))
        files = {
            file.relative_to(folder).as_posix(): file
            for file in folder.rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
        }
        return cls(_choose(files, count, seed, exclude, str(folder)), seed)

    @classmethod
    def from_coco(
        cls,
        annotations: Path,
        images: Path,
        *,
        count: int,
        seed: int = 0,
        exclude: Iterable[Path] = (),
        boxes: bool = False,
    ) -> CalibrationSet:
        """Choose images that a COCO annotation file lists; otherwise as `from_folder`.

        Args:
            boxes: Choose among the images with an annotated box, and one box of each; crowds are no boxes.

        Raises:
            CalibrationError: Also where the file is no COCO json, or lists a file outside or not in `images`.
        """
        files: dict[str, Path] = {}
        listed = _listed_boxes(annotations) if boxes else dict.fromkeys(_listed_files(annotations), ())
        for name in listed:
            path = images / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise CalibrationError(f"{name!r} leaves the image folder", where=str(annotations))
            if not path.is_file():
                raise CalibrationError(
                    f"the listed image {name!r} is not in the image folder",
                    where=str(images),
                    hint="pass the folder that holds the images of this annotation file",
                )
            files[Path(name).as_posix()] = path
        chosen = _choose(files, count, seed, exclude, str(annotations))
        if boxes:
            among = {Path(name).as_posix(): found for name, found in listed.items()}
            chosen = tuple(replace(one, box=_choose_box(among[one.name], one.name, seed)) for one in chosen)
        return cls(chosen, seed)

    @property
    def samples_sha256(self) -> str:
        """SHA-256 over the `line` of every sample, in order."""
        return hashlib.sha256("".join(sample.line for sample in self.samples).encode()).hexdigest()

    def tensors(self, spec: Preprocess) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """(name, network input uint8 [1, h, w, 3]) of every sample; one buffer serves them all.

        Raises:
            CalibrationError: An image that changed since it was chosen, or does not fit the preprocessing.
        """
        buffer: NDArray[np.uint8] | None = None
        for sample in self.samples:
            data = _bytes(sample.path)
            if hashlib.sha256(data).hexdigest() != sample.sha256:
                raise CalibrationError(
                    "the calibration image changed while it was in use", where=str(sample.path)
                )
            frame = _decode(data, sample.path)
            try:
                buffer, _ = preprocess(spec, frame, box=_look(spec, sample, frame), out=buffer)
            except EdgewiseError as error:
                raise CalibrationError(error.what, where=str(sample.path), hint=error.hint) from None
            yield sample.name, buffer


def preprocess_sha256(spec: Preprocess) -> str:
    """SHA-256 over the JSON of a preprocessing."""
    return hashlib.sha256(msgspec.json.encode(spec)).hexdigest()


def _look(spec: Preprocess, sample: Sample, frame: NDArray[np.uint8]) -> Box | None:
    """Where the network looks: a model of crops without a box takes the whole frame."""
    if not spec.needs_boxes:
        return None
    return sample.box or (0.0, 0.0, float(frame.shape[1]), float(frame.shape[0]))


def _choose_box(boxes: Sequence[Box], name: str, seed: int) -> Box:
    return min(boxes, key=lambda box: _rank(seed, f"{name} {box}"))


def _listed_files(annotations: Path) -> list[str]:
    return [image.file_name for image in _read(annotations, _CocoImages).images]


def _listed_boxes(annotations: Path) -> dict[str, list[Box]]:
    """Image file -> its annotated boxes with an area, crowds left out; images without one are left out."""
    document = _read(annotations, _CocoObjects)
    names = {image.id: image.file_name for image in document.images}
    found: dict[str, list[Box]] = {}
    for one in document.annotations:
        x, y, width, height = one.bbox
        if not one.iscrowd and width > 0 and height > 0 and one.image_id in names:
            found.setdefault(names[one.image_id], []).append((x, y, x + width, y + height))
    return found


Document = TypeVar("Document")


def _read(annotations: Path, form: type[Document]) -> Document:
    try:
        data = annotations.read_bytes()
    except OSError as error:
        raise CalibrationError(
            f"the annotation file cannot be read: {error.strerror}", where=str(annotations)
        ) from None
    return read_coco(
        data,
        form,
        lambda reason: CalibrationError(
            f"not a COCO annotation file: {reason}",
            where=str(annotations),
            hint="give a folder of images, or a COCO json",
        ),
    )


class _CocoImage(msgspec.Struct):
    file_name: str


class _CocoImages(msgspec.Struct):
    images: list[_CocoImage]


class _CocoObject(msgspec.Struct):
    image_id: Id
    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    iscrowd: Flag = 0


class _CocoObjects(msgspec.Struct):
    images: list[ImageEntry]
    annotations: list[_CocoObject]


def _choose(
    files: dict[str, Path], count: int, seed: int, exclude: Iterable[Path], where: str
) -> tuple[Sample, ...]:
    if count < 1:
        raise CalibrationError(f"a calibration set of {count} images", where=where, hint="ask for 1 or more")
    if not files:
        raise CalibrationError(
            "no image to calibrate on",
            where=where,
            hint=f"images end in {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    chosen: dict[str, Sample] = {}
    for name in sorted(files, key=lambda name: _rank(seed, name)):
        digest = hashlib.sha256(_bytes(files[name])).hexdigest()
        chosen.setdefault(digest, Sample(name, files[name], digest))
        if len(chosen) == count:
            break
    if len(chosen) < count:
        raise CalibrationError(
            f"{count} calibration images were asked for, {len(chosen)} different ones are there",
            where=where,
            hint="add images, or ask for fewer",
        )
    samples = tuple(chosen.values())
    _refuse_overlap(samples, exclude)
    for sample in samples:
        _refuse_unfit(sample)
    return samples


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _refuse_overlap(samples: tuple[Sample, ...], exclude: Iterable[Path]) -> None:
    """Hash only those evaluation images that are as long as one of the samples."""
    by_size: dict[int, list[Sample]] = {}
    for sample in samples:
        by_size.setdefault(sample.path.stat().st_size, []).append(sample)
    for path in exclude:
        try:
            candidates = by_size.get(path.stat().st_size, [])
        except OSError as error:
            raise CalibrationError(
                f"an image of the evaluation set cannot be read: {error.strerror}", where=str(path)
            ) from None
        digest = hashlib.sha256(_bytes(path)).hexdigest() if candidates else ""
        for sample in candidates:
            if sample.sha256 == digest:
                raise CalibrationError(
                    f"the calibration image {sample.name!r} is in the evaluation set",
                    where=str(path),
                    hint="calibrate on training images; the evaluation would flatter the ranges",
                )


def _refuse_unfit(sample: Sample) -> None:
    grey = cv2.cvtColor(_decode(_bytes(sample.path), sample.path), cv2.COLOR_BGR2GRAY).astype(np.float32)
    if float(grey.std()) < LEAST_DEVIATION:
        raise CalibrationError(
            "the calibration image is constant", where=str(sample.path), hint="take it out of the set"
        )
    correlation = neighbour_correlation(grey)
    if correlation < LEAST_CORRELATION:
        raise CalibrationError(
            f"the calibration image holds noise: neighbouring pixels correlate by {correlation:.2f}, less "
            f"than {LEAST_CORRELATION}",
            where=str(sample.path),
            hint="calibrate on images like those that the model will see",
        )


def neighbour_correlation(grey: NDArray[np.float32]) -> float:
    """Pearson's correlation of grey values with those one pixel right and one pixel below, the larger.

    1 where an axis has too few pixels to tell.
    """
    right = _correlation(grey[:, :-1], grey[:, 1:])
    below = _correlation(grey[:-1], grey[1:])
    return max(right, below)


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    if first.size < 16:
        return 1.0
    a, b = first - first.mean(), second - second.mean()
    spread = float(np.sqrt(np.vdot(a, a)) * np.sqrt(np.vdot(b, b)))
    return float(np.vdot(a, b)) / spread if spread > 0 else 1.0


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CalibrationError(f"the image cannot be read: {error.strerror}", where=str(path)) from None


def _decode(data: bytes, path: Path) -> NDArray[np.uint8]:
    try:
        return decode_image(data, where=str(path))
    except EdgewiseError as error:
        raise CalibrationError(
            f"a calibration image cannot be used: {error.what}", where=str(path), hint=error.hint
        ) from None

"""Faces in text: WFLW's lists of a face a line, and lists of pictures with 300-W's `.pts` files beside them.

WFLW counts pixels from 0, the `.pts` files from 1, as MATLAB does. The box of a face is WFLW's own where a
line has one, otherwise the tightest around its landmarks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgewise.models.data.coco_file import FARTHEST, Box
from edgewise.models.data.face_labels import FACE, IBUG_FACE, WFLW_FACE
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.tasks.keypoints.annotations import AnnotatedPeople, CocoPerson, measure_images
from edgewise.runtime.system.errors import DatasetError

_POINTS, _RECT, _ATTRIBUTES = 196, 4, 6
_HINT = (
    "give WFLW's list_98pt_*.txt (196 coordinates, perhaps a box and six attributes, a picture's name), or a "
    "list of pictures, one a line, with a .pts file of 68 points beside each"
)
_LABELLED = 2.0

Face = tuple[str, Box, NDArray[np.float64]]
"""Picture, x y width height, points [k, 2] in pixel numbers from 0."""


def read_face_list(file: Path, folder: Path) -> AnnotatedPeople:
    """The faces of a text list.

    Args:
        file: The list.
        folder: Of the pictures.

    Raises:
        DatasetError: With file and line, where something is missing or no number.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DatasetError("no such list of faces, or not text", where=str(file), hint=_HINT) from None
    listed = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not listed:
        raise DatasetError("the list is empty", where=str(file), hint=_HINT)
    if len(listed[0][1]) == 1:
        faces = [_with_pts(folder, parts, f"{file}:{number}") for number, parts in listed]
        return _gathered(file, folder, faces, IBUG_FACE)
    faces = [_of_wflw(parts, f"{file}:{number}") for number, parts in listed]
    return _gathered(file, folder, faces, WFLW_FACE)


def _gathered(file: Path, folder: Path, faces: Sequence[Face], vocabulary: Vocabulary) -> AnnotatedPeople:
    images = measure_images(dict.fromkeys(name for name, _, _ in faces), folder)
    ids = {image.file_name: image.id for image in images}
    people = [
        CocoPerson(number, ids[name], FACE.id, box, np.insert(points, 2, _LABELLED, axis=1).ravel().tolist())
        for number, (name, box, points) in enumerate(faces, start=1)
    ]
    return AnnotatedPeople(file, images, tuple(people), vocabulary)


def _of_wflw(parts: list[str], where: str) -> Face:
    counts = _POINTS + 1, _POINTS + _RECT + _ATTRIBUTES + 1
    if len(parts) not in counts:
        raise DatasetError(
            f"a line has {len(parts)} words; WFLW's have {counts[0]} or {counts[1]}", where=where, hint=_HINT
        )
    numbers = _numbers(parts[:-1], where)
    points = numbers[:_POINTS].reshape(-1, 2)
    if len(parts) == counts[0]:
        return parts[-1], _around(points, where), points
    x1, y1, x2, y2 = numbers[_POINTS : _POINTS + _RECT].tolist()
    if not (x2 > x1 and y2 > y1):
        raise DatasetError(f"the box {[x1, y1, x2, y2]} is empty", where=where, hint="correct the line")
    if not set(numbers[_POINTS + _RECT :].tolist()) <= {0.0, 1.0}:
        raise DatasetError("an attribute is neither 0 nor 1", where=where, hint="correct the line")
    return parts[-1], (x1, y1, x2 - x1, y2 - y1), points


def _with_pts(folder: Path, parts: list[str], where: str) -> Face:
    if len(parts) != 1:
        raise DatasetError(f"a line has {len(parts)} words, not a picture's name", where=where, hint=_HINT)
    path = (folder / parts[0]).with_suffix(".pts")
    points = np.array(list(_pts(path)), np.float64) - 1
    if len(points) != len(IBUG_FACE.keypoints.names if IBUG_FACE.keypoints else ()):
        raise DatasetError(f"the file has {len(points)} points, not 68", where=str(path), hint=_HINT)
    return parts[0], _around(points, str(path)), points


def _pts(path: Path) -> Iterator[NDArray[np.float64]]:
    """The points between the braces of a `.pts` file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DatasetError("no such file of points, or not text", where=str(path), hint=_HINT) from None
    inside = False
    for number, line in enumerate(lines, start=1):
        words, where = line.split(), f"{path}:{number}"
        if words == ["{"]:
            inside = True
        elif words == ["}"]:
            return
        elif inside and words:
            if len(words) != 2:
                raise DatasetError(f"a point has {len(words)} numbers, not 2", where=where, hint=_HINT)
            yield _numbers(words, where)
    raise DatasetError("the points do not end with a }", where=str(path), hint="fetch the file again")


def _around(points: NDArray[np.float64], where: str) -> Box:
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    if not (x2 > x1 and y2 > y1):
        raise DatasetError("all landmarks lie on a line", where=where, hint="correct the line")
    return x1, y1, x2 - x1, y2 - y1


def _numbers(words: Sequence[str], where: str) -> NDArray[np.float64]:
    try:
        found = np.array([float(word) for word in words], np.float64)
    except ValueError as error:
        raise DatasetError(f"not a number: {error}", where=where, hint=_HINT) from None
    if not (np.abs(found) <= FARTHEST).all():
        raise DatasetError("a coordinate is not in or near any image", where=where, hint="correct the line")
    return found

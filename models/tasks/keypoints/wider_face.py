"""The `label.txt` of WIDER FACE with landmarks, as RetinaFace's authors annotated it.

A line `# path` names a picture; each line behind it is a face: x, y, width, height, then x, y and a flag of
five points, all -1 where the face has none, and a score that is not read. Lines of four numbers have no
points. Pictures lie in `images/` beside the file. Coordinates count pixels from 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgewise.models.data.coco_file import FARTHEST, Box
from edgewise.models.data.face_labels import FACE, FIVE_FACE, FIVE_NAMES
from edgewise.models.tasks.keypoints.annotations import AnnotatedPeople, CocoPerson, measure_images
from edgewise.runtime.system.errors import DatasetError

_BOX, _POINTS = 4, 3 * len(FIVE_NAMES)
_HINT = "give a file of lines `# path` and, behind each, faces of 4, 19 or 20 numbers"


def is_wider_face(file: Path) -> bool:
    """Whether a text file begins with the line of a picture."""
    try:
        with file.open("rb") as stream:
            return stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"#")
    except OSError:
        return False


def read_wider_face(file: Path, folder: Path) -> AnnotatedPeople:
    """The faces of a `label.txt`; those without extent count as neither right nor wrong.

    Args:
        file: The list.
        folder: Of the pictures.

    Raises:
        DatasetError: With file and line, where something is missing or no number.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DatasetError("no such list of faces, or not text", where=str(file), hint=_HINT) from None
    names: list[str] = []
    faces: list[tuple[int, Box, list[float]]] = []
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("#"):
            names.append(line.lstrip()[1:].strip())
        elif line.strip():
            faces.append((len(names) - 1, *_face(line.split(), f"{file}:{number}")))
    if faces and faces[0][0] < 0:
        raise DatasetError("a face stands before the first picture", where=str(file), hint=_HINT)
    if len(set(names)) != len(names):
        raise DatasetError("a picture is listed twice", where=str(file), hint="join its faces")
    images = measure_images(names, folder)
    people = tuple(
        CocoPerson(place, images[index].id, FACE.id, box, keypoints)
        for place, (index, box, keypoints) in enumerate(faces, start=1)
    )
    return AnnotatedPeople(file, images, people, FIVE_FACE)


def _face(words: list[str], where: str) -> tuple[Box, list[float]]:
    try:
        numbers = np.array(words, np.float64)
    except ValueError:
        raise DatasetError("a word is no number", where=where, hint=_HINT) from None
    if len(numbers) not in (_BOX, _BOX + _POINTS, _BOX + _POINTS + 1):
        raise DatasetError(f"a face has {len(numbers)} numbers", where=where, hint=_HINT)
    if not (np.abs(numbers) <= FARTHEST).all() or (numbers[2:_BOX] < 0).any():
        raise DatasetError("a face has an impossible box or point", where=where, hint="correct the line")
    x, y, width, height = numbers[:_BOX].tolist()
    points = np.zeros((len(FIVE_NAMES), 3))
    given = numbers[_BOX : _BOX + _POINTS].reshape(-1, 3)
    if len(given) and given[0, 0] >= 0:
        points[:, :2], points[:, 2] = given[:, :2], 2
    return (x, y, width, height), points.ravel().tolist()

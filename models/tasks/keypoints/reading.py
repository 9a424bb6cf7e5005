"""Which form of file annotates people or faces: COCO's and those of other datasets."""

from __future__ import annotations

from pathlib import Path

from edgewise.models.data.coco_file import annotation_file, image_folder
from edgewise.models.tasks.keypoints.annotations import AnnotatedPeople
from edgewise.models.tasks.keypoints.coco_people import read_coco_people, read_whole_body
from edgewise.models.tasks.keypoints.face_lists import read_face_list
from edgewise.models.tasks.keypoints.mpii import read_mpii
from edgewise.models.tasks.keypoints.wider_face import is_wider_face, read_wider_face
from edgewise.runtime.system.errors import DatasetError

_MPII_MAT = (
    "give train.json or valid.json, which SimpleBaseline and HRNet publish for MPII, or write such a list of "
    '{"image", "center", "scale", "joints", "joints_vis"} from the .mat by scipy.io.loadmat'
)


def read_people(data: Path, images: Path | None, file_name: str) -> AnnotatedPeople:
    """Read and check annotations.

    Args:
        data: A COCO keypoint file or a folder with one called `file_name`; a COCO-WholeBody file with
            `#wholebody` or `#face` behind its name; MPII's JSON list; WFLW's text list; the `label.txt` of
            WIDER FACE with landmarks; or a text list of pictures that have 300-W's `.pts` files beside them.
        images: The image folder, where it is not `images/` beside the annotation file, or its own folder.
        file_name: Of the COCO file in a folder.

    Raises:
        DatasetError: One that names the file, and the line or the annotation, of what is wrong.
    """
    name, _, part = data.name.partition("#")
    if part and not data.exists():
        return read_whole_body(data.with_name(name), part)
    file = annotation_file(data, file_name)
    if file.suffix == ".txt" and is_wider_face(file):
        return read_wider_face(file, image_folder(file, images))
    if file.suffix == ".txt":
        return read_face_list(file, image_folder(file, images))
    if file.suffix == ".mat":
        raise DatasetError("MATLAB files are not read", where=str(file), hint=_MPII_MAT)
    if _is_list(file):
        return read_mpii(file, image_folder(file, images))
    return read_coco_people(file)


def _is_list(file: Path) -> bool:
    """Whether a JSON document is a list of objects; COCO's are objects."""
    try:
        with file.open("rb") as stream:
            return b"".join(stream.read(64).split()).removeprefix(b"\xef\xbb\xbf").startswith(b"[{")
    except OSError:
        return False

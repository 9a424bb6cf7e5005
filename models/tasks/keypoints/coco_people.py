"""COCO keypoint files, and the points that COCO-WholeBody adds to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgewise.models.data.coco_file import (
    FARTHEST,
    Box,
    CocoCategory,
    CocoImage,
    object_faults,
    read_file,
    refuse_faults,
    refuse_lists,
)
from edgewise.models.data.face_labels import FACE, IBUG_FACE, IBUG_NAMES
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.tasks.keypoints.annotations import AnnotatedPeople, CocoPerson
from edgewise.runtime.contract.manifest import ClassLabel, KeypointLayout
from edgewise.runtime.kinds.keypoints.sides import flip_pairs, without_side
from edgewise.runtime.system.errors import DatasetError

WHOLE_BODY, FACE_PART = "wholebody", "face"
"""What of a COCO-WholeBody file is asked for: `FILE.json#wholebody`, `FILE.json#face`."""
_HINT = "give a COCO keypoint file, or a folder with keypoints.json and images/"
_SIGMAS = {
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
"""COCO's constants of the object keypoint similarity, by the name without its side."""

_FEET = tuple(f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel"))
_HANDS = tuple(f"{side}_hand_{number}" for side in ("left", "right") for number in range(1, 22))


class _File(msgspec.Struct, frozen=True):
    images: list[CocoImage]
    annotations: list[CocoPerson]
    categories: list[CocoCategory]


class _WholeBodyPerson(CocoPerson, frozen=True, kw_only=True):
    face_box: Box
    face_valid: bool
    foot_kpts: list[float]
    face_kpts: list[float]
    lefthand_kpts: list[float]
    righthand_kpts: list[float]


class _WholeBodyFile(msgspec.Struct, frozen=True):
    images: list[CocoImage]
    annotations: list[_WholeBodyPerson]
    categories: list[CocoCategory]


def read_coco_people(json: Path) -> AnnotatedPeople:
    """The people of a COCO keypoint file.

    Raises:
        DatasetError: As `CocoKeypoints.open`.
    """
    file = read_file(json, _File, "keypoint", _HINT)
    return _checked(json, file.images, file.categories, file.annotations)


def read_whole_body(json: Path, part: str) -> AnnotatedPeople:
    """Of a COCO-WholeBody file everybody with 133 points, or the faces that it calls valid with 68.

    Points that the file gives a positive third number are labelled, those of the body as COCO has them.

    Raises:
        DatasetError: As `CocoKeypoints.open`, or no such part.
    """
    if part not in (WHOLE_BODY, FACE_PART):
        raise DatasetError(
            f"there is no part {part!r} of a COCO-WholeBody file",
            where=str(json),
            hint=f"say {json.name}#{WHOLE_BODY} or {json.name}#{FACE_PART}, or the file alone for 17 points",
        )
    file = read_file(json, _WholeBodyFile, "WholeBody", "give a file of COCO-WholeBody")
    # First what COCO's own points say, so that faults have one wording.
    body = _checked(json, file.images, file.categories, file.annotations)
    people: list[CocoPerson] = []
    for one in file.annotations:
        added = [*one.foot_kpts, *one.face_kpts, *one.lefthand_kpts, *one.righthand_kpts]
        if part == WHOLE_BODY:
            people.append(_with_points(one, one.bbox, [*one.keypoints, *_labelled(added)]))
        elif one.face_valid:
            people.append(_with_points(one, one.face_box, _labelled(one.face_kpts), FACE.id))
    vocabulary = IBUG_FACE if part == FACE_PART else _whole_body(body.vocabulary)
    assert vocabulary.keypoints is not None
    listed, category = {image.id for image in file.images}, vocabulary.classes[0].id
    faults = object_faults(people, listed, (category,))
    refuse_faults([*faults, *_point_faults(people, len(vocabulary.keypoints.names))], json)
    return AnnotatedPeople(json, tuple(file.images), tuple(people), vocabulary)


def _with_points(
    one: _WholeBodyPerson, box: Box, points: list[float], category: int | None = None
) -> CocoPerson:
    of = one.category_id if category is None else category
    return CocoPerson(one.id, one.image_id, of, box, points, None, one.iscrowd)


def _labelled(points: Sequence[float]) -> list[float]:
    """Points with visibility 2 where their third number is positive, else 0."""
    return [(2.0 if number > 0 else 0.0) if index % 3 == 2 else number for index, number in enumerate(points)]


def _whole_body(body: Vocabulary) -> Vocabulary:
    """COCO's people with feet, face and hands; there are no similarity constants."""
    assert body.keypoints is not None
    names = (*body.keypoints.names, *_FEET, *IBUG_NAMES, *_HANDS)
    return Vocabulary(
        body.classes,
        KeypointLayout(names=names, flip_pairs=flip_pairs(names), limbs=body.keypoints.limbs),
    )


def _checked(
    json: Path,
    images: Sequence[CocoImage],
    categories: list[CocoCategory],
    people: Sequence[CocoPerson],
) -> AnnotatedPeople:
    refuse_lists(images, categories, json)
    category = _only_category(categories, {one.category_id for one in people}, json)
    layout = _layout(category, json)
    faults = object_faults(people, {image.id for image in images}, (category.id,))
    refuse_faults([*faults, *_point_faults(people, len(layout.names))], json)
    vocabulary = Vocabulary((ClassLabel(id=category.id, name=category.name),), layout)
    return AnnotatedPeople(json, tuple(images), tuple(people), vocabulary)


def _only_category(listed: list[CocoCategory], used: set[int], json: Path) -> CocoCategory:
    """The category that has keypoints; others may stand there where no annotation names them."""
    categories = [one for one in listed if one.keypoints or one.id in used] or listed
    if len(categories) != 1 or not categories[0].keypoints:
        raise DatasetError(
            f"a keypoint dataset describes one category by its keypoints; the file lists {len(categories)}, "
            f"{sum(bool(category.keypoints) for category in categories)} of them with keypoints",
            where=str(json),
            hint=_HINT,
        )
    return categories[0]


def _layout(category: CocoCategory, json: Path) -> KeypointLayout:
    """Flip pairs by the sides in the names; similarity constants where all names are COCO's."""
    names = category.keypoints
    if len(set(names)) != len(names):
        raise DatasetError("two keypoints have the same name", where=str(json), hint="correct the category")
    limbs = tuple((start - 1, end - 1) for start, end in category.skeleton)
    if any(not (0 <= start < len(names) and 0 <= end < len(names)) for start, end in limbs):
        raise DatasetError(
            "the skeleton names a keypoint that there is not",
            where=str(json),
            hint="count the keypoints of the skeleton from 1",
        )
    bare = [without_side(name) for name in names]
    sigmas = tuple(_SIGMAS[name] for name in bare) if all(name in _SIGMAS for name in bare) else ()
    return KeypointLayout(names=names, flip_pairs=flip_pairs(names), limbs=limbs, sigmas=sigmas)


def _point_faults(people: Sequence[CocoPerson], count: int) -> Iterator[str]:
    """What is wrong with the keypoints of people."""
    for one in people:
        if len(one.keypoints) != 3 * count:
            yield f"annotation {one.id} has {len(one.keypoints)} numbers for {count} keypoints"
        elif not all(abs(number) <= FARTHEST for number in one.keypoints):
            yield f"annotation {one.id} has a keypoint that is not in or near any image"
        elif not set(one.keypoints[2::3]) <= {0, 1, 2}:
            yield f"annotation {one.id} has a visibility other than 0, 1 and 2"
        if one.head_size is not None and not 0 < one.head_size <= FARTHEST:
            yield f"annotation {one.id} has the impossible head size {one.head_size}"

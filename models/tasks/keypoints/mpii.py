"""MPII Human Pose as SimpleBaseline and HRNet publish it: a JSON list of people with sixteen joints.

An entry has `image`, `joints` [16, 2] and `joints_vis` [16] in MPII's order, `center` and `scale`; pixels
count from 1. The person's box is a square of 200 x scale pixels, 15 x scale below the centre, as both read
it. Their files state no heads: an entry may have `head_size` besides, 0.6 of the diagonal of MPII's head
rectangle in pixels, and then PCKh is measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edgewise.models.data.coco_file import FARTHEST
from edgewise.models.data.labels import MPII_PEOPLE
from edgewise.models.tasks.keypoints.annotations import AnnotatedPeople, CocoPerson, measure_images
from edgewise.runtime.frames.coco import read_coco
from edgewise.runtime.system.errors import DatasetError

_HINT = "give MPII's train.json or valid.json of SimpleBaseline or HRNet"
_JOINTS = 16
_SIDE, _BELOW = 200.0, 15.0
"""Pixels of a box of scale 1, and how far its middle lies below the stated centre."""

Visible = Annotated[float, Meta(ge=0, le=1)]
Number = Annotated[float, Meta(ge=-FARTHEST, le=FARTHEST)]
Pair = tuple[Number, Number]


class _Person(msgspec.Struct, frozen=True):
    image: str
    center: Pair
    scale: Annotated[float, Meta(gt=0.0, le=1e4)]
    joints: Annotated[list[Pair], Meta(min_length=_JOINTS, max_length=_JOINTS)]
    joints_vis: Annotated[
        list[Annotated[float, Meta(ge=0, le=1)]], Meta(min_length=_JOINTS, max_length=_JOINTS)
    ]
    head_size: Annotated[float, Meta(gt=0.0, le=FARTHEST)] | None = None


def read_mpii(json: Path, folder: Path) -> AnnotatedPeople:
    """The people of a JSON list.

    Raises:
        DatasetError: With the entry, where something is missing or no number.
    """

    def refuse(reason: str) -> DatasetError:
        return DatasetError(f"not MPII's list of people: {reason}", where=str(json), hint=_HINT)

    listed = read_coco(json.read_bytes(), list[_Person], refuse)
    if not listed:
        raise refuse("it is empty")
    images = measure_images(dict.fromkeys(one.image for one in listed), folder)
    ids = {image.file_name: image.id for image in images}
    people = [_as_coco(number, ids[one.image], one) for number, one in enumerate(listed, start=1)]
    return AnnotatedPeople(json, images, tuple(people), MPII_PEOPLE)


def _as_coco(number: int, image_id: int, one: _Person) -> CocoPerson:
    points: list[float] = []
    for (x, y), visible in zip(one.joints, one.joints_vis, strict=True):
        points += [x - 1, y - 1, 2.0 if visible else 0.0]
    side = _SIDE * one.scale
    # Pixel numbers from 1 to continuous coordinates.
    x, y = one.center[0] - 0.5, one.center[1] + _BELOW * one.scale - 0.5
    box = x - side / 2, y - side / 2, side, side
    return CocoPerson(number, image_id, MPII_PEOPLE.classes[0].id, box, points, head_size=one.head_size)

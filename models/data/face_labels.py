"""Landmarks of faces by the layouts of public datasets: WFLW's 98 points and iBUG's (300-W's) 68.

Left and right are the face's own, as in COCO: the contour begins at its right ear, which is on the left in an
upright picture. A point's number counts from the outside inwards, or along the way that its dataset goes.
"""

from __future__ import annotations

from edgewise.models.data.vocabulary import Vocabulary
from edgewise.runtime.contract.manifest import ClassLabel, KeypointLayout
from edgewise.runtime.kinds.keypoints.sides import flip_pairs

FACE = ClassLabel(id=1, name="face")


def _right_then_left(part: str, right: tuple[int, ...], left: tuple[int, ...]) -> tuple[str, ...]:
    """Names of a part on both sides; equal numbers change places in a mirror."""
    return (*(f"right_{part}_{n}" for n in right), *(f"left_{part}_{n}" for n in left))


def _mirror(part: str, across: int, middle: tuple[str, ...]) -> tuple[str, ...]:
    """Names along a line from the right over the middle to the left: `across` points on either side."""
    numbers = range(1, across + 1)
    right, left = (tuple(f"{side}_{part}_{n}" for n in numbers) for side in ("right", "left"))
    return (*right, *middle, *left[::-1])


def _back(part: str, across: int, middle: str) -> tuple[str, ...]:
    """The same from the left over the middle to the right."""
    return _mirror(part, across, (middle,))[::-1]


_NOSE = (*(f"nose_bridge_{n}" for n in range(1, 5)), *_mirror("nostril", 2, ("nose_base",)))

WFLW_NAMES = (
    *_mirror("contour", 16, ("chin",)),
    *_right_then_left("brow", (1, 2, 3, 4, 5, 6, 7, 8, 9), (5, 4, 3, 2, 1, 9, 8, 7, 6)),
    *_NOSE,
    *_right_then_left("eye", (1, 2, 3, 4, 5, 6, 7, 8), (5, 4, 3, 2, 1, 8, 7, 6)),
    *_mirror("upper_lip", 3, ("upper_lip",)),
    *_back("lower_lip", 2, "lower_lip"),
    *_mirror("inner_upper_lip", 2, ("inner_upper_lip",)),
    *_back("inner_lower_lip", 1, "inner_lower_lip"),
    *("right_pupil", "left_pupil"),
)
"""Contour 0..32, brows 33..50, nose 51..59, eyes 60..75, mouth 76..95, pupils 96 and 97."""

IBUG_NAMES = (
    *_mirror("contour", 8, ("chin",)),
    *_right_then_left("brow", (1, 2, 3, 4, 5), (5, 4, 3, 2, 1)),
    *_NOSE,
    *_right_then_left("eye", (1, 2, 3, 4, 5, 6), (4, 3, 2, 1, 6, 5)),
    *_mirror("upper_lip", 3, ("upper_lip",)),
    *_back("lower_lip", 2, "lower_lip"),
    *_mirror("inner_upper_lip", 2, ("inner_upper_lip",)),
    *_back("inner_lower_lip", 1, "inner_lower_lip"),
)
"""Contour 0..16, brows 17..26, nose 27..35, eyes 36..47, mouth 48..67."""


def _chain(first: int, last: int, *, closed: bool = False) -> tuple[tuple[int, int], ...]:
    steps = tuple((index, index + 1) for index in range(first, last))
    return (*steps, (last, first)) if closed else steps


def face_vocabulary(names: tuple[str, ...], limbs: tuple[tuple[int, int], ...]) -> Vocabulary:
    """The one class `face` with its landmarks; there are no similarity constants."""
    return Vocabulary((FACE,), KeypointLayout(names=names, flip_pairs=flip_pairs(names), limbs=limbs))


WFLW_FACE = face_vocabulary(
    WFLW_NAMES,
    (
        *_chain(0, 32),
        *_chain(33, 41, closed=True),
        *(*_chain(42, 46), *_chain(47, 50), (46, 47), (50, 42)),
        *(*_chain(51, 54), *_chain(55, 59)),
        *(*_chain(60, 67, closed=True), *_chain(68, 75, closed=True)),
        *(*_chain(76, 87, closed=True), *_chain(88, 95, closed=True)),
    ),
)

FIVE_NAMES = ("right_eye", "left_eye", "nose", "right_mouth_corner", "left_mouth_corner")
"""What face detectors mark (RetinaFace, MTCNN): middles of the eyes, tip of the nose, mouth's corners."""

FIVE_OF_WFLW = tuple(
    WFLW_NAMES.index(name)
    for name in ("right_pupil", "left_pupil", "nose_bridge_4", "right_upper_lip_1", "left_upper_lip_1")
)

FIVE_FACE = face_vocabulary(FIVE_NAMES, ((0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4)))

IBUG_FACE = face_vocabulary(
    IBUG_NAMES,
    (
        *(*_chain(0, 16), *_chain(17, 21), *_chain(22, 26)),
        *(*_chain(27, 30), *_chain(31, 35)),
        *(*_chain(36, 41, closed=True), *_chain(42, 47, closed=True)),
        *(*_chain(48, 59, closed=True), *_chain(60, 67, closed=True)),
    ),
)

"""The layouts of face landmarks: who changes places in a mirror, as the datasets' own tables have it."""

from __future__ import annotations

import pytest

from edgewise.models.data.face_labels import IBUG_FACE, WFLW_FACE
from edgewise.models.data.vocabulary import Vocabulary


def across(first: int, last: int, count: int) -> set[tuple[int, int]]:
    """`count` pairs whose members lie at the same distance from both ends."""
    return {(first + step, last - step) for step in range(count)}


WFLW = (
    across(0, 32, 16)
    | across(33, 46, 5)
    | {(38, 50), (39, 49), (40, 48), (41, 47)}
    | across(55, 59, 2)
    | {(60, 72), (61, 71), (62, 70), (63, 69), (64, 68), (65, 75), (66, 74), (67, 73)}
    | across(76, 82, 3)
    | {(83, 87), (84, 86), (88, 92), (89, 91), (93, 95), (96, 97)}
)
IBUG = (
    across(0, 16, 8)
    | across(17, 26, 5)
    | across(31, 35, 2)
    | {(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)}
    | across(48, 54, 3)
    | {(55, 59), (56, 58), (60, 64), (61, 63), (65, 67)}
)


@pytest.mark.parametrize(("face", "count", "pairs"), [(WFLW_FACE, 98, WFLW), (IBUG_FACE, 68, IBUG)])
def test_mirror_partners(face: Vocabulary, count: int, pairs: set[tuple[int, int]]) -> None:
    layout = face.keypoints
    assert layout is not None
    assert len(set(layout.names)) == count
    assert {tuple(sorted(pair)) for pair in layout.flip_pairs} == pairs
    for left, right in layout.flip_pairs:
        assert layout.names[left].startswith("left_")
        assert layout.names[right].startswith("right_")
    assert all(0 <= end < count for limb in layout.limbs for end in limb)

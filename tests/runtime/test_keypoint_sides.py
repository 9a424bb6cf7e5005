"""Left and right in the names of keypoints, in the forms in which people write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgewise.models.data.labels import MPII_PEOPLE
from edgewise.models.scenes import KEYPOINTS
from edgewise.runtime.kinds.keypoints.sides import Side, flip_pairs, side_of, without_partner, without_side

FORMS: dict[str, Callable[[str, str], str]] = {
    "left_eye": lambda side, part: f"{side}_{part}",
    "L_eye": lambda side, part: f"{side[0].upper()}_{part}",
    "l-eye": lambda side, part: f"{side[0]}-{part}",
    "Left eye": lambda side, part: f"{side.title()} {part}",
    "LEFT_EYE": lambda side, part: f"{side}_{part}".upper(),
    "eye_left": lambda side, part: f"{part}_{side}",
    "eye.L": lambda side, part: f"{part}.{side[0].upper()}",
    "eye (left)": lambda side, part: f"{part} ({side})",
    "LEye": lambda side, part: f"{side[0].upper()}{part.title()}",
    "leftEye": lambda side, part: f"{side}{part.title()}",
    "EyeLeft": lambda side, part: f"{part.title()}{side.title()}",
    "lefteye": lambda side, part: f"{side}{part}",
    "leye": lambda side, part: f"{side[0]}{part}",
    "eyeleft": lambda side, part: f"{part}{side}",
}


@pytest.mark.parametrize("form", FORMS)
def test_pairs_are_found_in_every_usual_form(form: str) -> None:
    rename = FORMS[form]
    names = [
        "nose",
        rename("left", "eye"),
        rename("right", "eye"),
        rename("right", "hip"),
        rename("left", "hip"),
    ]
    assert flip_pairs(names) == ((1, 2), (4, 3))
    assert [without_side(name) for name in names] == ["nose", "eye", "eye", "hip", "hip"]


def test_known_layouts_have_their_pairs() -> None:
    assert MPII_PEOPLE.keypoints is not None
    for layout in (KEYPOINTS, MPII_PEOPLE.keypoints):
        found = {frozenset(pair) for pair in flip_pairs(layout.names)}
        assert found == {frozenset(pair) for pair in layout.flip_pairs}
        assert without_partner(layout.names, layout.flip_pairs) == ()


def test_words_that_only_look_like_a_side_are_none() -> None:
    names = ["lip", "rear", "chin", "throat", "tail_root", "mirror", "1", "r2d2"]
    assert flip_pairs(names) == ()
    assert [side_of(name) for name in names[:6]] == [None] * 6
    assert flip_pairs(["L_F_paw", "R_F_paw", "L_R_paw", "R_R_paw"]) == ((0, 1), (2, 3)), (
        "R is rear, then right"
    )
    assert flip_pairs(["left_eye", "l_eye", "right_eye"]) == (), "two lefts for one right"


def test_a_side_without_its_other_is_named() -> None:
    names = ["left_eye", "right_eye", "R_Ear", "nose"]
    assert without_partner(names, flip_pairs(names)) == ("R_Ear",)
    assert side_of("R_Ear") is Side.RIGHT

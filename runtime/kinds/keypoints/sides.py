"""Left and right by the names of keypoints: who changes places in a mirror, who is drawn on which side."""

from __future__ import annotations

import enum
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence


class Side(enum.Enum):
    LEFT = "left"
    RIGHT = "right"


_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_]+")
"""Words of a name: parted by anything that is no letter, and by capitals (`LShoulder`, `leftEye`)."""
_SIDES = {"left": Side.LEFT, "l": Side.LEFT, "right": Side.RIGHT, "r": Side.RIGHT}
_GLUED = re.compile(r"^(left|right|l|r)([a-z]{2,})$|^([a-z]{2,})(left|right)$")
_HERE = "*"
"""Where a stem had its side."""

Stem = tuple[str, ...]


def side_of(name: str) -> Side | None:
    """The side that a word of a name says: `left_knee`, `L-Knee`, `knee.r`, `Right knee`, `RKnee`.

    >>> side_of("L_F_Paw"), side_of("kneeRight"), side_of("lips")
    (<Side.LEFT: 'left'>, <Side.RIGHT: 'right'>, None)
    """
    return next((side for side, _ in _by_word(name)), None)


def flip_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Indices (left, right) of the keypoints that change places in a mirror, by rising left.

    Two names are a pair where they differ in their side alone, whatever of the usual forms it has; a side
    that is glued to its word (`lknee`, `kneeleft`) counts only where the other side exists.

    >>> flip_pairs(["nose", "L_Eye", "R_Eye", "hip right", "hip left"])
    ((1, 2), (4, 3))
    >>> flip_pairs(["lip", "chin", "leftear", "rightear"])
    ((2, 3),)
    """
    pairs: list[tuple[int, int]] = []
    for reading in (_by_word, _glued):
        taken = {index for pair in pairs for index in pair}
        sides: defaultdict[Stem, dict[Side, list[int]]] = defaultdict(lambda: {side: [] for side in Side})
        for index, name in enumerate(names):
            if index not in taken:
                for side, stem in reading(name):
                    sides[stem][side].append(index)
        for found in sides.values():
            left, right = found[Side.LEFT], found[Side.RIGHT]
            if len(left) == len(right) == 1 and not {*left, *right} & taken:
                pairs.append((left[0], right[0]))
                taken |= {left[0], right[0]}
    return tuple(sorted(pairs))


def without_partner(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """The names that say a side and are in no pair."""
    paired = {index for pair in pairs for index in pair}
    return tuple(
        name for index, name in enumerate(names) if index not in paired and side_of(name) is not None
    )


def without_side(name: str) -> str:
    """The name in lower case without the word that says its side, words joined by `_`."""
    stems = [stem for _, stem in _by_word(name)] or [stem for _, stem in _glued(name)]
    return "_".join(word for word in (stems[0] if stems else _words(name)) if word != _HERE)


def _words(name: str) -> Stem:
    return tuple(word.lower() for word in _WORD.findall(name))


def _by_word(name: str) -> Iterator[tuple[Side, Stem]]:
    """Every reading of a name in which one of its words is the side; whole words first."""
    words = _words(name)
    places = [place for place, word in enumerate(words) if word in _SIDES]
    for place in sorted(places, key=lambda place: (len(words[place]) == 1, place)):
        yield _SIDES[words[place]], (*words[:place], _HERE, *words[place + 1 :])


def _glued(name: str) -> Iterator[tuple[Side, Stem]]:
    """A side at the beginning or the end of one of the words."""
    words = _words(name)
    for place, word in enumerate(words):
        if match := _GLUED.match(word):
            before, rest, front, behind = match.groups()
            stem = (_HERE, rest) if before else (front, _HERE)
            yield _SIDES[before or behind], (*words[:place], *stem, *words[place + 1 :])

"""What a model was trained to name: classes of things and stuff, and keypoints."""

from __future__ import annotations

import msgspec

from edgewise.runtime.contract.manifest import ClassKind, ClassLabel, KeypointLayout


class VocabularySize(msgspec.Struct, frozen=True):
    """How many of each a model needs."""

    things: int = 0
    stuff: int = 0
    keypoints: int = 0

    def __str__(self) -> str:
        counts = {"things": self.things, "stuff": self.stuff, "keypoints": self.keypoints}
        return ", ".join(f"{count} {noun}" for noun, count in counts.items() if count) or "nothing"


class Vocabulary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Classes in the order of the model's class indices, and the points of a figure.

    >>> cat, sky = ClassLabel(id=17, name="cat"), ClassLabel(id=187, name="sky", kind=ClassKind.STUFF)
    >>> str(Vocabulary((cat, sky)).size)
    '1 things, 1 stuff'
    """

    classes: tuple[ClassLabel, ...]
    keypoints: KeypointLayout | None = None

    @property
    def things(self) -> tuple[ClassLabel, ...]:
        return tuple(label for label in self.classes if label.kind is ClassKind.THING)

    @property
    def stuff(self) -> tuple[ClassLabel, ...]:
        return tuple(label for label in self.classes if label.kind is ClassKind.STUFF)

    @property
    def size(self) -> VocabularySize:
        points = 0 if self.keypoints is None else len(self.keypoints.names)
        return VocabularySize(len(self.things), len(self.stuff), points)

    @property
    def names_by_id(self) -> dict[int, str]:
        """Category id -> name."""
        return {label.id: label.name for label in self.classes}

"""Two things and three kinds of stuff, for the tests of panoptic decoding."""

from __future__ import annotations

from edgewise.runtime.contract.manifest import ClassKind, ClassLabel

LABELS = (
    ClassLabel(id=1, name="cat"),
    ClassLabel(id=2, name="dog"),
    ClassLabel(id=11, name="sky", kind=ClassKind.STUFF),
    ClassLabel(id=12, name="grass", kind=ClassKind.STUFF),
    ClassLabel(id=13, name="road", kind=ClassKind.STUFF),
)
CAT, DOG, SKY, GRASS, ROAD = range(5)

"""COCO's annotation files as others write them: what all who read one take alike.

Converters write `3.0` for an integer and `true` for a flag; ids and names are read here once for annotations,
boxes, calibration images and the ids of a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from edgewise.runtime.contract.parts import Id
from edgewise.runtime.system.documents import Refuse, decode_json

Form = TypeVar("Form")
Same = TypeVar("Same", bound=Hashable)
Flag = Annotated[int, Meta(ge=0, le=1)] | bool


class ImageEntry(msgspec.Struct, frozen=True):
    """An image of a file, by its number."""

    id: Id
    file_name: str


class CategoryEntry(msgspec.Struct, frozen=True):
    """A category of a file; `supercategory` is the heading that it stands under, where there is one."""

    id: Id
    name: str
    supercategory: str | None = None


def read_coco(data: bytes, form: type[Form], refuse: Refuse) -> Form:
    """A document of COCO's, or of a part of it.

    Args:
        data: JSON.
        form: A struct of the fields that are read; others are passed over.
        refuse: Makes the error that is raised where the document is another.
    """
    return decode_json(data, form, refuse, strict=False)


def doubled(values: Iterable[Same]) -> list[Same]:
    """The values that occur more than once, in their order."""
    return [value for value, count in Counter(values).items() if count > 1]

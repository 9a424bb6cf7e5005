"""Stand-ins for objects of a pickle whose classes are not known here: they do nothing."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class Opaque:
    """Stands for an object of the file whose class is not known here; `name` is that class."""

    name = ""

    def __new__(cls, *arguments: object) -> Any:
        del arguments
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        del state


class OpaqueDict(Opaque):
    """The same for a class that is a dictionary, whose items follow: torch sets those of plain ones only."""

    def __new__(cls, *arguments: object) -> Any:
        del arguments
        return OrderedDict()

"""Fields of nested structs by dotted names, and their values as text: what `--set FIELD=VALUE` means."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import msgspec

from edgewise.runtime.system.documents import decode_json
from edgewise.runtime.system.errors import EdgewiseError

StructT = TypeVar("StructT", bound=msgspec.Struct)


def fields_of(struct: msgspec.Struct) -> dict[str, Any]:
    """The fields that are no struct themselves, by dotted name: `{"decoding.slots": 100, ...}`."""
    found: dict[str, Any] = {}
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        inner = fields_of(value) if isinstance(value, msgspec.Struct) else {"": value}
        found |= {f"{name}.{rest}" if rest else name: leaf for rest, leaf in inner.items()}
    return found


def with_fields(
    struct: StructT,
    settings: Mapping[str, str],
    settable: Collection[str],
    refuse: Callable[[str, str], EdgewiseError],
) -> StructT:
    """The struct with fields replaced, all at once.

    Args:
        struct: Frozen, with frozen structs inside.
        settings: Dotted name to value, as JSON (`true`, `0.4`, `[800, 1344]`), as the parts of a list
            (`800,1344`), or as a plain word.
        settable: Names among `fields_of(struct)`.
        refuse: Makes the error of (what is wrong, what next).

    Raises:
        EdgewiseError: As `refuse` makes it: a name that is not settable, a value that does not fit its field,
            or one that the struct refuses beside the others.
    """
    for name in settings:
        if name not in settable:
            close = difflib.get_close_matches(name, settable, n=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise refuse(f"{name!r} cannot be set", f"{meant}what can: {', '.join(sorted(settable))}")
    return _replaced(struct, {tuple(name.split(".")): text for name, text in settings.items()}, refuse)


def _replaced(
    struct: StructT,
    texts: Mapping[tuple[str, ...], str],
    refuse: Callable[[str, str], EdgewiseError],
    prefix: str = "",
) -> StructT:
    types = {field.name: field.type for field in msgspec.structs.fields(struct)}
    changes: dict[str, Any] = {}
    for first in dict.fromkeys(path[0] for path in texts):
        inner = {path[1:]: text for path, text in texts.items() if path[0] == first}
        name = prefix + first
        if () in inner:
            try:
                changes[first] = msgspec.convert(_plain(inner[()]), types[first])
            except msgspec.ValidationError as error:
                raise refuse(f"{name} cannot be {inner[()]!r}: {error}", "") from None
        else:
            changes[first] = _replaced(getattr(struct, first), inner, refuse, f"{name}.")
    try:
        return msgspec.structs.replace(struct, **changes)
    except ValueError as error:
        raise refuse(str(error), "") from None


def _plain(value: str) -> Any:
    for text in (value, f"[{value}]") if "," in value else (value,):
        try:
            return decode_json(text, object, EdgewiseError)
        except EdgewiseError:
            continue
    return value

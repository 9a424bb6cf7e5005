"""JSON that anyone may have written: one decoder, whose failures are sentences in the reader's own error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from edgewise.runtime.system.errors import EdgewiseError

Form = TypeVar("Form")
Refuse = Callable[[str], EdgewiseError]
"""What is wrong with a document, in words -> the error of whoever reads it."""


def decode_json(
    data: bytes | str,
    form: type[Form],
    refuse: Refuse,
    *,
    strict: bool = True,
    hook: Callable[[type, Any], Any] | None = None,
) -> Form:
    """A document of a form.

    Args:
        data: JSON in UTF-8.
        form: The type that it must be.
        refuse: Makes the error that is raised where it is not.
        strict: Whether `3.0` is no integer, and `"3"` no number.
        hook: For types that msgspec does not know (its `dec_hook`).
    """
    try:
        return msgspec.json.decode(data, type=form, strict=strict, dec_hook=hook)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError, MemoryError) as error:
        raise refuse(_reason(error)) from None


def parse_json(text: str, refuse: Refuse) -> Any:
    """A document of any form, as plain values; NaN too, which Python's json writes and msgspec refuses."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise refuse(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "its text is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it is too large for this machine's memory"
    return str(error)

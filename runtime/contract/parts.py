"""What the structs of a manifest are made of: their base, and the types of numbers, sizes and hashes."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Meta(ge=0.0)]
PositiveInt = Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]
Index = Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
Id = Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)]
"""What JSON's readers all take for the same number."""
Coordinate = Annotated[float, Meta(ge=-1e9, le=1e9)]
"""In pixels: far beyond any frame, and exact in what it is reckoned with."""
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Side = Annotated[int, Meta(ge=1, le=(1 << 15) - 1)]
Size = tuple[Side, Side]
"""(height, width) in pixels; OpenCV warps no longer side."""


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every struct of the manifest: immutable, named fields only, nothing unknown."""

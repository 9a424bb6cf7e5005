"""What the configs of all families are made of: their base, and the types of counts and thresholds.

Sizes, fractions and weights are those of the manifest (`runtime/contract/parts.py`).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Index = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0.0)]
Threshold = Annotated[float, Meta(gt=0.0, le=1.0)]
TopCount = Annotated[int, Meta(ge=1, le=3840)]
"""A number of candidates; TensorRT's TopK takes no more."""
Rounds = Annotated[int, Meta(ge=2)]
"""Of a fixed-point iteration: the last one proves that nothing changes any more."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every struct of a config: plain values, named fields only, nothing unknown."""

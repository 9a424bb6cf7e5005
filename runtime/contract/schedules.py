"""Which graph of a manifest runs when; `walk/schedule.py` implements the kinds.

Each kind is one tagged struct; in JSON its tag stands under `kind`.
"""

from __future__ import annotations

from edgewise.runtime.contract.parts import NonNegative, Part, PositiveInt


class EveryFrame(Part, frozen=True, kw_only=True, tag_field="kind", tag="every-frame"):
    graph: str = "main"


class KeyEveryN(Part, frozen=True, kw_only=True, tag_field="kind", tag="key-every-n"):
    """`key` runs on frames 0, n, 2n, ...; `nonkey` on the others."""

    key: str
    nonkey: str
    n: PositiveInt


class KeyOnSceneChange(Part, frozen=True, kw_only=True, tag_field="kind", tag="key-on-scene-change"):
    """`key` runs when the mean absolute difference of 64x64 grey thumbnails (0..255) exceeds `threshold`."""

    key: str
    nonkey: str
    threshold: NonNegative
    at_least_every: PositiveInt = 30


Schedule = EveryFrame | KeyEveryN | KeyOnSceneChange

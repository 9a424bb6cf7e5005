"""Which graph of a manifest runs when; `walk/schedule.py` implements the kinds.

Each kind is one tagged struct; in JSON its tag stands under `kind`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from edgewise.runtime.contract.parts import NonNegative, Part

Period = Annotated[int, Meta(ge=2, le=1 << 31)]
"""Frames from one key frame to the next; with 1 the other graph would never run."""


class EveryFrame(Part, frozen=True, kw_only=True, tag_field="kind", tag="every-frame"):
    graph: str = "main"

    @property
    def graphs(self) -> tuple[str, ...]:
        """The graphs that may run."""
        return (self.graph,)


class KeyEveryN(Part, frozen=True, kw_only=True, tag_field="kind", tag="key-every-n"):
    """`key` runs on frames 0, n, 2n, ...; `nonkey` on the others."""

    key: str
    nonkey: str
    n: Period

    @property
    def graphs(self) -> tuple[str, ...]:
        """The graphs that may run, without repetition."""
        return tuple(dict.fromkeys((self.key, self.nonkey)))


class KeyOnSceneChange(Part, frozen=True, kw_only=True, tag_field="kind", tag="key-on-scene-change"):
    """`key` runs when the mean absolute difference of 64x64 grey thumbnails (0..255) exceeds `threshold`."""

    key: str
    nonkey: str
    threshold: NonNegative
    at_least_every: Period = 30

    @property
    def graphs(self) -> tuple[str, ...]:
        """The graphs that may run, without repetition."""
        return tuple(dict.fromkeys((self.key, self.nonkey)))


Schedule = EveryFrame | KeyEveryN | KeyOnSceneChange

"""How a source is read, and what it did not give."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgewise.runtime.system.errors import SourceError

LEAST_READ = 0.9
"""A video that ends before this share of the frames and of the time that its container announces ended early.
Both are estimates (edit lists and variable rates make them wrong), so this decides nothing but what is said,
unless a reader is strict."""

RECONNECT_SECONDS = 60.0
"""For how long a camera or stream that was lost is tried again."""


@dataclass(frozen=True)
class Reading:
    """How a source is read.

    Attributes:
        every: Give the frames 0, every, 2 * every, ... alone.
        strict: Raise where an image cannot be read or a video ends early, instead of noting it in `Losses`.
        every_frame: Of a camera or stream, give all frames, however late they become, instead of the newest.
        reconnect: For how many seconds a camera or stream that was lost is tried again; 0: its end is the
            end. None: RECONNECT_SECONDS, and 0 for a pipeline, which may be finite.
    """

    every: int = 1
    strict: bool = False
    every_frame: bool = False
    reconnect: float | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is {self.every}, must be at least 1")


READING = Reading()
"""Every frame; what cannot be read is left out."""


@dataclass(frozen=True)
class Skipped:
    """An image of a source that could not be used: its place, file name and COCO number, and why."""

    index: int
    name: str
    image_id: int
    reason: str


@dataclass
class Losses:
    """What a source did not give so far: written by whoever reads it, read by whoever reports.

    Attributes:
        skipped: Images that could not be read, or that the model does not take, in order.
        ended_early: Where and how a video ended before what its container announces; empty where it did not.
        dropped: Frames of a camera or stream that came while others were run.
        reconnected: How often a camera or stream was lost and found again.
        lost: Whether it is lost at this moment.
    """

    skipped: list[Skipped] = field(default_factory=list[Skipped])
    ended_early: str = ""
    dropped: int = 0
    reconnected: int = 0
    lost: bool = False
    _told: int = field(default=0, init=False, repr=False)

    def error(self, where: str) -> SourceError:
        """What to raise where every image was skipped."""
        first = self.skipped[0]
        return SourceError(
            f"not one of {len(self.skipped)} images can be used; {first.name}: {first.reason}",
            where=where,
            hint="open one in a viewer; copy or convert them again, or see what the bundle takes",
        )

    def untold(self, before: int | None = None) -> list[Skipped]:
        """Skipped images that no earlier call gave; only those before that index, where it is given."""
        told, self._told = self._told, len(self.skipped)
        fresh = self.skipped[told : self._told]
        if before is not None:
            fresh = [image for image in fresh if image.index < before]
            self._told = told + len(fresh)
        return fresh


def early_end(decoded: int, seconds: float, announced: int | None, fps: float | None) -> str:
    """That a video of `decoded` frames, the last at `seconds`, is shorter than announced, in words; or ""."""
    if announced is None or decoded >= LEAST_READ * announced:
        return ""
    if fps is not None and seconds >= LEAST_READ * announced / fps:
        return ""
    return f"the video ended after {decoded} of {announced} announced frames"

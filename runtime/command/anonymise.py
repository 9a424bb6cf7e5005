"""Frames of a run with everything covered that was found, and none of which that is not certain.

It fails closed: a frame is withheld where the detection is not proven complete, so that what is written shows
nobody whom the model found, or would have found with more rounds or slots.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

import numpy as np

from edgewise.runtime.contract.manifest import ClassKind, Manifest
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.pixels.cover import Cover
from edgewise.runtime.pixels.covering import covered
from edgewise.runtime.results.result import Result, Scored, is_settled
from edgewise.runtime.system.errors import SourceError
from edgewise.runtime.walk.box_sources import slots_of

SHARE_OF_SHOWN = 0.5
"""What scores this share of the score from which things are shown is covered already."""


@dataclass(frozen=True)
class Anonymiser:
    """Covers the things of each frame.

    Attributes:
        cover: How.
        least_score: Things that score at least this are covered.
        slots: As many things as the graph can give; None where there is no limit.
        incomplete: Numbers of the frames in which a detector before the model may have left something out.
    """

    cover: Cover
    least_score: float
    slots: int | None
    incomplete: Container[int] = frozenset()

    def __call__(self, frame: Frame, result: Result) -> Frame:
        """The frame with what was found in it covered.

        Raises:
            SourceError: The detection is not proven complete: nobody may see the frame.
            ResultError: A box is not finite.
        """
        if not isinstance(result, Scored):
            raise SourceError(
                "results without boxes do not say what is to be covered",
                where=frame.name,
                hint="give --anonymise a model whose results have boxes",
            )
        if not is_settled(result):
            raise Withheld("withheld: more suppression rounds were needed than the graph has")
        if frame.index in self.incomplete:
            raise Withheld("withheld: the detector needed more suppression rounds or slots than it has")
        if not np.isfinite(result.scores).all():
            raise Withheld("withheld: a score is not a number")
        things = np.array([label.kind is ClassKind.THING for label in result.labels], np.bool_)
        sure = result.scores >= self.least_score
        if self.slots is not None and int(sure.sum()) >= self.slots:
            raise Withheld(f"withheld: all {self.slots} slots of the graph are taken, there may be more")
        taken = things[result.classes] & sure
        return replace(frame, image=covered(frame.image, result.boxes[taken], self.cover))


class Withheld(SourceError):
    """A frame that must not be written; the next one may."""


def anonymiser(
    cover: Cover, manifest: Manifest, threshold: float | None, incomplete: Container[int]
) -> Anonymiser:
    """How the frames of a model's run are covered.

    A model of crops covers every box that it was given. Of others what scores half of what is shown counts,
    or what `threshold` asks for where that is less.
    """
    if manifest.preprocess.needs_boxes:
        return Anonymiser(cover, 0.0, None, incomplete)
    least = SHARE_OF_SHOWN * manifest.postprocess.shown_from
    return Anonymiser(cover, least if threshold is None else min(least, threshold), slots_of(manifest))

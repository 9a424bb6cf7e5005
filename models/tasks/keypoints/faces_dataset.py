"""Faces that are to be found, with the few points that face detectors mark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgewise.models.data.face_labels import FIVE_FACE, FIVE_OF_WFLW, WFLW_NAMES
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.tasks.keypoints.annotations import CocoPerson
from edgewise.models.tasks.keypoints.people_dataset import CocoPeople


@dataclass
class CocoFaces(CocoPeople):
    """The files of `CocoPeople`; of WFLW's 98 points it takes the five that face detectors mark."""

    @classmethod
    def open(cls, data: Path, images: Path | None = None, *, keep: bool = False) -> CocoFaces:
        """See `CocoKeypoints.open`."""
        found = super().open(data, images, keep=keep)
        assert isinstance(found, CocoFaces)
        if found.layout.names != WFLW_NAMES:
            return found
        everybody = tuple(tuple(_five(one) for one in faces) for faces in found._everybody)
        return cls(
            found.json,
            found.files,
            Vocabulary(found.vocabulary.classes, FIVE_FACE.keypoints),
            everybody,
            tuple((index, one) for index, faces in enumerate(everybody) for one in faces if one.usable),
        )


def _five(one: CocoPerson) -> CocoPerson:
    return msgspec.structs.replace(one, keypoints=one.points[list(FIVE_OF_WFLW)].ravel().tolist())

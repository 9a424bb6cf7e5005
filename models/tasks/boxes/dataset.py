"""COCO detection datasets: objects with boxes, with masks or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgewise.models.data.coco_objects import CocoObjects
from edgewise.runtime.kinds.boxes.result import Boxes


@dataclass
class CocoDetections(CocoObjects):
    """A COCO detection dataset. What a crop leaves of an object has the tight box of its mask."""

    masks_needed: ClassVar[bool] = False

    def truth(self, index: int) -> Boxes:
        """The annotated objects of image `index` as a result, crowds left out."""
        example = self.example(index)
        return Boxes(
            boxes=example.boxes.astype(np.float32),
            scores=np.ones(len(example.boxes), np.float32),
            classes=example.classes.astype(np.int32),
            labels=self.vocabulary.classes,
            frame_size=(example.frame.shape[0], example.frame.shape[1]),
        )

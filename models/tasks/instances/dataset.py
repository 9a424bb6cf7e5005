"""COCO instance datasets: every object has a mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgewise.models.data.coco_objects import CocoObjects
from edgewise.runtime.kinds.instances.result import Instances
from edgewise.runtime.pixels.masks import crop_dense


@dataclass
class CocoInstances(CocoObjects):
    """A COCO instance dataset."""

    def truth(self, index: int) -> Instances:
        """The annotated objects of image `index` as a result, crowds left out."""
        example = self.example(index)
        return Instances(
            boxes=example.boxes.astype(np.float32),
            scores=np.ones(len(example.boxes), np.float32),
            classes=example.classes.astype(np.int32),
            masks=crop_dense(example.masks),
            labels=self.vocabulary.classes,
            frame_size=(example.frame.shape[0], example.frame.shape[1]),
        )

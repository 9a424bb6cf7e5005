"""A panoptic segmentation over numpy arrays, in the coordinates of the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.geometry import Size
from edgewise.runtime.manifest import ClassLabel


@dataclass(frozen=True, eq=False)
class Panoptic:
    segments: NDArray[np.uint16]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    areas: NDArray[np.int64]
    labels: tuple[ClassLabel, ...]
    frame_size: Size
    display_threshold: float = 0.5

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.labels[int(index)].name for index in self.classes)

    def above(self, threshold: float) -> Panoptic:
        raise NotImplementedError

    def draw(self, frame: NDArray[np.uint8], threshold: float | None = None) -> NDArray[np.uint8]:
        raise NotImplementedError

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        raise NotImplementedError

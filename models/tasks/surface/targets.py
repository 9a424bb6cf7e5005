"""What a model of surfaces is trained on: the ground truth of one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SurfaceTargets:
    """Ground truth of one training image, in network-input pixels.

    Attributes:
        boxes: float32 [n, 4], x1, y1, x2, y2.
        classes: int64 [n].
        crowd_boxes: float32 [c, 4], regions in which unmatched predictions count as neither right nor wrong.
        points: Of each person float32 [p, 5]: x, y, part (from 1), U, V; p is 0 where none is annotated.
        masks: uint8 [n, side, side], the coarse part over the box, 0 the background.
    """

    boxes: Tensor
    classes: Tensor
    crowd_boxes: Tensor
    points: tuple[Tensor, ...]
    masks: Tensor

    def __post_init__(self) -> None:
        if not len(self.boxes) == len(self.classes) == len(self.points) == len(self.masks):
            raise ValueError(
                f"SurfaceTargets wants as many of each, got {len(self.boxes)} boxes, {len(self.classes)} "
                f"classes, {len(self.points)} sets of points and {len(self.masks)} masks"
            )

    def to(self, device: torch.device | str) -> SurfaceTargets:
        """The same targets on another device."""
        return SurfaceTargets(
            self.boxes.to(device),
            self.classes.to(device),
            self.crowd_boxes.to(device),
            tuple(points.to(device) for points in self.points),
            self.masks.to(device),
        )

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

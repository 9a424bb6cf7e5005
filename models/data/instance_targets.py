"""What an instance segmentation model is trained on: the ground truth of one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class InstanceTargets:
    """Ground truth of one training image, in network-input pixels.

    Coordinates are continuous with the pixel-corner convention: pixel (row i, column j) covers
    [j, j+1) x [i, i+1), so a mask that fills columns 3..5 has x1 = 3 and x2 = 6.

    Attributes:
        boxes: float32 [n, 4], x1, y1, x2, y2.
        classes: int64 [n], 0-based index into the labels (no background entry).
        masks: bool or uint8 {0, 1}, [n, H, W] at network-input size.
        crowd_boxes: float32 [c, 4], regions in which unmatched predictions count as neither right nor wrong.
        points: float32 [n, k, 3], x, y, visibility (0: not labelled) of each object's keypoints; None where
            the dataset names none.
    """

    boxes: Tensor
    classes: Tensor
    masks: Tensor
    crowd_boxes: Tensor
    points: Tensor | None = None

    def __post_init__(self) -> None:
        count = self.boxes.shape[0]
        if (
            self.boxes.shape != (count, 4)
            or self.classes.shape != (count,)
            or self.masks.ndim != 3
            or self.masks.shape[0] != count
            or self.crowd_boxes.ndim != 2
            or self.crowd_boxes.shape[1] != 4
        ):
            raise ValueError(
                "InstanceTargets wants boxes [n,4], classes [n], masks [n,H,W], crowd_boxes [c,4]; got "
                f"{tuple(self.boxes.shape)}, {tuple(self.classes.shape)}, {tuple(self.masks.shape)}, "
                f"{tuple(self.crowd_boxes.shape)}"
            )
        if self.points is not None and (self.points.shape[0] != count or self.points.shape[2:] != (3,)):
            raise ValueError(f"InstanceTargets wants points [n,k,3]; got {tuple(self.points.shape)}")

    def to(self, device: torch.device | str) -> InstanceTargets:
        """The same targets on another device."""
        return InstanceTargets(
            self.boxes.to(device),
            self.classes.to(device),
            self.masks.to(device),
            self.crowd_boxes.to(device),
            None if self.points is None else self.points.to(device),
        )

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

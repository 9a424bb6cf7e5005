"""What a keypoint model is trained on: the labelled points of one person's crop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeypointTargets:
    """Ground truth of one training crop, in network-input pixels.

    Coordinates are continuous with the pixel-corner convention: the centre of pixel (row i, column j) is
    (x, y) = (j + 0.5, i + 0.5).

    Attributes:
        points: float32 [k, 3], rows of x, y, visibility in the order of the keypoint layout; visibility 0 is
            unlabelled or outside the input (x and y then mean nothing), above 0 is labelled.
    """

    points: Tensor

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 3 or self.points.dtype != torch.float32:
            raise ValueError(
                f"KeypointTargets wants points float32 [k,3]; got {self.points.dtype} "
                f"{tuple(self.points.shape)}"
            )

    def to(self, device: torch.device | str) -> KeypointTargets:
        """The same targets on another device."""
        return KeypointTargets(self.points.to(device))

    def __len__(self) -> int:
        return int(self.points.shape[0])

"""What a panoptic model is trained on: the ground truth of one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.models.data.instance_targets import InstanceTargets


@dataclass(frozen=True)
class PanopticTargets:
    """Ground truth of one training image, in network-input pixels.

    Attributes:
        instances: The things; their classes index into the vocabulary's things.
        semantic: int64 [H, W], index into the vocabulary's classes (things first, then stuff) of every pixel,
            things included; -1 is ignored (void, crowds, padding).
    """

    instances: InstanceTargets
    semantic: Tensor

    def __post_init__(self) -> None:
        size = tuple(self.instances.masks.shape[1:])
        if self.semantic.ndim != 2 or (len(self.instances) and tuple(self.semantic.shape) != size):
            raise ValueError(
                "PanopticTargets wants semantic [H,W] of the masks' size; got "
                f"{tuple(self.semantic.shape)} and masks {tuple(self.instances.masks.shape)}"
            )

    def to(self, device: torch.device | str) -> PanopticTargets:
        """The same targets on another device."""
        return PanopticTargets(self.instances.to(device), self.semantic.to(device))

    def __len__(self) -> int:
        return len(self.instances)

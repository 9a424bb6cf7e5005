"""YOLACT++'s judge of masks: how far each overlaps its object, learnt from the masks themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MaskIouNet(nn.Module):
    """One cropped mask of probabilities, float32 [n, 1, Hp, Wp] -> IoU for each class, float32 [n, C].

    3x3 convolutions of stride 2 without padding, a 1x1 to the classes, each with a ReLU, and the maximum of
    what is left of the map. An IoU is not negative; nothing keeps it below 1.
    """

    def __init__(self, channels: Sequence[int], class_count: int) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        inputs = 1
        for outputs in channels:
            steps += [nn.Conv2d(inputs, outputs, 3, 2), nn.ReLU()]
            inputs = outputs
        self.maskiou_net = nn.Sequential(*steps, nn.Conv2d(inputs, class_count, 1), nn.ReLU())

    def forward(self, masks: Tensor) -> Tensor:
        return self.maskiou_net(masks).amax(dim=(2, 3))

    def of_class(self, masks: Tensor, classes: Tensor) -> Tensor:
        """IoU of masks [n, Hp, Wp] with objects of the classes [n], float32 [n]."""
        every = self(masks[:, None])
        chosen = classes[:, None] == torch.arange(every.shape[1], device=every.device, dtype=classes.dtype)
        return (every * chosen.to(every.dtype)).sum(dim=1)

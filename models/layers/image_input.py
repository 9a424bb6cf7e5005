"""What a network reads of a frame, said once: arithmetic in training, the stem's weights in deployment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgewise.runtime.contract.preprocessing import ColourOrder

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ImageInput:
    """(pixel / scale - mean) / std, channel by channel, in the network's colour order.

    Attributes:
        colour: The order in which the network reads the channels; `mean` and `std` are in it.
        scale: Divides the bytes 0..255 first; `mean` and `std` are on what comes out.
        mean: Subtracted.
        std: Divided by last.
    """

    colour: ColourOrder
    scale: float = 1.0
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] BGR -> float32 [N, 3, H, W] as the training definition reads it."""
        images = frames.to(torch.float32).permute(0, 3, 1, 2)
        if self.colour is ColourOrder.RGB:
            images = images.flip(1)
        if self.scale != 1.0:
            images = images / self.scale
        if any(self.mean):
            images = images - _channels(self.mean, frames.device)
        if any(value != 1.0 for value in self.std):
            images = images / _channels(self.std, frames.device)
        return images

    def fold_into(self, stem: nn.Conv2d) -> FoldedInput:
        """Let a network's first convolution read bytes in BGR: its weights take over swap and divisions.

        Args:
            stem: Changed in place; nothing else of the network may read the image.

        Returns:
            What is left to do before the stem.
        """
        std = torch.tensor(self.std, dtype=torch.float64).view(1, 3, 1, 1)
        weight = stem.weight.detach().double() / (self.scale * std)
        mean = torch.tensor([self.scale * value for value in self.mean])
        if self.colour is ColourOrder.RGB:
            weight, mean = weight.flip(1), mean.flip(0)
        with torch.no_grad():
            stem.weight.copy_(weight.float())
        return FoldedInput(mean if any(self.mean) else None)


def _channels(values: Triple, device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(3, 1, 1)


class FoldedInput(nn.Module):
    """uint8 [N, H, W, 3] BGR -> float32 [N, 3, H, W] BGR in 0..255, without the mean.

    The mean stays a subtraction, because a stem's zero padding means "mean colour".
    """

    def __init__(self, mean: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("mean", None if mean is None else mean.view(1, 3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        pixels = frames.to(torch.float32).permute(0, 3, 1, 2)
        return pixels if self.mean is None else pixels - self.mean

"""A convolution that may have batch normalisation behind it instead of a bias."""

from __future__ import annotations

from torch import Tensor, nn


class NormalisedConvolution(nn.Conv2d):
    """A convolution without a bias and its batch normalisation. Keys: `weight`, `norm.*`."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, 1, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(super().forward(features))


def convolution(inputs: int, outputs: int, kernel: int, *, norm: bool) -> nn.Conv2d:
    """One of stride 1 that keeps the size, with a bias or, by `norm`, with batch normalisation."""
    if norm:
        return NormalisedConvolution(inputs, outputs, kernel)
    return nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2)

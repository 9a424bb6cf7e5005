"""MobileNetV2's block (Sandler et al., 2018): widen, depthwise 3x3, narrow without activation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def unit(
    inputs: int, outputs: int, kernel: int, stride: int, activation: Activation, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch normalisation, activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        activation(),
    )


class InvertedResidual(nn.Module):
    """[N, inputs, h, w] -> [N, outputs, ceil(h / stride), ceil(w / stride)].

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Of the depthwise convolution.
        expansion: Times `inputs` in the middle; with 1 there is no widening convolution.
        activation: Behind the first two convolutions.
        residual: Whether the input is added; by default where sizes allow it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        expansion: int,
        activation: Activation = nn.ReLU6,
        residual: bool | None = None,
    ) -> None:
        super().__init__()
        middle = inputs * expansion
        self.residual = stride == 1 and inputs == outputs if residual is None else residual
        self.expand = unit(inputs, middle, 1, 1, activation) if expansion > 1 else None
        self.depthwise = unit(middle, middle, 3, stride, activation, groups=middle)
        self.project = nn.Sequential(nn.Conv2d(middle, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        widened = features if self.expand is None else self.expand(features)
        refined = self.project(self.depthwise(widened))
        return features + refined if self.residual else refined

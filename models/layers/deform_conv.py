"""Deformable convolution v1 (Dai et al., 2017) and v2 (Zhu et al., 2019).

    y[o, p] = b_o + sum over c, k of W[o, c, k] m_k(p) x_c(p * stride - padding + k * dilation + d_k(p))

for channels c and taps k, row by row. x_c is read bilinearly from the zero-padded map; d_k is channel 2k (dy)
and channel 2k + 1 (dx) of the offsets, in input pixels; m_k is 1 in v1.

One arithmetic in two dresses: differentiable torch code, which training uses, and the operator
`edgewise::deform_conv`, which stands in deploy modules for ONNX's DeformConv and knows no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def deform_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
) -> Tensor:
    """Deformable convolution, differentiable in every tensor.

    It holds kh * kw times the input in memory.

    Args:
        x: float [N, C, H, W].
        weight: float [O, C, kh, kw].
        offset: float [N, 2 * kh * kw, Ho, Wo], dy and dx of each tap in turn, input pixels.
        bias: float [O].
        mask: float [N, kh * kw, Ho, Wo], a factor for each tap (v2).
        stride: Input pixels per output pixel.
        padding: Zeros around the input.
        dilation: Input pixels between taps.

    Returns:
        float [N, O, Ho, Wo].
    """
    images, channels = x.shape[:2]
    outputs, _, kernel_height, kernel_width = weight.shape
    out_height, out_width = offset.shape[2:]
    taps = kernel_height * kernel_width
    # A side of one pixel has no extent to be a fraction of; one more of the zeros around it changes nothing.
    x = F.pad(x, (0, int(x.shape[3] == 1), 0, int(x.shape[2] == 1)))
    tap = torch.arange(taps, device=x.device)
    tap_y = torch.div(tap, kernel_width, rounding_mode="floor") * dilation - padding
    tap_x = tap % kernel_width * dilation - padding
    rows = torch.arange(out_height, device=x.device) * stride
    columns = torch.arange(out_width, device=x.device) * stride
    shifts = offset.unflatten(1, (taps, 2))
    down = shifts[:, :, 0] + (tap_y[:, None, None] + rows[:, None])
    across = shifts[:, :, 1] + (tap_x[:, None, None] + columns)
    height, width = x.shape[2:]
    grid = torch.stack((across * (2.0 / (width - 1)) - 1.0, down * (2.0 / (height - 1)) - 1.0), dim=-1)
    sampled = F.grid_sample(
        x, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=True
    ).reshape(images, channels, taps, out_height, out_width)
    if mask is not None:
        sampled = sampled * mask[:, None]
    return F.conv2d(sampled.flatten(1, 2), weight.reshape(outputs, channels * taps, 1, 1), bias)


@torch.library.custom_op("edgewise::deform_conv", mutates_args=())
def deform_conv_op(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
) -> Tensor:
    """ONNX's DeformConv (opset 19, one group) as one operator, without a gradient.

    Shapes as in `deform_conv`, one image at a time.
    """
    with torch.no_grad():
        return deform_conv(
            x, weight, offset, bias, mask, stride=stride, padding=padding, dilation=dilation
        ).contiguous()


@deform_conv_op.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], offset.shape[2], offset.shape[3])


class DeformConv(nn.Module):
    """A convolution whose taps are moved by offsets that a plain convolution reads from the same input.

    Keys: `conv_offset.{weight,bias}` (2 or, modulated, 3 channels a tap; zero at first, so that training
    starts as a plain convolution) and `conv.{weight[,bias]}`. Modulated: the channels behind the offsets go
    through a sigmoid and scale the taps.

    `deploy` is `forward` by the exportable operator, which has no gradient.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        bias: bool = True,
        modulated: bool = False,
    ) -> None:
        super().__init__()
        channels = (3 if modulated else 2) * kernel * kernel
        self.conv_offset = nn.Conv2d(inputs, channels, kernel, stride, padding, dilation)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=bias)
        self.modulated = modulated
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """float [N, inputs, H, W] -> float [N, outputs, Ho, Wo]."""
        offset, mask = self._taps(x)
        stride, padding, dilation = self._geometry()
        return deform_conv(
            x,
            self.conv.weight,
            offset,
            self.conv.bias,
            mask,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )

    def deploy(self, x: Tensor) -> Tensor:
        """float32 [1, inputs, H, W] -> float32 [1, outputs, Ho, Wo]."""
        offset, mask = self._taps(x)
        return deform_conv_op(x, self.conv.weight, offset, self.conv.bias, mask, *self._geometry())

    def _taps(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offsets and, modulated, factors of the taps."""
        offset = self.conv_offset(x)
        if not self.modulated:
            return offset, None
        taps = offset.shape[1] // 3
        return offset[:, : 2 * taps], torch.sigmoid(offset[:, 2 * taps :])

    def _geometry(self) -> tuple[int, int, int]:
        """Stride, padding, dilation."""
        return int(self.conv.stride[0]), int(self.conv.padding[0]), int(self.conv.dilation[0])

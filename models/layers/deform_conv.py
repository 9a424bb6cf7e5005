"""Deformable convolution v1 (Dai et al., 2017) and v2 (Zhu et al., 2019).

    y[o, p] = b_o + sum over c, k of W[o, c, k] m_k(p) x_c(p * stride - padding + k * dilation + d_k(p))

for channels c and taps k, row by row. x_c is read bilinearly from the zero-padded map; d_k is channel 2k (dy)
and channel 2k + 1 (dx) of the offsets, in input pixels; m_k is 1 in v1.

One arithmetic in two dresses: differentiable torch code, and the operator `edgewise::deform_conv`, which an
export writes in its place, stands for ONNX's DeformConv and knows no gradient.
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
    """Deformable convolution, differentiable in every tensor; one operator while it is being exported.

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
    if torch.compiler.is_exporting():
        return deform_conv_op(x, weight, offset, bias, mask, stride, padding, dilation)
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
    """Version 1: a convolution whose taps are moved by offsets that another one reads from the same input.

    Keys: `conv_offset.{weight,bias}` (2 channels a tap; zero at first, so that training starts as a plain
    convolution) and `conv.{weight,bias}`.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, padding: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv_offset = nn.Conv2d(inputs, 2 * 9, 3, stride, padding, dilation)
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding, dilation)
        _zero(self.conv_offset)

    def forward(self, x: Tensor) -> Tensor:
        """float [N, inputs, H, W] -> float [N, outputs, Ho, Wo]."""
        return _convolve(self.conv, x, self.conv_offset(x), None)


class ModulatedDeformConv(nn.Conv2d):
    """Version 2, in the form of the DCNv2 code: a convolution that also scales its taps.

    Keys: those of the convolution, which a plain one's weights fit, and `conv_offset_mask.{weight,bias}`, 3
    channels a tap: all offsets, then logits of all factors. They are zero at first: nothing moves, and every
    factor is one half.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, padding: int = 1, dilation: int = 1
    ) -> None:
        super().__init__(inputs, outputs, 3, stride, padding, dilation)
        self.conv_offset_mask = nn.Conv2d(inputs, 3 * 9, 3, stride, padding, dilation)
        self.reset_taps()

    def reset_taps(self) -> None:
        """Let nothing move and no bias be added."""
        _zero(self.conv_offset_mask)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """float [N, inputs, H, W] -> float [N, outputs, Ho, Wo]."""
        offset, logits = self.conv_offset_mask(x).split((2 * 9, 9), dim=1)
        return _convolve(self, x, offset, torch.sigmoid(logits))


def _convolve(conv: nn.Conv2d, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
    stride, padding, dilation = (int(pair[0]) for pair in (conv.stride, conv.padding, conv.dilation))
    return deform_conv(
        x, conv.weight, offset, conv.bias, mask, stride=stride, padding=padding, dilation=dilation
    )


def _zero(conv: nn.Conv2d) -> None:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)

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

from edgewise.models.layers.bilinear import weighted_rows, zero_padded_taps


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
    images, channels, height, width = x.shape
    outputs, _, kernel_height, kernel_width = weight.shape
    out_height, out_width = offset.shape[2:]
    taps = kernel_height * kernel_width
    table = x.permute(0, 2, 3, 1).reshape(-1, channels)
    # [N, Ho, Wo, taps]: neighbours of one output pixel side by side, as the product below wants them.
    shifts = offset.reshape(images, taps, 2, out_height, out_width).permute(0, 3, 4, 1, 2)
    base_y = torch.arange(out_height, device=x.device, dtype=x.dtype) * stride - padding
    base_x = torch.arange(out_width, device=x.device, dtype=x.dtype) * stride - padding
    tap = torch.arange(taps, device=x.device)
    tap_y = torch.div(tap, kernel_width, rounding_mode="floor").to(x.dtype) * dilation
    tap_x = (tap % kernel_width).to(x.dtype) * dilation
    down = zero_padded_taps(shifts[..., 0] + base_y[:, None, None] + tap_y, height)
    across = zero_padded_taps(shifts[..., 1] + base_x[:, None] + tap_x, width)
    image = torch.arange(images, device=x.device)[:, None, None, None, None, None] * (height * width)
    index = down.index[..., :, None] * width + across.index[..., None, :] + image
    weights = down.weight[..., :, None] * across.weight[..., None, :]
    if mask is not None:
        weights = weights * mask.permute(0, 2, 3, 1)[..., None, None]
    sampled = weighted_rows(table, index.reshape(-1, 4), weights.reshape(-1, 4))
    columns = sampled.reshape(-1, taps * channels)
    kernel = weight.permute(2, 3, 1, 0).reshape(taps * channels, outputs)
    product = columns @ kernel if bias is None else torch.addmm(bias, columns, kernel)
    return product.reshape(images, out_height, out_width, outputs).permute(0, 3, 1, 2)


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

    `deploy` chooses the exportable operator, which has no gradient; `deploy_deform_convs` sets it in a tree.
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
        self.deploy = False
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """float [N, inputs, H, W] -> float [N, outputs, Ho, Wo]; N = 1 where `deploy`."""
        offset, mask = self.conv_offset(x), None
        if self.modulated:
            taps = offset.shape[1] // 3
            offset, mask = offset[:, : 2 * taps], torch.sigmoid(offset[:, 2 * taps :])
        conv = self.conv
        stride, padding, dilation = int(conv.stride[0]), int(conv.padding[0]), int(conv.dilation[0])
        if self.deploy:
            return deform_conv_op(x, conv.weight, offset, conv.bias, mask, stride, padding, dilation)
        return deform_conv(
            x, conv.weight, offset, conv.bias, mask, stride=stride, padding=padding, dilation=dilation
        )


def deploy_deform_convs(module: nn.Module) -> None:
    """Switch every `DeformConv` below `module` to the exportable operator."""
    for child in module.modules():
        if isinstance(child, DeformConv):
            child.deploy = True

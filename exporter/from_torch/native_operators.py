"""ONNX operators that PyTorch has no operator for: how `edgewise::*` of deploy modules become them.

`models/layers` defines the torch side; here each is one node of the ONNX standard with the same arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnxscript.onnx_types import FLOAT


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """torch operator -> translation, for `torch.onnx.export(custom_translation_table=...)`."""
    import torch

    # Their import registers the operators.
    from edgewise.models.layers import deform_conv, roi_align

    del deform_conv, roi_align
    operators = torch.ops.edgewise
    return {operators.roi_align.default: _roi_align, operators.deform_conv.default: _deform_conv}


def _roi_align(
    features: FLOAT, rois: FLOAT, output: int, scale: float, sampling: int, half_pixel: bool
) -> FLOAT:
    """RoiAlign of opset 16 over boxes of image 0."""
    import onnx
    from onnxscript import opset16

    boxes = int(rois.shape[0])
    images = opset16.Constant(value=onnx.numpy_helper.from_array(np.zeros(boxes, np.int64)))
    return opset16.RoiAlign(
        features,
        rois,
        images,
        mode="avg",
        output_height=output,
        output_width=output,
        sampling_ratio=sampling,
        spatial_scale=scale,
        coordinate_transformation_mode="half_pixel" if half_pixel else "output_half_pixel",
    )


def _deform_conv(
    x: FLOAT,
    weight: FLOAT,
    offset: FLOAT,
    bias: FLOAT | None,
    mask: FLOAT | None,
    stride: int,
    padding: int,
    dilation: int,
) -> FLOAT:
    """DeformConv of opset 19 in one group."""
    from onnxscript import opset19

    return opset19.DeformConv(
        x,
        weight,
        offset,
        bias,
        mask,
        kernel_shape=[int(size) for size in weight.shape[2:]],
        pads=[padding] * 4,
        strides=[stride] * 2,
        dilations=[dilation] * 2,
    )

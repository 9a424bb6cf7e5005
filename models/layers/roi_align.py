"""RoIAlign (He et al., 2017, Mask R-CNN) for one map and for a feature pyramid.

One arithmetic in two dresses: differentiable torch code, which training uses, and the operator
`edgewise::roi_align`, which stands in deploy modules for ONNX's RoiAlign and knows no gradient.

A box is cut into `output` x `output` bins and each bin averages `sampling` x `sampling` bilinear samples. A
sample further than one pixel outside the map is 0; any other is clamped to the outermost pixel centres.

The map is read as a table of H * W rows of C values. A bin is then a weighted sum of (2 * sampling)^2 rows,
along contiguous memory: several times as fast on a CPU as sampling a grid, and without samples in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def roi_align(
    features: Tensor,
    rois: Tensor,
    *,
    output: int,
    scale: float,
    sampling: int = 2,
    half_pixel: bool = False,
    images: Tensor | None = None,
) -> Tensor:
    """Features under boxes, resampled to one size; differentiable in features and boxes.

    Args:
        features: float [N, C, H, W].
        rois: float [R, 4], x1, y1, x2, y2 in network pixels; R may be 0.
        output: Bins along each axis.
        scale: Feature pixels per network pixel, 1 / stride.
        sampling: Samples along each axis of a bin, at least 1.
        half_pixel: True: continuous box coordinates, in which the first pixel's centre is 0.5 (detectron2's
            "aligned"). False: box coordinates are those of pixel centres and a box is at least one feature
            pixel wide and high (Detectron, torchvision, UPSNet).
        images: int64 [R], the image of the batch that each box lies in; None: all in the first.

    Returns:
        float [R, C, output, output].
    """
    strides = (1.0 / scale,)
    nowhere = torch.zeros(len(rois), dtype=torch.int64, device=rois.device)
    return pyramid_roi_align(
        [features],
        rois,
        nowhere,
        strides,
        output=output,
        sampling=sampling,
        half_pixel=half_pixel,
        images=images,
    )


def pyramid_roi_align(
    levels: Sequence[Tensor],
    rois: Tensor,
    level_index: Tensor,
    strides: Sequence[float],
    *,
    output: int,
    sampling: int = 2,
    half_pixel: bool = False,
    images: Tensor | None = None,
) -> Tensor:
    """RoIAlign in which every box reads its own level only; differentiable, for training.

    Args:
        levels: float [N, C, H_l, W_l] each.
        rois: float [R, 4], x1, y1, x2, y2 in network pixels; R may be 0.
        level_index: int64 [R], position in `levels`.
        strides: Network pixels per feature pixel of each level.
        output: Bins along each axis.
        sampling: Samples along each axis of a bin, at least 1.
        half_pixel: As in `roi_align`.
        images: int64 [R], the image of the batch that each box lies in; None: all in the first.

    Returns:
        float [R, C, output, output].
    """
    channels = levels[0].shape[1]
    tables = [level.flatten(2).transpose(1, 2).reshape(-1, channels).contiguous() for level in levels]
    table = tables[0] if len(tables) == 1 else torch.cat(tables)
    sizes = torch.tensor([tuple(level.shape[2:]) for level in levels], device=rois.device)
    heights, widths = sizes[level_index].unbind(dim=1)
    scale = rois.new_tensor([1.0 / stride for stride in strides])[level_index]
    first_rows = [0, *accumulate(len(rows) for rows in tables)][:-1]
    base = torch.tensor(first_rows, device=rois.device)[level_index]
    if images is not None:
        base = base + images * heights * widths
    x1, y1, x2, y2 = (rois * scale[:, None]).unbind(dim=1)
    down = _taps(_sample_points(y1, y2, output, sampling, half_pixel), heights[:, None])
    across = _taps(_sample_points(x1, x2, output, sampling, half_pixel), widths[:, None])
    index, weights = _bins(down, across, base, widths, output, sampling)
    pooled = _weighted_rows(table, index, weights / sampling**2)
    return pooled.reshape(len(rois), output, output, channels).permute(0, 3, 1, 2)


def _sample_points(low: Tensor, high: Tensor, output: int, sampling: int, half_pixel: bool) -> Tensor:
    """Ends of boxes along one axis [R], in feature pixels -> sample positions [R, output * sampling]."""
    if half_pixel:
        low, high = low - 0.5, high - 0.5
        extent = high - low
    else:
        extent = (high - low).clamp(min=1.0)
    steps = torch.arange(output * sampling, device=low.device, dtype=low.dtype) + 0.5
    return low[:, None] + steps * (extent / (output * sampling))[:, None]


class _Taps(NamedTuple):
    """The two pixels beside each position along one axis."""

    index: Tensor
    """int64 [..., 2], inside the map."""
    weight: Tensor
    """float [..., 2]; their sum is 1, or 0 where the position is outside."""


def _taps(positions: Tensor, size: Tensor) -> _Taps:
    """Neighbours of positions [R, S] (0 = centre of the first pixel) along axes of `size` [R, 1] pixels."""
    inside = ((positions >= -1.0) & (positions <= size)).to(positions.dtype)
    last = (size - 1).to(positions.dtype)
    held = torch.minimum(positions.clamp(min=0.0), last)
    low = held.detach().floor()
    high = torch.minimum(low + 1.0, last)
    fraction = held - low
    index = torch.stack((low, high), dim=-1).to(torch.int64)
    return _Taps(index, torch.stack(((1.0 - fraction) * inside, fraction * inside), dim=-1))


def _bins(
    down: _Taps, across: _Taps, base: Tensor, widths: Tensor, output: int, sampling: int
) -> tuple[Tensor, Tensor]:
    """Table rows and weights of every bin: the outer product of its taps along y and along x.

    Args:
        down: Taps [R, output * sampling, 2] along y.
        across: Taps [R, output * sampling, 2] along x.
        base: int64 [R], the table's row of each box's pixel (0, 0).
        widths: int64 [R], table rows per feature row.
        output: Bins along each axis.
        sampling: Samples along each axis of a bin.

    Returns:
        int64 and float [R * output^2, (2 * sampling)^2].
    """
    count, taps = base.shape[0], 2 * sampling
    rows, row_weights = (part.reshape(count, output, 1, taps, 1) for part in down)
    columns, column_weights = (part.reshape(count, 1, output, 1, taps) for part in across)
    index = rows * widths[:, None, None, None, None] + columns + base[:, None, None, None, None]
    flat = (count * output * output, taps * taps)
    return index.reshape(flat), (row_weights * column_weights).reshape(flat)


def _weighted_rows(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Rows [T, C], index int64 [B, L], weights [B, L] -> sums of weighted rows [B, C]."""
    if len(index) == 0:
        return table[:0] * 1.0
    return F.embedding_bag(index, table, per_sample_weights=weights.to(table.dtype), mode="sum")


def roi_levels(
    rois: Tensor,
    *,
    lowest: int,
    highest: int,
    canonical_level: int,
    canonical_size: float = 224.0,
    plus_one: bool = False,
    epsilon: float = 1e-6,
    epsilon_inside: bool = True,
) -> Tensor:
    """The pyramid level of each box (Lin et al., 2017, equation 1): floor(k0 + log2(sqrt(w h) / size)).

    Written with comparisons instead of a logarithm, so that every runtime draws the same border.

    | | plus_one | epsilon | inside |
    |---|---|---|---|
    | UPSNet | true | 1e-6 | true |
    | torchvision | false | 1e-6 | false |
    | detectron2 | false | 1e-8 | true |

    Args:
        rois: float [..., 4], corner form, network pixels.
        lowest: Smallest level that may come out.
        highest: Largest level that may come out.
        canonical_level: k0, the level of a box of `canonical_size`, in the same numbering.
        canonical_size: Side in network pixels.
        plus_one: Widths and heights are x2 - x1 + 1 (inclusive corners).
        epsilon: What is added against rounding.
        epsilon_inside: Whether it is added to the argument of the logarithm, or to its value.

    Returns:
        int64 [...], lowest..highest.
    """
    one = 1.0 if plus_one else 0.0
    width, height = rois[..., 2] - rois[..., 0] + one, rois[..., 3] - rois[..., 1] + one
    size = torch.sqrt((width * height).clamp(min=0.0)) / canonical_size
    levels = torch.full(size.shape, lowest, dtype=torch.int64, device=rois.device)
    for level in range(lowest + 1, highest + 1):
        exponent = level - canonical_level
        border = 2.0**exponent if epsilon_inside else 2.0 ** (exponent - epsilon)
        levels = levels + ((size + epsilon if epsilon_inside else size) >= border).to(torch.int64)
    return levels


@torch.library.custom_op("edgewise::roi_align", mutates_args=())
def roi_align_op(
    features: Tensor, rois: Tensor, output: int, scale: float, sampling: int, half_pixel: bool
) -> Tensor:
    """ONNX's RoiAlign (mode avg, every box in image 0) as one operator, without a gradient.

    Args:
        features: float32 [1, C, H, W].
        rois: float32 [R, 4], corner form, network pixels.
        output: Bins along each axis.
        scale: spatial_scale, feature pixels per network pixel.
        sampling: sampling_ratio.
        half_pixel: coordinate_transformation_mode half_pixel, else output_half_pixel.

    Returns:
        float32 [R, C, output, output].
    """
    with torch.no_grad():
        return roi_align(
            features, rois, output=output, scale=scale, sampling=sampling, half_pixel=half_pixel
        ).contiguous()


@roi_align_op.register_fake
def _(features: Tensor, rois: Tensor, output: int, scale: float, sampling: int, half_pixel: bool) -> Tensor:
    return features.new_empty(rois.shape[0], features.shape[1], output, output)


def deploy_pyramid_roi_align(
    levels: Sequence[Tensor],
    rois: Tensor,
    level_index: Tensor,
    strides: Sequence[float],
    *,
    output: int,
    sampling: int = 2,
    half_pixel: bool = False,
) -> Tensor:
    """`pyramid_roi_align` of one image in the form that exports: one operator a level over all boxes.

    Level 0 is the ground, and each further level l is laid over it by `torch.where(level_index == l, ...)`.
    The exporter recognises this chain over one tensor of boxes and can lower it as a whole. Where nothing is
    exported, every box reads its own level only.

    Args:
        levels: float32 [1, C, H_l, W_l] each.
        rois: float32 [R, 4], corner form, network pixels.
        level_index: int64 [R], position in `levels`.
        strides: Network pixels per feature pixel of each level.
        output: Bins along each axis.
        sampling: Samples along each axis of a bin.
        half_pixel: As in `roi_align`.

    Returns:
        float32 [R, C, output, output].
    """
    if not torch.compiler.is_exporting():
        # The same bits; the chain aligns every box on every level.
        with torch.no_grad():
            return pyramid_roi_align(
                levels, rois, level_index, strides, output=output, sampling=sampling, half_pixel=half_pixel
            ).contiguous()
    chosen = level_index.reshape(-1, 1, 1, 1)
    pooled = roi_align_op(levels[0], rois, output, 1.0 / strides[0], sampling, half_pixel)
    for index in range(1, len(levels)):
        here = roi_align_op(levels[index], rois, output, 1.0 / strides[index], sampling, half_pixel)
        pooled = torch.where(chosen == index, here, pooled)
    return pooled

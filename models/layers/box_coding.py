"""Box regression of two-stage detectors (Girshick et al., 2014): shifts in units of the anchor, log sizes.

With weights (wx, wy, ww, wh), centre c and size s of anchor a and box b:

    dx = wx (c_b - c_a) / s_a        dw = ww log(s_b / s_a)

`boxes.encode` is SSD's form, on centre-form priors with variances; here both operands are corner boxes.
"""

from __future__ import annotations

import math

import msgspec
import torch
from torch import Tensor


class BoxCoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How deltas and boxes turn into each other.

    Attributes:
        weights: Factors of dx, dy, dw, dh: (1, 1, 1, 1) for proposals, (10, 10, 5, 5) for detections.
        plus_one: Corners are inclusive (Detectron, UPSNet): a box is x2 - x1 + 1 wide, its centre is
            x1 + width / 2, and it is clipped to 0..size - 1. False: continuous corners, clipped to 0..size.
        size_limit: Largest dw or dh before the exponential: an anchor grows at most 62.5-fold.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    plus_one: bool = False
    size_limit: float = math.log(1000.0 / 16.0)

    @property
    def _one(self) -> float:
        return 1.0 if self.plus_one else 0.0

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Corner boxes [..., 4] against corner anchors [..., 4] -> deltas [..., 4]."""
        sizes, anchor_sizes = self._sizes(boxes), self._sizes(anchors)
        centres, anchor_centres = boxes[..., :2] + sizes / 2, anchors[..., :2] + anchor_sizes / 2
        deltas = torch.cat(
            ((centres - anchor_centres) / anchor_sizes, torch.log(sizes / anchor_sizes)), dim=-1
        )
        return deltas * deltas.new_tensor(self.weights)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Deltas [..., 4] against corner anchors [..., 4] -> corner boxes [..., 4], not clipped."""
        wx, wy, ww, wh = self.weights
        dx, dy, dw, dh = deltas.unbind(dim=-1)
        x1, y1, x2, y2 = anchors.unbind(dim=-1)
        low_x, high_x = self._decode_axis(dx / wx, dw / ww, x1, x2)
        low_y, high_y = self._decode_axis(dy / wy, dh / wh, y1, y2)
        return torch.stack((low_x, low_y, high_x, high_y), dim=-1)

    def _decode_axis(self, shift: Tensor, growth: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        size = high - low + self._one
        centre = low + size * 0.5 + shift * size
        half = torch.exp(growth.clamp(max=self.size_limit)) * size * 0.5
        return centre - half, centre + half - self._one

    def clip(self, boxes: Tensor, extent: tuple[float, float] | Tensor) -> Tensor:
        """Corner boxes [..., 4] held inside the image.

        Args:
            boxes: float [N, ..., 4].
            extent: (height, width) for all, or float [N, 2] for each image.
        """
        if isinstance(extent, Tensor):
            between = (len(extent),) + (1,) * (boxes.ndim - 2)
            height, width = (side.reshape(between) - self._one for side in extent.unbind(dim=1))
            zero = torch.zeros((), dtype=boxes.dtype, device=boxes.device)
            limits = (width, height, width, height)
            sides = [
                torch.minimum(torch.maximum(side, zero), limit)
                for side, limit in zip(boxes.unbind(dim=-1), limits, strict=True)
            ]
        else:
            height, width = extent[0] - self._one, extent[1] - self._one
            limits = (width, height, width, height)
            sides = [
                side.clamp(min=0.0, max=limit)
                for side, limit in zip(boxes.unbind(dim=-1), limits, strict=True)
            ]
        return torch.stack(sides, dim=-1)

    def sides(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Widths and heights [...] of corner boxes [..., 4]."""
        return (
            boxes[..., 2] - boxes[..., 0] + self._one,
            boxes[..., 3] - boxes[..., 1] + self._one,
        )

    def _sizes(self, boxes: Tensor) -> Tensor:
        return boxes[..., 2:] - boxes[..., :2] + self._one

"""Masks pasted into frames as the code bases of Mask R-CNN do it, their steps written out in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgewise.runtime.pixels.paste import paste_box_masks, paste_padded_masks

pytestmark = pytest.mark.usefixtures("one_thread")

FRAME = (180, 250)
SIDE = 28


def some_masks(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth maps and boxes, some of which leave the frame, are tiny or have no extent."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 5, 5, generator=generator)
    masks = torch.sigmoid(3 * F.interpolate(coarse, (SIDE, SIDE), mode="bicubic"))[:, 0]
    low = torch.rand(count, 2, generator=generator) * torch.tensor([270.0, 200.0]) - 20
    sides = torch.rand(count, 2, generator=generator) ** 2 * 150
    sides[0], sides[1, 0] = 0.0, 0.3
    boxes = torch.cat((low, low + sides), dim=1)
    return masks.numpy(), boxes.numpy()


def torchvision_paste(mask: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """One soft mask of the frame: a ring of zeros, the box enlarged as much and cut to whole numbers."""
    padded = F.pad(mask[None, None], (1, 1, 1, 1))
    scale = float(SIDE + 2) / SIDE
    half_w, half_h = (box[2] - box[0]) * 0.5 * scale, (box[3] - box[1]) * 0.5 * scale
    centre_x, centre_y = (box[2] + box[0]) * 0.5, (box[3] + box[1]) * 0.5
    corners = torch.stack((centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h))
    x1, y1, x2, y2 = corners.to(torch.int64).tolist()
    width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    resized = F.interpolate(padded, size=(height, width), mode="bilinear", align_corners=False)[0, 0]
    canvas = torch.zeros(FRAME)
    left, right = max(x1, 0), min(x2 + 1, FRAME[1])
    top, bottom = max(y1, 0), min(y2 + 1, FRAME[0])
    if right > left and bottom > top:
        canvas[top:bottom, left:right] = resized[top - y1 : bottom - y1, left - x1 : right - x1]
    return canvas


def detectron2_paste(mask: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """One soft mask of the frame: every pixel centre samples the mask with zeros around it."""
    x1, y1, x2, y2 = box.tolist()
    across = (torch.arange(FRAME[1], dtype=torch.float64) + 0.5 - x1) / (x2 - x1) * 2 - 1
    down = (torch.arange(FRAME[0], dtype=torch.float64) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)[None]
    return F.grid_sample(mask[None, None].double(), grid, align_corners=False)[0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_masks_of_torchvision_are_its_own(seed):
    masks, boxes = some_masks(24, seed)
    found = paste_padded_masks(masks, boxes, FRAME, 0.5).dense()
    pairs = zip(torch.from_numpy(masks), torch.from_numpy(boxes), strict=True)
    wanted = [torchvision_paste(mask, box) for mask, box in pairs]
    assert sum(bool((soft > 0.5).any()) for soft in wanted) > 12
    for soft, dense in zip(wanted, found, strict=True):
        # float32 may fall on the other side within its own rounding only
        unequal = (soft > 0.5).numpy() != dense
        assert not unequal[(soft - 0.5).abs().numpy() > 1e-6].any()


@pytest.mark.parametrize("seed", range(3))
def test_masks_of_detectron2_are_its_own(seed):
    masks, boxes = some_masks(24, seed)
    found = paste_box_masks(masks, boxes, FRAME, 0.5).dense()
    for mask, box, dense in zip(masks[1:], boxes[1:], found[1:], strict=True):
        soft = detectron2_paste(torch.from_numpy(mask), torch.from_numpy(box))
        unequal = (soft >= 0.5).numpy() != dense
        assert not unequal[(soft - 0.5).abs().numpy() > 1e-6].any()
    assert not found[0].any()

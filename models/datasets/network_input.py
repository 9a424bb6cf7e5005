"""Examples brought to the network's input through the runtime's preprocessing, boxes and masks in step."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.models.example import Example, Image
from edgewise.models.instance_targets import InstanceTargets
from edgewise.runtime.geometry import Geometry
from edgewise.runtime.manifest import Preprocess
from edgewise.runtime.preprocess import preprocess

SMALLEST_SIDE = 4 / 550
"""Objects thinner than this part of the network input are left out of training, as in YOLACT's code."""


def to_network(example: Example, spec: Preprocess) -> tuple[Image, InstanceTargets]:
    """Bring an example to the network's input.

    Returns:
        uint8 [h, w, 3] and the targets in network pixels. Objects that are thinner than `SMALLEST_SIDE` of
        the input, or lose all their mask, are left out.
    """
    tensor, geometry = preprocess(spec, example.frame)
    height, width = geometry.network_size
    boxes = _map_boxes(geometry, example.boxes)
    masks = [_map_mask(geometry, mask) for mask in example.masks]
    sides = (boxes[:, 2:] - boxes[:, :2]) / (width, height)
    kept = [index for index, mask in enumerate(masks) if sides[index].min() >= SMALLEST_SIDE and mask.any()]
    stacked = np.stack([masks[index] for index in kept]) if kept else np.zeros((0, height, width), np.bool_)
    targets = InstanceTargets(
        torch.from_numpy(boxes[kept].astype(np.float32)),
        torch.from_numpy(example.classes[kept]),
        torch.from_numpy(stacked),
        torch.from_numpy(_map_boxes(geometry, example.crowd_boxes).astype(np.float32)),
    )
    return tensor[0], targets


def centred(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """An affine map of continuous pixels as OpenCV wants it, counted from the centre of the first pixel."""
    result = matrix.copy()
    result[:, 2] += 0.5 * result[:, :2].sum(axis=1) - 0.5
    return result


def _map_boxes(geometry: Geometry, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width = geometry.network_size
    corners = geometry.to_network(boxes.reshape(-1, 2, 2)).reshape(-1, 4)
    return np.clip(corners, 0, (width, height, width, height))


def _map_mask(geometry: Geometry, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    height, width = geometry.network_size
    warped = cv2.warpAffine(mask.view(np.uint8) * np.uint8(255), centred(geometry.matrix), (width, height))
    return np.asarray(warped >= 128, np.bool_)

"""Examples brought to the network's input through the runtime's preprocessing, boxes and masks in step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.models.data.example import Example, Image
from edgewise.models.data.instance_targets import InstanceTargets
from edgewise.runtime.contract.preprocessing import Preprocess
from edgewise.runtime.frames.preprocessing import preprocess
from edgewise.runtime.pixels.geometry import Axis, Geometry
from edgewise.runtime.pixels.warp import warp

SMALLEST_SIDE = 4 / 550
"""Objects thinner than this part of the network input are left out of training, as in YOLACT's code."""


def to_network(example: Example, spec: Preprocess) -> tuple[Image, InstanceTargets]:
    """Bring an example to the network's input: uint8 [h, w, 3] and the targets in network pixels."""
    tensor, geometry = preprocess(spec, example.frame)
    return tensor[0], instance_targets(example, geometry)


def instance_targets(example: Example, geometry: Geometry) -> InstanceTargets:
    """The example's objects in network pixels.

    Objects that are thinner than `SMALLEST_SIDE` of the input, or lose all their mask, are left out.
    """
    height, width = geometry.network_size
    boxes = _map_boxes(geometry, example.boxes)
    masks = [_map_mask(geometry, mask) for mask in example.masks]
    sides = (boxes[:, 2:] - boxes[:, :2]) / (width, height)
    kept = [index for index, mask in enumerate(masks) if sides[index].min() >= SMALLEST_SIDE and mask.any()]
    stacked = np.stack([masks[index] for index in kept]) if kept else np.zeros((0, height, width), np.bool_)
    return InstanceTargets(
        torch.from_numpy(boxes[kept].astype(np.float32)),
        torch.from_numpy(example.classes[kept]),
        torch.from_numpy(stacked),
        torch.from_numpy(_map_boxes(geometry, example.crowd_boxes).astype(np.float32)),
        None if example.points is None else _map_points(geometry, example.points[kept]),
    )


def semantic_targets(semantic: NDArray[np.int16], geometry: Geometry) -> torch.Tensor:
    """A class map at network size, int64 [h, w]: the class under the centre of each pixel, -1 outside."""
    horizontal, vertical = geometry.axes()
    padded = np.pad(semantic, 1, constant_values=-1)
    chosen = padded[_positions(vertical)[:, None], _positions(horizontal)[None, :]]
    return torch.from_numpy(chosen.astype(np.int64))


def _positions(axis: Axis) -> NDArray[np.intp]:
    """For each network pixel of an axis the source pixel under its centre, in an array padded by one."""
    centres = np.arange(axis.network_length) + 0.5
    below = np.floor((centres - axis.offset) / axis.scale).astype(np.intp)
    return np.clip(below, -1, axis.source_length) + 1


def _map_boxes(geometry: Geometry, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width = geometry.network_size
    corners = geometry.to_network(boxes.reshape(-1, 2, 2)).reshape(-1, 4)
    return np.clip(corners, 0, (width, height, width, height))


def _map_points(geometry: Geometry, points: NDArray[np.float64]) -> torch.Tensor:
    places = geometry.to_network(points[..., :2])
    return torch.from_numpy(np.concatenate([places, points[..., 2:]], axis=2).astype(np.float32))


def _map_mask(geometry: Geometry, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    shown = warp(mask.view(np.uint8) * np.uint8(255), geometry.matrix, geometry.network_size)
    return np.asarray(shown >= 128, np.bool_)

"""The tensors of a deploy graph as the manifest declares them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgewise.runtime.contract.manifest import DType, TensorSpec

Shape = tuple[int, ...]
Range = tuple[float, float]


def frame_tensor(size: tuple[int, int], meaning: str = "BGR pixels") -> TensorSpec:
    """The camera's bytes at network size (height, width): uint8 [1, H, W, 3]."""
    return _tensor(DType.UINT8, "image", (1, *size, 3), meaning, (0.0, 255.0))


def float_tensor(name: str, shape: Shape, meaning: str, value_range: Range | None = None) -> TensorSpec:
    """A float32 output or probe."""
    return _tensor(DType.FLOAT32, name, shape, meaning, value_range)


def level_tensors(
    name: str, sizes: Sequence[tuple[int, int]], channels: int, meaning: str, *, first: int = 0
) -> list[TensorSpec]:
    """A float map [1, channels, height, width] of every pyramid level; the finest is number `first`."""
    return [
        float_tensor(f"{name}_{level}", (1, channels, *size), f"{meaning}, level {level}")
        for level, size in enumerate(sizes, start=first)
    ]


def int_tensor(name: str, shape: Shape, meaning: str, value_range: Range) -> TensorSpec:
    """An int32 output: indices, labels."""
    return _tensor(DType.INT32, name, shape, meaning, value_range)


def label_map_tensor(name: str, size: tuple[int, int], meaning: str, last: int) -> TensorSpec:
    """A map [1, height, width] of labels 0..last: uint8 where they fit, a quarter of what a device copies."""
    dtype = DType.UINT8 if last <= 255 else DType.INT32
    return _tensor(dtype, name, (1, *size), meaning, (0.0, float(last)))


def label_map(labels: Tensor, last: int) -> Tensor:
    """Labels [h, w] as the output [1, h, w] that `label_map_tensor` declares."""
    return labels[None].to(torch.uint8 if last <= 255 else torch.int32)


def class_tensor(slots: int, count: int) -> TensorSpec:
    """The class of every slot, one of `count`."""
    return int_tensor("classes", (1, slots), "index into the manifest's classes", (0.0, count - 1.0))


def slot_tensors(slots: int, count: int, boxes: str) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
    """Boxes, scores and classes of slots that a score of 0 leaves empty; `boxes` says where boxes lie."""
    return (
        float_tensor("boxes", (1, slots, 4), f"x1, y1, x2, y2 in input pixels, {boxes}"),
        float_tensor("scores", (1, slots), "falling; 0 marks an empty slot", (0.0, 1.0)),
        class_tensor(slots, count),
    )


def settled_tensor(what: str) -> TensorSpec:
    """Whether a fixed number of rounds was enough: 1 where `what` is proven."""
    return int_tensor("settled", (1,), f"1: {what}", (0.0, 1.0))


def _tensor(dtype: DType, name: str, shape: Shape, meaning: str, value_range: Range | None) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape, meaning=meaning, value_range=value_range)

"""The tensors of a deploy graph as the manifest declares them."""

from __future__ import annotations

from edgewise.runtime.contract.manifest import DType, TensorSpec

Shape = tuple[int, ...]
Range = tuple[float, float]


def frame_tensor(size: tuple[int, int], meaning: str = "BGR pixels") -> TensorSpec:
    """The camera's bytes at network size (height, width): uint8 [1, H, W, 3]."""
    return _tensor(DType.UINT8, "image", (1, *size, 3), meaning, (0.0, 255.0))


def float_tensor(name: str, shape: Shape, meaning: str, value_range: Range | None = None) -> TensorSpec:
    """A float32 output or probe."""
    return _tensor(DType.FLOAT32, name, shape, meaning, value_range)


def int_tensor(name: str, shape: Shape, meaning: str, value_range: Range) -> TensorSpec:
    """An int32 output: indices, labels."""
    return _tensor(DType.INT32, name, shape, meaning, value_range)


def class_tensor(slots: int, count: int) -> TensorSpec:
    """The class of every slot, one of `count`."""
    return int_tensor("classes", (1, slots), "index into the manifest's classes", (0.0, count - 1.0))


def settled_tensor(what: str) -> TensorSpec:
    """Whether a fixed number of rounds was enough: 1 where `what` is proven."""
    return int_tensor("settled", (1,), f"1: {what}", (0.0, 1.0))


def _tensor(dtype: DType, name: str, shape: Shape, meaning: str, value_range: Range | None) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape, meaning=meaning, value_range=value_range)

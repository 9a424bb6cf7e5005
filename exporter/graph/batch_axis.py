"""The first axis of a graph's inputs and outputs, which counts the looks of one run: free, or a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgewise.exporter.graph.edit import drop_value_info

if TYPE_CHECKING:
    import onnx


def first_axis(model: onnx.ModelProto, size: int | str) -> None:
    """Set the first axis of every input and output, to a number or to the name of a free size."""
    initialisers = {tensor.name for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        if value.name in initialisers:
            continue
        dimension = value.type.tensor_type.shape.dim[0]
        if isinstance(size, str):
            dimension.dim_param = size
        else:
            dimension.dim_value = size


def has_free_batch(model: onnx.ModelProto) -> bool:
    """Whether the first axis of the inputs is free."""
    return any(
        value.type.tensor_type.shape.dim[0].HasField("dim_param")
        for value in model.graph.input
        if value.type.tensor_type.shape.dim
    )


def fix_batch(model: onnx.ModelProto, looks: int) -> onnx.ModelProto:
    """A copy of a model of free batch for exactly so many looks; a fixed model itself."""
    if not has_free_batch(model):
        return model
    fixed = type(model)()
    fixed.CopyFrom(model)
    drop_value_info(fixed)
    first_axis(fixed, looks)
    return fixed

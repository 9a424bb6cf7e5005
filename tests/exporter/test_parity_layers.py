from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgewise.exporter.graph.inner_tensors import InnerTensors, with_outputs
from edgewise.exporter.parity import first_divergence as walks
from edgewise.exporter.parity.first_divergence import first_divergence, layer_errors
from edgewise.runtime.contract.manifest import DType, TensorSpec
from edgewise.runtime.system.errors import ParityError

DEPTH = 6
INPUTS = (TensorSpec(name="image", dtype=DType.FLOAT32, shape=(1, 4)),)
FEEDS = {"image": np.array([[0.5, -1.0, 2.0, 0.25]], np.float32)}


def chain(change: Callable[[int, np.ndarray], np.ndarray] = lambda layer, weight: weight) -> InnerTensors:
    """image -> layer0 -> layer1 -> ... each a matrix product and Tanh; `top` and `order` come out."""
    generator = np.random.default_rng(3)
    nodes, weights, source = [], [], "image"
    for layer in range(DEPTH):
        weight = change(layer, generator.normal(size=(4, 4)).astype(np.float32))
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{layer}"))
        product = f"product{layer}"
        nodes.append(helper.make_node("MatMul", [source, f"w{layer}"], [product], name=f"net/{layer}/MatMul"))
        source = f"layer{layer}"
        nodes.append(helper.make_node("Tanh", [product], [source], name=f"net/{layer}/Tanh"))
    weights.append(numpy_helper.from_array(np.array([2], np.int64), "k"))
    nodes.append(helper.make_node("TopK", [source, "k"], ["top", "order"], name="decode/TopK"))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, (1, 4))],
        [
            helper.make_tensor_value_info("top", onnx.TensorProto.FLOAT, (1, 2)),
            helper.make_tensor_value_info("order", onnx.TensorProto.INT64, (1, 2)),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return InnerTensors(model.SerializeToString(), where="chain.onnx")


def perturbed(wrong: int) -> InnerTensors:
    return chain(lambda layer, weight: weight * 1.5 if layer == wrong else weight)


def test_equal_models_do_not_diverge() -> None:
    errors = list(layer_errors(chain(), chain(), FEEDS, INPUTS))
    assert [error.depth for error in errors] == list(range(2 * DEPTH + 1))
    assert all(error.relative == 0.0 for error in errors)
    assert first_divergence(errors, 0.0) is None


@pytest.mark.parametrize("wrong", range(DEPTH))
def test_the_first_layer_with_another_weight_is_named(wrong: int) -> None:
    found = first_divergence(layer_errors(perturbed(wrong), chain(), FEEDS, INPUTS), 1e-3)
    assert found is not None
    assert (found.node, found.operator, found.tensor) == (f"net/{wrong}/MatMul", "MatMul", f"product{wrong}")
    assert found.relative == pytest.approx(0.5, rel=1e-5)


def test_a_planted_nan_is_a_divergence() -> None:
    broken = chain(lambda layer, weight: weight * np.nan if layer == 2 else weight)
    found = first_divergence(layer_errors(broken, chain(), FEEDS, INPUTS), 0.5)
    assert found is not None
    assert found.node == "net/2/MatMul"
    assert found.relative == float("inf")


def test_a_small_error_passes_under_a_wide_limit() -> None:
    slightly = chain(lambda layer, weight: weight * 1.001 if layer == 1 else weight)
    assert first_divergence(layer_errors(slightly, chain(), FEEDS, INPUTS), 0.1) is None


def test_chunks_do_not_change_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(layer_errors(perturbed(3), chain(), FEEDS, INPUTS))
    monkeypatch.setattr(walks, "CHUNK_BYTES", 1)
    assert list(layer_errors(perturbed(3), chain(), FEEDS, INPUTS)) == whole


def test_the_walk_can_end_at_the_probes() -> None:
    errors = list(layer_errors(chain(), chain(), FEEDS, INPUTS, within=["layer1"]))
    assert [error.tensor for error in errors] == ["product0", "layer0", "product1", "layer1"]


def test_exposed_models_compute_what_was_asked_and_no_more() -> None:
    inner = chain()
    exposed = with_outputs(inner.model, ["layer1"])
    assert [output.name for output in exposed.graph.output] == ["layer1"]
    assert len(exposed.graph.node) == 4
    assert [tensor.name for tensor in exposed.graph.initializer] == ["w0", "w1"]
    engine = inner.open(["layer1"], INPUTS)
    expected = FEEDS["image"]
    for tensor in exposed.graph.initializer:
        expected = np.tanh(expected @ numpy_helper.to_array(tensor))
    np.testing.assert_allclose(engine.run(FEEDS)["layer1"], expected, rtol=1e-5)


def test_a_tensor_that_a_pass_removed_is_an_error() -> None:
    with pytest.raises(ParityError, match="no float tensor named 'heat'"):
        chain().open(["heat"], INPUTS)


def test_a_file_that_is_no_model_is_an_error() -> None:
    with pytest.raises(ParityError, match="not an ONNX model"):
        InnerTensors(b"\x0anothing", where="broken.onnx")

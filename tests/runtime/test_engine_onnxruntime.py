"""ONNX Runtime opens exactly what the manifest says, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest

from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import DType, TensorSpec
from edgewise.runtime.contract.schedules import KeyEveryN
from edgewise.runtime.engines.base import Engine, check_not_nan, numpy_dtype
from edgewise.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgewise.runtime.engines.opening import open_engine
from edgewise.runtime.engines.options import OnnxRuntimeOptions
from edgewise.runtime.system.errors import BackendError

from .conftest import ONE_THREAD


@pytest.fixture
def engine(bundle_folder: Path) -> OnnxRuntimeEngine:
    opened = open_engine(Bundle.open(bundle_folder), backend=ONE_THREAD)
    assert isinstance(opened, OnnxRuntimeEngine)
    return opened


def image(value: int = 255) -> np.ndarray:
    return np.full((1, 32, 48, 3), value, np.uint8)


def test_runs_the_graph(engine: OnnxRuntimeEngine) -> None:
    outputs = engine.run({"image": image(102)})
    assert list(outputs) == ["boxes", "scores", "classes", "masks"]
    np.testing.assert_allclose(outputs["scores"], [[0.4, 0.2]], rtol=1e-6)
    assert outputs["classes"].dtype == np.int32


def test_outputs_outlive_the_next_run(engine: OnnxRuntimeEngine) -> None:
    first = engine.run({"image": image(255)})
    before = {name: tensor.copy() for name, tensor in first.items()}
    for _ in range(3):
        engine.run({"image": image(0)})
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, before[name])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "missing"),
        ({"image": image(), "more": image()}, "unknown"),
        ({"image": image().astype(np.float32)}, "float32"),
        ({"image": image()[:, :-1]}, "31"),
    ],
)
def test_inputs_that_do_not_fit(engine: OnnxRuntimeEngine, inputs: dict, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        engine.run(inputs)


def test_a_closed_engine_says_so(engine: OnnxRuntimeEngine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        engine.run({"image": image()})


def changed(spec: TensorSpec, **fields: object) -> TensorSpec:
    return msgspec.structs.replace(spec, **fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda specs: [changed(specs[0], name="other"), *specs[1:]], "undeclared"),
        (lambda specs: [changed(specs[0], shape=(1, 3, 4)), *specs[1:]], r"\[1, 2, 4\] in the model"),
        (lambda specs: [changed(specs[0], dtype=DType.FLOAT16), *specs[1:]], "float16"),
        (lambda specs: list(specs[:-1]), "masks"),
    ],
)
def test_a_model_that_is_not_what_the_manifest_declares(
    bundle_folder: Path, change: Callable, message: str
) -> None:
    bundle = Bundle.open(bundle_folder)
    graph = bundle.graph("main")
    with pytest.raises(BackendError, match=message):
        OnnxRuntimeEngine(
            bundle.read("models/fp32.onnx"),
            inputs=graph.inputs,
            outputs=change(graph.outputs),
            where="model",
        )


def test_bytes_that_are_no_model(bundle_folder: Path) -> None:
    graph = Bundle.open(bundle_folder).graph("main")
    with pytest.raises(BackendError, match="cannot open the model"):
        OnnxRuntimeEngine(b"not a model", inputs=graph.inputs, outputs=graph.outputs, where="junk")


def test_cuda_is_never_replaced_by_the_cpu(bundle_folder: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BackendError, match="no CUDAExecutionProvider"):
        open_engine(Bundle.open(bundle_folder), backend=OnnxRuntimeOptions(provider="cuda"))


def test_unknown_options(bundle_folder: Path) -> None:
    with pytest.raises(BackendError, match="no provider is called"):
        open_engine(Bundle.open(bundle_folder), backend=OnnxRuntimeOptions(provider="tpu"))
    with pytest.raises(BackendError, match="threads"):
        open_engine(Bundle.open(bundle_folder), backend=OnnxRuntimeOptions(threads=0))


def test_nan_is_found_and_infinity_is_not_nan() -> None:
    tensors = {"fine": np.array([np.inf, -np.inf, 1.0], np.float32), "count": np.array([1], np.int32)}
    check_not_nan(tensors, where="here", sums={})
    for dtype in (np.float32, np.float16):
        with pytest.raises(BackendError, match="'bad' holds NaN"):
            check_not_nan(tensors | {"bad": np.array([1.0, np.nan], dtype)}, where="here", sums={})


def test_every_dtype_of_the_manifest_has_a_numpy_dtype() -> None:
    assert [numpy_dtype(dtype).name for dtype in DType] == [dtype.value for dtype in DType]


# ---------------------------------------------------------------- state between runs

MEMORY = np.full((1, 1), 0.25, np.float32)


@pytest.fixture
def video(make_video_bundle: Callable[..., Path]) -> dict[str, Engine]:
    bundle = Bundle.open(make_video_bundle(KeyEveryN(key="key", nonkey="nonkey", n=2)))
    return {name: open_engine(bundle, graph=name, backend=ONE_THREAD) for name in ("key", "nonkey")}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype
        np.testing.assert_array_equal(tensor, second[name])


def test_state_stays_with_the_engine_and_is_what_numpy_gives(video: dict[str, Engine]) -> None:
    key, nonkey = video["key"], video["nonkey"]
    held, memory = key.hold(MEMORY), MEMORY
    assert isinstance(held, onnxruntime.OrtValue)
    for value in (255, 51, 0):
        ran = key.step({"image": image(value)}, {"memory": held}, ("next_memory",))
        wanted = key.run({"image": image(value), "memory": memory})
        same(ran.outputs, wanted)
        assert list(ran.held) == ["next_memory"]
        held, memory = ran.held["next_memory"], wanted["next_memory"]
        assert isinstance(held, onnxruntime.OrtValue)
        np.testing.assert_array_equal(held.numpy(), memory)
        reader = nonkey.step({"image": image(value)}, {"memory": held}, ())
        same(reader.outputs, nonkey.run({"image": image(value), "memory": memory}))
        assert reader.held == {}
    assert memory == pytest.approx(np.array([[(((0.25 + 1) / 2 + 0.2) / 2) / 2]]))


def test_held_state_and_outputs_outlive_later_steps(video: dict[str, Engine]) -> None:
    key = video["key"]
    start = MEMORY.copy()
    held = key.hold(start)
    ran = key.step({"image": image(255)}, {"memory": held}, ("next_memory",))
    kept = ran.held["next_memory"].numpy().copy()
    before = {name: tensor.copy() for name, tensor in ran.outputs.items()}
    for _ in range(3):
        key.step({"image": image(0)}, {"memory": ran.held["next_memory"]}, ("next_memory",))
    same(ran.outputs, before)
    np.testing.assert_array_equal(ran.held["next_memory"].numpy(), kept)
    np.testing.assert_array_equal(held.numpy(), MEMORY)


@pytest.mark.parametrize(
    ("inputs", "state", "message"),
    [
        ({}, {"memory": MEMORY}, "missing"),
        ({"image": image()}, {}, "missing"),
        ({"image": image(), "memory": MEMORY}, {"memory": MEMORY}, "unknown"),
        ({"image": image().astype(np.float32)}, {"memory": MEMORY}, "float32"),
        ({"image": image()}, {"memory": np.zeros((1, 2), np.float32)}, "onnxruntime failed"),
        ({"image": image()}, {"memory": np.zeros((1, 1), np.int32)}, "onnxruntime failed"),
        ({"image": image()}, {"memory": MEMORY, "more": MEMORY}, "onnxruntime failed"),
    ],
)
def test_steps_that_do_not_fit(
    video: dict[str, Engine], inputs: dict[str, np.ndarray], state: dict[str, np.ndarray], message: str
) -> None:
    key = video["key"]
    held = {name: key.hold(tensor) for name, tensor in state.items()}
    with pytest.raises(BackendError, match=message):
        key.step(inputs, held, ("next_memory",))


def test_a_closed_engine_steps_no_more(video: dict[str, Engine]) -> None:
    key = video["key"]
    held = key.hold(MEMORY)
    key.close()
    with pytest.raises(BackendError, match="closed"):
        key.step({"image": image()}, {"memory": held}, ())

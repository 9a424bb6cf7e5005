"""The TensorRT backend as far as it goes without a GPU; `tests/exporter/test_build.py` runs it on one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgewise.runtime.engines.base import check_signature
from edgewise.runtime.engines.cuda import find_gpu
from edgewise.runtime.engines.tensorrt import EngineTensor, fill, read_signature, widened
from edgewise.runtime.engines.tensorrt_api import import_tensorrt
from edgewise.runtime.errors import BackendError
from edgewise.runtime.manifest import DType, Target, TensorSpec


@pytest.fixture(scope="module")
def trt() -> Any:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")
    return import_tensorrt(Target.TENSORRT_RTX, verb="run")


class ListedEngine:
    """Stands for an `ICudaEngine`, which does not load without a GPU; the types are TensorRT's own."""

    def __init__(self, **tensors: tuple[Any, Any, tuple[int, ...]]) -> None:
        self._tensors = tensors
        self.num_io_tensors = len(tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name][2]


def test_signature_is_read_by_tensor_name(trt: Any) -> None:
    modes, types = trt.TensorIOMode, trt.DataType
    engine = ListedEngine(
        image=(modes.INPUT, types.UINT8, (1, 8, 8, 3)),
        scores=(modes.OUTPUT, types.FLOAT, (-1, 10)),
        classes=(modes.OUTPUT, types.INT32, (1, 10)),
    )
    assert read_signature(trt, engine, where="an engine") == {
        "image": EngineTensor("input", DType.UINT8, (1, 8, 8, 3)),
        "scores": EngineTensor("output", DType.FLOAT32, (None, 10)),
        "classes": EngineTensor("output", DType.INT32, (1, 10)),
    }


def test_type_that_no_manifest_knows_is_refused(trt: Any) -> None:
    engine = ListedEngine(x=(trt.TensorIOMode.OUTPUT, trt.DataType.BF16, (1,)))
    with pytest.raises(BackendError, match="no manifest can declare"):
        read_signature(trt, engine, where="an engine")


def test_tensorrt_without_tensor_names_is_too_old(trt: Any) -> None:
    with pytest.raises(BackendError, match="too old"):
        read_signature(trt, SimpleNamespace(num_bindings=2), where="an engine")


def test_int64_is_int32_where_tensorrt_has_no_int64() -> None:
    declared = (TensorSpec(name="ids", dtype=DType.INT64, shape=(1, 4)),)
    found = {"ids": (DType.INT32, (1, 4))}
    check_signature(declared, widened(found, declared), role="output", where="an engine")
    with pytest.raises(BackendError, match="int32"):
        check_signature(declared, found, role="output", where="an engine")
    only32 = (TensorSpec(name="ids", dtype=DType.INT32, shape=(1, 4)),)
    assert widened(found, only32) == found


def test_inputs_are_copied_and_int64_is_narrowed_only_where_it_fits() -> None:
    host = np.zeros(3, np.int32)
    fill(host, np.array([1, -2, 2**31 - 1], np.int64), name="ids", where="an engine")
    assert host.tolist() == [1, -2, 2**31 - 1]
    with pytest.raises(BackendError, match="do not fit int32"):
        fill(host, np.array([0, 0, 2**31], np.int64), name="ids", where="an engine")
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    pinned = np.zeros_like(image)
    fill(pinned, image, name="image", where="an engine")
    assert (pinned == image).all()


def test_gpu_without_pycuda_says_how_to_install_it() -> None:
    try:
        import pycuda.driver  # noqa: F401
    except ImportError:
        with pytest.raises(BackendError, match="pycuda cannot be imported") as caught:
            find_gpu()
        assert "pip install pycuda" in caught.value.hint
    else:
        pytest.skip("pycuda is installed here")


def test_gpu_that_does_not_exist_is_refused() -> None:
    pytest.importorskip("pycuda.driver", reason="pycuda is not installed")
    with pytest.raises(BackendError):
        find_gpu(1000)

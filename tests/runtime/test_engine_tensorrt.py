"""The TensorRT backend as far as it goes without a GPU; `tests/exporter/test_build.py` runs it on one."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgewise.runtime.contract.manifest import DType, Target, TensorSpec
from edgewise.runtime.engines.base import check_signature
from edgewise.runtime.engines.cuda import CudaContext, Gpu, find_gpu
from edgewise.runtime.engines.tensorrt import EngineTensor, TensorRTEngine, fill, read_signature, widened
from edgewise.runtime.engines.tensorrt_api import import_tensorrt
from edgewise.runtime.system.errors import BackendError


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


def has_gpu() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_gpu(), reason="there is a driver here")
def test_gpu_without_a_driver_says_what_is_missing() -> None:
    with pytest.raises(BackendError, match="driver's library does not load") as caught:
        find_gpu()
    assert "onnxruntime" in caught.value.hint


@pytest.mark.skipif(not has_gpu(), reason="there is no driver here")
def test_gpu_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BackendError):
        find_gpu(1000)


class PretendedDriver:
    """`libcuda` as far as `find_gpu` calls it: two GPUs, the second an Orin in a small power mode."""

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = 70 + index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: int) -> int:
        name.value = {71: b"Orin"}[device]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:
        value._obj.value = {16: 4, 75: 8, 76: 7}[attribute]
        return 0


def test_gpu_is_described_without_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = PretendedDriver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    gpu = find_gpu(1)
    assert gpu == Gpu(1, "Orin", "sm87", 4)
    assert gpu.tuned_for == "Orin, 4 multiprocessors"
    with pytest.raises(BackendError, match="no GPU 2"):
        find_gpu(2)
    monkeypatch.setattr(driver, "cuInit", lambda flags: 100)
    with pytest.raises(BackendError, match="cuInit gives error 100"):
        find_gpu()


def test_context_without_pycuda_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.delitem(sys.modules, "pycuda.driver", raising=False)
    with pytest.raises(BackendError, match="pycuda cannot be imported") as caught:
        CudaContext()
    assert "pip install pycuda" in caught.value.hint


# ---------------------------------------------------------------- the order of calls, on a pretended device


class PretendedDevice:
    """`pycuda.driver` over host memory. It refuses what pycuda refuses: use without a current context."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        self.depth = self.deepest = 0
        self.allocated: dict[int, PretendedMemory] = {}
        self.queue: list[Callable[[], None]] = []
        self.Context = SimpleNamespace(pop=self._pop)
        self.Device = PretendedGpus(self)

    def init(self) -> None: ...

    def _push(self) -> None:
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)

    def _pop(self) -> None:
        assert self.depth > 0
        self.depth -= 1

    def _need_context(self) -> None:
        if self.depth == 0:
            raise self.Error("invalid device context")

    def Stream(self) -> Any:
        self._need_context()
        return SimpleNamespace(handle=7, synchronize=self._drain)

    def _drain(self) -> None:
        self._need_context()
        for work in self.queue:
            work()
        self.queue.clear()

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        self._need_context()
        return np.full(shape, 99, dtype)

    def mem_alloc(self, size: int) -> PretendedMemory:
        self._need_context()
        memory = PretendedMemory(self, 4096 * (len(self.allocated) + 1), size)
        self.allocated[int(memory)] = memory
        return memory

    def memcpy_htod_async(self, memory: PretendedMemory, host: np.ndarray, stream: Any) -> None:
        self._need_context()
        self.queue.append(
            lambda: memory.data.__setitem__(slice(host.nbytes), np.frombuffer(host.tobytes(), np.uint8))
        )

    def memcpy_dtoh_async(self, host: np.ndarray, memory: PretendedMemory, stream: Any) -> None:
        self._need_context()
        self.queue.append(
            lambda: np.copyto(host, memory.data[: host.nbytes].view(host.dtype).reshape(host.shape))
        )


class PretendedGpus:
    """`pycuda.driver.Device`."""

    def __init__(self, device: PretendedDevice) -> None:
        self._context = SimpleNamespace(push=device._push)

    def count(self) -> int:
        return 1

    def __call__(self, index: int) -> Any:
        return SimpleNamespace(
            name=lambda: "a pretended GPU",
            compute_capability=lambda: (8, 6),
            retain_primary_context=lambda: self._context,
        )


class PretendedMemory:
    def __init__(self, device: PretendedDevice, address: int, size: int) -> None:
        self.device, self.address, self.data = device, address, np.zeros(size, np.uint8)

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.device._need_context()
        del self.device.allocated[self.address]


class PretendedTensorRT:
    """A TensorRT whose only engine gives the sum of every image; its names are those of the real wheel.

    Args:
        looks: What the engine was built for; -1 leaves its first axis free.
        most: The most that the profile of a free axis allows.
    """

    def __init__(
        self, real: Any, device: PretendedDevice, *, fail: str = "", looks: int = -1, most: int = 1
    ) -> None:
        self._looks, self._most = looks, most
        self.ILogger, self.TensorIOMode, self.DataType = real.ILogger, real.TensorIOMode, real.DataType
        self.__version__ = "1.2.3"
        self._device, self._fail = device, fail
        self.plugin_loggers: list[Any] = []
        self.launches: list[int] = []

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> bool:
        assert namespace == ""
        self.plugin_loggers.append(logger)
        return self._fail != "plugins"

    def Runtime(self, logger: Any) -> Any:
        assert len(self.plugin_loggers) == 1, "the registry is filled once, before an engine is read"

        def deserialise(plan: bytes) -> Any:
            if plan != b"a plan":
                logger.log(self.ILogger.Severity.ERROR, "magic tag does not match")
                return None
            engine = ListedEngine(
                image=(self.TensorIOMode.INPUT, self.DataType.UINT8, (self._looks, 2, 2, 3)),
                total=(self.TensorIOMode.OUTPUT, self.DataType.INT32, (self._looks, 1)),
            )
            one, most = (1, 2, 2, 3), (self._most, 2, 2, 3)
            engine.get_tensor_profile_shape = lambda name, profile: (one, most, most)  # type: ignore[attr-defined]
            engine.create_execution_context = self._context  # type: ignore[attr-defined]
            return engine

        return SimpleNamespace(deserialize_cuda_engine=deserialise)

    def _context(self) -> Any:
        addresses: dict[str, int] = {}
        shapes: dict[str, tuple[int, ...]] = {}

        def execute(stream: int) -> bool:
            assert stream == 7
            looks = self._looks if self._looks > 0 else shapes["image"][0]
            self.launches.append(looks)
            image, total = (self._device.allocated[addresses[name]] for name in ("image", "total"))

            def compute() -> None:
                sums = image.data[: looks * 12].reshape(looks, 12).sum(axis=1, dtype=np.int32)
                total.data[: sums.nbytes] = np.frombuffer(sums.tobytes(), np.uint8)
                self.given = image.data[: looks * 12].copy()

            self._device.queue.append(compute)
            return not self._fail

        def take(kind: str, values: dict[str, Any]) -> Callable[[str, Any], bool]:
            return lambda name, value: self._fail != kind and values.update({name: value}) is None

        return SimpleNamespace(
            set_input_shape=take("shape", shapes),
            set_tensor_address=take("address", addresses),
            execute_async_v3=execute,
        )


DECLARED_IMAGE = TensorSpec(name="image", dtype=DType.UINT8, shape=(1, 2, 2, 3))
DECLARED_TOTAL = TensorSpec(name="total", dtype=DType.INT32, shape=(1, 1))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> PretendedDevice:
    pretended = PretendedDevice()
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=pretended))
    monkeypatch.setitem(sys.modules, "pycuda.driver", pretended)
    return pretended


def open_pretended(
    trt: Any,
    device: PretendedDevice,
    *,
    plan: bytes = b"a plan",
    fail: str = "",
    total: TensorSpec = DECLARED_TOTAL,
) -> TensorRTEngine:
    return TensorRTEngine(
        plan,
        PretendedTensorRT(trt, device, fail=fail),
        inputs=[DECLARED_IMAGE],
        outputs=[total],
        where="an engine",
        name="pretended",
    )


def test_run_copies_in_and_out_and_leaves_no_context_behind(trt: Any, device: PretendedDevice) -> None:
    engine = open_pretended(trt, device)
    first = engine.run({"image": np.full((1, 2, 2, 3), 10, np.uint8)})["total"]
    second = engine.run({"image": np.full((1, 2, 2, 3), 1, np.uint8)})["total"]
    assert (first.tolist(), second.tolist()) == ([[120]], [[12]])
    assert (first.dtype, device.depth, device.deepest, device.queue) == (np.int32, 0, 1, [])


def pretended_batch(
    trt: Any, device: PretendedDevice, *, looks: int, batch: int = 4
) -> tuple[TensorRTEngine, PretendedTensorRT]:
    pretended = PretendedTensorRT(trt, device, looks=looks, most=batch)
    return (
        TensorRTEngine(
            b"a plan",
            pretended,
            inputs=[DECLARED_IMAGE],
            outputs=[DECLARED_TOTAL],
            batch=batch,
            where="an engine",
            name="pretended",
        ),
        pretended,
    )


@pytest.mark.parametrize("looks", [-1, 1, 3, 4])
def test_an_engine_runs_any_number_up_to_its_batch(trt: Any, device: PretendedDevice, looks: int) -> None:
    """A free engine launches what there is; one of exactly so many is filled up with the last look."""
    engine, pretended = pretended_batch(trt, device, looks=looks)
    assert engine.batch == (4 if looks < 0 else looks)
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    for count in (engine.batch, 1, engine.batch):
        totals = engine.run({"image": images[:count]})["total"]
        assert totals.tolist() == [[12 * value] for value in range(count)]
        assert pretended.launches[-1] == (count if looks < 0 else looks)
        assert pretended.given.reshape(-1, 12)[count:].tolist() == [[count - 1] * 12] * (
            pretended.launches[-1] - count
        )
    for count in (0, engine.batch + 1):
        with pytest.raises(BackendError, match=r"looks are given|is uint8"):
            engine.run({"image": images[:count]})
    engine.close()
    assert device.allocated == {}


def test_an_engine_of_more_looks_than_the_bundle_is_refused(trt: Any, device: PretendedDevice) -> None:
    with pytest.raises(BackendError, match="the engine takes 5 looks, the manifest says 4"):
        pretended_batch(trt, device, looks=5)


def test_engine_runs_in_another_thread_than_it_was_opened_in(trt: Any, device: PretendedDevice) -> None:
    engine = open_pretended(trt, device)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(engine.run, {"image": np.ones((1, 2, 2, 3), np.uint8)}).result(10)
    assert result["total"].tolist() == [[12]]


def test_engine_whose_plugins_do_not_load_is_not_read(trt: Any, device: PretendedDevice) -> None:
    with pytest.raises(BackendError, match="plugins cannot be registered"):
        open_pretended(trt, device, fail="plugins")
    assert (device.allocated, device.depth) == ({}, 0)


def test_close_frees_everything_once(trt: Any, device: PretendedDevice) -> None:
    engine = open_pretended(trt, device)
    assert len(device.allocated) == 2
    engine.close()
    engine.close()
    assert (device.allocated, device.depth) == ({}, 0)
    with pytest.raises(BackendError, match="closed"):
        engine.run({"image": np.ones((1, 2, 2, 3), np.uint8)})


def test_close_after_an_error_that_ended_the_context_hides_nothing(
    trt: Any, device: PretendedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An illegal address in a kernel makes every later call of the process fail, those that free included."""
    engine = open_pretended(trt, device)

    def refuse(*arguments: object) -> None:
        raise device.Error("an illegal memory access was encountered")

    def run() -> None:
        try:
            engine.run({"image": np.ones((1, 2, 2, 3), np.uint8)})
        finally:
            for owner, name in (
                (device.Context, "pop"), (device, "_push"), (PretendedMemory, "free"), (device, "_drain")
            ):  # fmt: skip
                monkeypatch.setattr(owner, name, refuse)
            engine.close()

    monkeypatch.setattr(device, "memcpy_dtoh_async", lambda *arguments: refuse())
    with pytest.raises(BackendError, match="CUDA failed: an illegal memory access") as caught:
        run()
    assert caught.value.__context__ is caught.value.__cause__, "nothing was raised on top of it"
    with pytest.raises(BackendError, match="closed"):
        engine.run({"image": np.ones((1, 2, 2, 3), np.uint8)})


def test_an_error_while_the_context_is_left_does_not_hide_the_first(
    trt: Any, device: PretendedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_pretended(trt, device)

    def refuse(*arguments: object) -> None:
        raise device.Error("the second error" if arguments == () else "the first error")

    monkeypatch.setattr(device, "memcpy_htod_async", refuse)
    monkeypatch.setattr(device.Context, "pop", refuse)
    with pytest.raises(BackendError, match="the first error"):
        engine.run({"image": np.ones((1, 2, 2, 3), np.uint8)})


@pytest.mark.parametrize(("fail", "spec"), [("shape", "image"), ("address", "image")])
def test_a_shape_or_an_address_that_tensorrt_does_not_take_is_an_error(
    trt: Any, device: PretendedDevice, fail: str, spec: str
) -> None:
    with pytest.raises(BackendError, match=f"does not take tensor '{spec}'"):
        open_pretended(trt, device, fail=fail)
    assert (device.allocated, device.depth) == ({}, 0)


def test_engine_of_another_tensorrt_is_refused_with_its_reason(trt: Any, device: PretendedDevice) -> None:
    with pytest.raises(BackendError, match="magic tag") as caught:
        open_pretended(trt, device, plan=b"something else")
    assert "edgewise build" in caught.value.hint
    assert (device.allocated, device.depth) == ({}, 0)


def test_engine_with_other_tensors_is_refused(trt: Any, device: PretendedDevice) -> None:
    other = TensorSpec(name="total", dtype=DType.FLOAT32, shape=(1, 1))
    with pytest.raises(BackendError, match="float32"):
        open_pretended(trt, device, total=other)
    assert (device.allocated, device.depth) == ({}, 0)


@pytest.mark.parametrize("image", [np.ones((1, 2, 2, 3), np.float32), np.ones((1, 2, 3, 3), np.uint8)])
def test_inputs_of_another_type_or_shape_are_refused(
    trt: Any, device: PretendedDevice, image: np.ndarray
) -> None:
    with pytest.raises(BackendError, match="image"):
        open_pretended(trt, device).run({"image": image})


def test_failed_run_and_cuda_error_are_reported_and_the_context_popped(
    trt: Any, device: PretendedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = {"image": np.ones((1, 2, 2, 3), np.uint8)}
    with pytest.raises(BackendError, match="TensorRT failed"):
        open_pretended(trt, device, fail="yes").run(image)
    engine = open_pretended(trt, device)

    def refuse(*arguments: object) -> None:
        raise device.Error("out of memory")

    monkeypatch.setattr(device, "memcpy_htod_async", refuse)
    with pytest.raises(BackendError, match="CUDA failed: out of memory"):
        engine.run(image)
    assert device.depth == 0

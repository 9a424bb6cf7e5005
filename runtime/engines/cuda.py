"""The GPU: what it is, by the driver's library alone, and one primary context, buffers and streams by pycuda.

TensorRT uses the device's primary context, so this does too. pycuda keeps a stack of contexts per thread:
everything that touches the GPU stands inside `with context.active()`, in whatever thread it runs, and memory
is freed there as well.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from edgewise.runtime.engines.base import Tensor
from edgewise.runtime.system.errors import BackendError
from edgewise.runtime.system.power import power_mode

INSTALL_PYCUDA = (
    "pip install pycuda; it compiles, so the CUDA toolkit must be installed and its bin folder on PATH "
    "(on a Jetson: export PATH=/usr/local/cuda/bin:$PATH)"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine.

    Attributes:
        compute_capability: Written `sm86`.
        multiprocessors: Those that are switched on: a Jetson's power modes change their number, and every
            Orin calls itself `Orin`.
        power_mode: A Jetson's, which changes clocks too; empty elsewhere.
    """

    index: int
    name: str
    compute_capability: str
    multiprocessors: int
    power_mode: str = ""

    @property
    def tuned_for(self) -> str:
        """What kernels that were timed here fit."""
        mode = f", power mode {self.power_mode}" if self.power_mode else ""
        return f"{self.name}, {self.multiprocessors} multiprocessors{mode}"


_MAJOR, _MINOR, _MULTIPROCESSORS = 75, 76, 16
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR and CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT."""


def find_gpu(index: int = 0) -> Gpu:
    """Describe a GPU of this machine; needs its driver and nothing else.

    Raises:
        BackendError: There is no driver, or no such GPU.
    """
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise _unusable(f"the driver's library does not load: {error}") from None

    def call(function: str, *arguments: Any) -> None:
        code = getattr(library, function)(*arguments)
        if code != 0:
            raise _unusable(f"{function} gives error {code}")

    def number(function: str, *arguments: Any) -> int:
        value = ctypes.c_int()
        call(function, ctypes.byref(value), *arguments)
        return value.value

    call("cuInit", 0)
    _require_gpu(index, number("cuDeviceGetCount"))
    device = number("cuDeviceGet", index)
    name = ctypes.create_string_buffer(256)
    call("cuDeviceGetName", name, len(name), device)
    major, minor, multiprocessors = (
        number("cuDeviceGetAttribute", attribute, device) for attribute in (_MAJOR, _MINOR, _MULTIPROCESSORS)
    )
    return Gpu(index, name.value.decode(), f"sm{major}{minor}", multiprocessors, power_mode())


def _unusable(reason: str) -> BackendError:
    return BackendError(
        f"no CUDA device can be used: {reason}",
        hint="this backend needs an NVIDIA GPU and its driver; `--backend onnxruntime` needs none",
    )


def _require_gpu(index: int, count: int) -> None:
    if count == 0:
        raise _unusable("the driver finds none")
    if not 0 <= index < count:
        raise BackendError(f"there is no GPU {index}", hint=f"this machine has {count}, counted from 0")


def _driver() -> Any:
    try:
        return import_module("pycuda.driver")
    except ImportError as error:
        raise BackendError(f"pycuda cannot be imported: {error}", hint=INSTALL_PYCUDA) from None


def _device(driver: Any, index: int) -> Any:
    try:
        driver.init()
        count = int(driver.Device.count())
    except driver.Error as error:
        raise _unusable(str(error)) from None
    _require_gpu(index, count)
    return driver.Device(index)


class CudaContext:
    """The primary context of one GPU.

    Raises:
        BackendError: pycuda is not installed, or there is no such GPU.
    """

    def __init__(self, index: int = 0) -> None:
        self._driver = _driver()
        self._context: Any = _device(self._driver, index).retain_primary_context()

    @contextmanager
    def active(self) -> Generator[None]:
        """Make the context current in this thread for the block.

        Raises:
            BackendError: A CUDA call in the block failed, or the context is closed.
        """
        if self._context is None:
            raise BackendError("the CUDA context is closed", hint="open the session again")
        try:
            self._context.push()
            try:
                yield
            finally:
                # After an error in a kernel every call fails, this one too; the first says what happened.
                with suppress(self._driver.Error):
                    self._driver.Context.pop()
        except self._driver.Error as error:
            raise BackendError(f"CUDA failed: {error}", hint="`edgewise doctor` checks the GPU") from error

    def stream(self) -> Any:
        """A new stream; call inside `active`."""
        return self._driver.Stream()

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> TensorBuffer:
        """A pinned host array and its device memory; call inside `active`."""
        host: Tensor = self._driver.pagelocked_empty(shape, dtype)
        return TensorBuffer(self._driver, host, self._driver.mem_alloc(max(host.nbytes, 1)))

    def close(self) -> None:
        """Release the context; call outside `active`, after everything made in it was freed."""
        self._context = None


class TensorBuffer:
    """One tensor on both sides: `host` is pinned, so that copies run on a stream."""

    def __init__(self, driver: Any, host: Tensor, device: Any) -> None:
        self._driver = driver
        self._device: Any = device
        self.host = host

    @property
    def address(self) -> int:
        """The device address."""
        return int(self._device)

    def first(self, rows: int | None) -> Tensor:
        """The first rows of the host's array; all of it where None."""
        return self.host if rows is None else self.host[:rows]

    def upload(self, stream: Any, rows: int | None = None) -> None:
        """Queue the copy from host to device, of all or of the first rows."""
        self._driver.memcpy_htod_async(self._device, self.first(rows), stream)

    def download(self, stream: Any, rows: int | None = None) -> None:
        """Queue the copy from device to host; the host array is valid after the stream is synchronised."""
        self._driver.memcpy_dtoh_async(self.first(rows), self._device, stream)

    def free(self) -> None:
        """Free the device memory; call inside `active`. A context that an error has ended holds none."""
        with suppress(self._driver.Error):
            self._device.free()

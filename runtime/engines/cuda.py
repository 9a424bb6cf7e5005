"""The GPU through pycuda: one primary context, pinned host buffers, device buffers, streams.

TensorRT uses the device's primary context, so this does too. pycuda keeps a stack of contexts per thread:
everything that touches the GPU stands inside `with context.active()`, in whatever thread it runs, and memory
is freed there as well.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from edgewise.runtime.engines.base import Tensor
from edgewise.runtime.system.errors import BackendError

INSTALL_PYCUDA = (
    "pip install pycuda; it compiles, so the CUDA toolkit must be installed and its bin folder on PATH "
    "(on a Jetson: export PATH=/usr/local/cuda/bin:$PATH)"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine. `compute_capability` is written `sm86`."""

    index: int
    name: str
    compute_capability: str


def find_gpu(index: int = 0) -> Gpu:
    """Describe a GPU of this machine.

    Raises:
        BackendError: pycuda is not installed, or there is no such GPU.
    """
    device = _device(_driver(), index)
    major, minor = device.compute_capability()
    return Gpu(index, str(device.name()), f"sm{major}{minor}")


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
        raise BackendError(
            f"no CUDA device can be used: {error}",
            hint="this backend needs an NVIDIA GPU and its driver; `--backend onnxruntime` needs none",
        ) from None
    if not 0 <= index < count:
        raise BackendError(f"there is no GPU {index}", hint=f"this machine has {count}, counted from 0")
    return driver.Device(index)


class CudaContext:
    """The primary context of one GPU.

    Raises:
        BackendError: As `find_gpu`.
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
        self._context.push()
        try:
            yield
        except self._driver.Error as error:
            raise BackendError(f"CUDA failed: {error}", hint="`edgewise doctor` checks the GPU") from error
        finally:
            self._driver.Context.pop()

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

    def upload(self, stream: Any) -> None:
        """Queue the copy from host to device."""
        self._driver.memcpy_htod_async(self._device, self.host, stream)

    def download(self, stream: Any) -> None:
        """Queue the copy from device to host; the host array is valid after the stream is synchronised."""
        self._driver.memcpy_dtoh_async(self.host, self._device, stream)

    def free(self) -> None:
        """Free the device memory; call inside `active`."""
        self._device.free()

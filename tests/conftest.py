"""Marks and limits that hold for the whole suite."""

from __future__ import annotations

import os
import signal

import pytest

# Two cores: a second thread pool beside the running one only makes both slower.
os.environ.setdefault("OMP_NUM_THREADS", "2")

# A suite started in the background inherits an ignored Ctrl-C, and so would the commands it interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and (reason := _no_gpu()):
        pytest.skip(reason)


def _no_gpu() -> str:
    """Why GPU tests cannot run here, or an empty string where they can."""
    try:
        import pycuda.driver as cuda
    except ImportError:
        return "pycuda is not installed"
    try:
        cuda.init()
    except cuda.Error as error:
        return f"no CUDA device: {error}"
    return "" if cuda.Device.count() else "no CUDA device"

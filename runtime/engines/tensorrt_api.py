"""What TensorRT 8.6, 10, 11 and TensorRT-RTX share, found by import and `hasattr`.

The four differ little in their Python names; `docs/engines.md` holds the table. Nothing here needs a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from edgewise.runtime.contract.manifest import DType, Target
from edgewise.runtime.system.errors import BackendError, MissingExtraError

_MODULES = {
    Target.TENSORRT: ("tensorrt",),
    Target.TENSORRT_RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_EXTRAS = {Target.TENSORRT: "tensorrt", Target.TENSORRT_RTX: "rtx"}

_DTYPES = {
    "FLOAT": DType.FLOAT32,
    "HALF": DType.FLOAT16,
    "INT8": DType.INT8,
    "UINT8": DType.UINT8,
    "INT32": DType.INT32,
    "INT64": DType.INT64,
    "BOOL": DType.BOOL,
}

ERROR, WARNING, INFO, VERBOSE = "error", "warning", "info", "verbose"
_PLUGIN_LOGGERS: list[Any] = []

Listener = Callable[[str, str], None]
"""Called with the severity and the text of each message."""


def import_tensorrt(target: Target, *, verb: str) -> Any:
    """The Python module of a target.

    Args:
        verb: The command that needs it, for the message.

    Raises:
        MissingExtraError: It is not installed.
        BackendError: It is installed and does not load (a library of CUDA or the driver is missing).
    """
    for name in _MODULES[target]:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise _broken(name, error) from None
        except Exception as error:
            raise _broken(name, error) from None
    raise MissingExtraError(verb, _EXTRAS[target], module=_MODULES[target][0])


def _broken(name: str, error: Exception) -> BackendError:
    return BackendError(
        f"{name} is installed but does not load: {error}",
        hint="its version must fit the CUDA libraries of this machine; `edgewise doctor` lists both",
    )


def make_logger(trt: Any, listener: Listener) -> Any:
    """A TensorRT logger that hands every message to `listener`, VERBOSE ones included.

    Keep it alive as long as whatever was made with it.
    """
    severity = trt.ILogger.Severity
    names = {
        severity.INTERNAL_ERROR: ERROR,
        severity.ERROR: ERROR,
        severity.WARNING: WARNING,
        severity.INFO: INFO,
    }

    def construct(self: Any) -> None:
        trt.ILogger.__init__(self)

    def log(self: Any, level: Any, message: str) -> None:
        listener(names.get(level, VERBOSE), message)

    return type("EdgewiseLogger", (trt.ILogger,), {"__init__": construct, "log": log})()


@cache
def register_plugins(trt: Any) -> None:
    """Fill TensorRT's plugin registry, once a process; call before parsing and before deserialising.

    The parser makes a plugin of RoiAlign. Up to TensorRT 9 it filled the registry itself, since 10 it does
    not, and no version does so before it deserialises. TensorRT keeps the logger for good, so this does too.

    Raises:
        BackendError: TensorRT cannot load its plugins.
    """
    if not hasattr(trt, "init_libnvinfer_plugins"):
        return
    errors: list[str] = []
    logger = make_logger(trt, lambda level, message: errors.append(message) if level == ERROR else None)
    _PLUGIN_LOGGERS.append(logger)
    if not trt.init_libnvinfer_plugins(logger, ""):
        raise BackendError(
            f"TensorRT's plugins cannot be registered: {errors[0] if errors else 'no reason was given'}",
            hint="install TensorRT again, with its plugin library",
        )


def manifest_dtype(dtype: Any) -> DType | None:
    """The manifest's dtype of a `tensorrt.DataType`; None for those that no manifest can declare."""
    return _DTYPES.get(dtype.name)


def has_int64(trt: Any) -> bool:
    """Whether tensors can be INT64 (TensorRT 10 and later); before, the parser makes them INT32."""
    return hasattr(trt.DataType, "INT64")

"""How an engine is opened: one type a backend."""

from __future__ import annotations

from dataclasses import dataclass

from edgewise.runtime.contract.manifest import Precision, Target
from edgewise.runtime.system.errors import BackendError


@dataclass(frozen=True)
class OnnxRuntimeOptions:
    """ONNX Runtime.

    Attributes:
        threads: Threads inside one operator; None takes the cores that this process may use.
        provider: `cpu`, or `cuda` where onnxruntime-gpu is installed.
    """

    threads: int | None = None
    provider: str = "cpu"

    @property
    def target(self) -> Target:
        """Whose lowered file is run."""
        return Target.ONNXRUNTIME


@dataclass(frozen=True)
class TensorRTOptions:
    """An engine that was built on this machine.

    Attributes:
        target: `tensorrt` or `tensorrt-rtx`.
    """

    target: Target = Target.TENSORRT


ONNXRUNTIME = OnnxRuntimeOptions()
"""On the CPU, with the cores that this process may use."""

EngineOptions = OnnxRuntimeOptions | TensorRTOptions
Backend = str | Target | EngineOptions
"""A backend by its name, or with options."""


def as_options(backend: Backend) -> EngineOptions:
    """The options of a backend that was named, its defaults; BackendError lists the known names."""
    if isinstance(backend, (OnnxRuntimeOptions, TensorRTOptions)):
        return backend
    return engine_options(backend)


def engine_options(
    backend: str | Target, *, threads: int | None = None, provider: str | None = None
) -> EngineOptions:
    """The options of a backend from what a command line says of it.

    Raises:
        BackendError: An unknown backend, or an option that it does not have.
    """
    try:
        target = Target(backend)
    except ValueError:
        names = ", ".join(known.value for known in Target)
        raise BackendError(f"no backend is called {backend!r}", hint=f"choose one of {names}") from None
    if target is Target.ONNXRUNTIME:
        return OnnxRuntimeOptions(threads, provider or "cpu")
    if threads is not None or provider not in (None, "cpu"):
        raise BackendError(
            f"provider and threads are options of onnxruntime, not of {target.value}", hint="leave them out"
        )
    return TensorRTOptions(target)


def as_precision(precision: str | Precision) -> Precision:
    """The precision of a name; BackendError lists the known ones."""
    try:
        return Precision(precision)
    except ValueError:
        names = ", ".join(known.value for known in Precision)
        raise BackendError(f"no precision is called {precision!r}", hint=f"choose one of {names}") from None

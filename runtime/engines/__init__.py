"""Inference engines behind one protocol (`base.Engine`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgewise.runtime.contract.manifest import Precision, Target
from edgewise.runtime.engines.base import Engine as Engine
from edgewise.runtime.system.errors import BackendError

if TYPE_CHECKING:
    from edgewise.runtime.contract.bundle import Bundle


def open_engine(
    bundle: Bundle,
    *,
    graph: str = "main",
    backend: Target = Target.ONNXRUNTIME,
    precision: Precision = Precision.FP32,
    threads: int | None = None,
    provider: str = "cpu",
) -> Engine:
    """Open one graph of a bundle on one backend in one precision. Nothing falls back to anything else.

    Args:
        graph: Name in `manifest.graphs`.
        threads: Threads of the CPU backend; None takes the cores that this process may use.
        provider: `cpu` or `cuda`, for ONNX Runtime only.

    Raises:
        BackendError: The bundle has no such file, the backend is not installed, or it cannot run the graph.
        BundleError: The file is missing or changed.
    """
    if backend is Target.ONNXRUNTIME:
        from edgewise.runtime.engines.onnxruntime import open_onnxruntime

        return open_onnxruntime(bundle, graph=graph, precision=precision, threads=threads, provider=provider)
    if provider != "cpu" or threads is not None:
        raise BackendError(
            f"provider and threads are options of onnxruntime, not of {backend.value}",
            hint="leave them out",
        )
    from edgewise.runtime.engines.tensorrt import open_tensorrt

    return open_tensorrt(bundle, graph=graph, target=backend, precision=precision)

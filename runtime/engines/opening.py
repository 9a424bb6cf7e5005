"""Open one graph of a bundle on one backend in one precision, or raise: nothing falls back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgewise.runtime.contract.manifest import Precision
from edgewise.runtime.engines.base import Engine
from edgewise.runtime.engines.options import ONNXRUNTIME, Backend, OnnxRuntimeOptions, as_options

if TYPE_CHECKING:
    from edgewise.runtime.contract.bundle import Bundle


def open_engine(
    bundle: Bundle,
    *,
    graph: str = "main",
    precision: Precision = Precision.FP32,
    backend: Backend = ONNXRUNTIME,
) -> Engine:
    """Open one graph of a bundle.

    Args:
        graph: Name in `manifest.graphs`.

    Raises:
        BackendError: The bundle has no such file, the backend is not installed, or it cannot run the graph.
        BundleError: The file is missing or changed.
    """
    options = as_options(backend)
    if isinstance(options, OnnxRuntimeOptions):
        from edgewise.runtime.engines.onnxruntime import open_onnxruntime

        return open_onnxruntime(bundle, graph=graph, precision=precision, options=options)
    from edgewise.runtime.engines.tensorrt import open_tensorrt

    return open_tensorrt(bundle, graph=graph, target=options.target, precision=precision)

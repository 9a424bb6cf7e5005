"""Run an ONNX graph on this machine, and find where what two graphs say about the same inputs parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgewise.runtime.compare.tensors import difference
from edgewise.runtime.engines.base import HostState
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx

Tensors = Mapping[str, np.ndarray]
"""Tensor name -> array."""


@dataclass(frozen=True)
class Difference:
    """Where two stages part.

    Attributes:
        tensor: The first tensor, in the order asked for, that differs by more than the limit.
        relative_error: max|a - b| / max|b|; infinite where shapes, types or finiteness differ.
        detail: What differs, in words.
    """

    tensor: str
    relative_error: float
    detail: str


def first_difference(
    values: Tensors, reference: Tensors, names: Iterable[str], limit: float
) -> Difference | None:
    """The first of `names` whose relative error exceeds `limit`, or None.

    A name that either side lacks is a difference: nothing is skipped.
    """
    for name in names:
        if name not in values or name not in reference:
            side = "the new graph" if name not in values else "the reference"
            return Difference(name, float("inf"), f"{side} has no tensor {name!r}")
        value, wanted = values[name], reference[name]
        if value.shape != wanted.shape:
            return Difference(name, float("inf"), f"shape {value.shape} instead of {wanted.shape}")
        error = difference(value, wanted).relative
        if not error <= limit:
            return Difference(name, error, f"relative error {error:.3g} exceeds {limit:.3g}")
    return None


class GraphRunner(HostState):
    """One ONNX graph in memory as a runner, on ONNX Runtime's CPU; runs are reproducible on one machine.

    Raises:
        ExportError: ONNX Runtime refuses the graph.
    """

    def __init__(self, model: onnx.ModelProto, *, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the bindings raise a family of types without a common base
            raise ExportError(
                "ONNX Runtime refuses the graph",
                where=str(error).strip().splitlines()[0],
                hint="an operator or its types have no CPU kernel; change the module or the pass",
            ) from error
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def run(self, inputs: Tensors) -> dict[str, np.ndarray]:
        """All outputs by name."""
        values = self._session.run(list(self.outputs), dict(inputs))
        return dict(zip(self.outputs, values, strict=True))


def run_graph(model: onnx.ModelProto, samples: Sequence[Tensors]) -> list[dict[str, np.ndarray]]:
    """The outputs of `model` for every sample."""
    runner = GraphRunner(model)
    return [runner.run(sample) for sample in samples]

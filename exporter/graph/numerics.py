"""Run an ONNX graph on this machine and compare what two graphs say about the same inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgewise.runtime.contract.manifest import Graph
from edgewise.runtime.frames.looks import Views
from edgewise.runtime.system.errors import ExportError

if TYPE_CHECKING:
    import onnx

Tensors = Mapping[str, np.ndarray]
"""Tensor name -> array."""


def network_inputs(graph: Graph, views: Views) -> list[dict[str, np.ndarray]]:
    """The graph's input by name, for every look at a frame.

    Raises:
        ExportError: The graph has other inputs than one image.
    """
    if len(graph.inputs) != 1:
        raise ExportError(
            f"the graph has {len(graph.inputs)} inputs; looks at frames feed graphs with one image input",
            where=", ".join(inputs.name for inputs in graph.inputs),
        )
    return [{graph.inputs[0].name: look.tensor} for look in views.looks]


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


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """max|value - reference| / max|reference| in float64; infinite for a NaN or another shape.

    Equal infinities count as equal. An all-zero reference gives 0 for an all-zero value, else infinity.
    """
    if value.shape != reference.shape:
        return float("inf")
    if value.size == 0:
        return 0.0
    a, b = value.astype(np.float64), reference.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite]):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = float(np.abs(a[finite] - b[finite]).max())
    scale = float(np.abs(b[finite]).max())
    if largest == 0.0:
        return 0.0
    return largest / scale if scale > 0.0 else float("inf")


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
        error = relative_error(value, wanted)
        if not error <= limit:
            return Difference(name, error, f"relative error {error:.3g} exceeds {limit:.3g}")
    return None


class GraphRunner:
    """One ONNX graph in ONNX Runtime on the CPU; runs are reproducible on one machine.

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
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def run(self, inputs: Tensors) -> dict[str, np.ndarray]:
        """All outputs by name."""
        values = self._session.run(list(self.outputs), dict(inputs))
        return dict(zip(self.outputs, values, strict=True))


def run_graph(model: onnx.ModelProto, samples: Sequence[Tensors]) -> list[dict[str, np.ndarray]]:
    """The outputs of `model` for every sample."""
    runner = GraphRunner(model)
    return [runner.run(sample) for sample in samples]

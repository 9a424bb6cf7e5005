"""Run an ONNX graph on this machine, and find where what two graphs say about the same inputs parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgewise.runtime.compare.tensors import difference, equal_share
from edgewise.runtime.contract.manifest import Graph, Manifest
from edgewise.runtime.decoding.kinds import kind_of
from edgewise.runtime.engines.base import HostState
from edgewise.runtime.results.kind import OutputRoles
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


Roles = Callable[[Tensors], OutputRoles]
"""Which outputs are sorted slots and which maps of classes; the manifest's kind of result says so."""

SAME_PIXELS = 0.995
"""Least share of equal pixels in a map of classes, where near-equal logits may change places."""


def every_float_alike(outputs: Tensors) -> OutputRoles:
    """No slots, no maps."""
    del outputs
    return OutputRoles()


def roles_in(manifest: Manifest, graph: Graph) -> Roles:
    """The roles of a graph's outputs; none where probes are compared in their place."""
    return every_float_alike if graph.probes else output_roles(manifest)


def output_roles(manifest: Manifest) -> Roles:
    """The roles of the outputs that a manifest's kind of result reads."""
    return partial(kind_of(manifest).compared, manifest.postprocess, manifest)


def first_difference(
    values: Tensors,
    reference: Tensors,
    names: Iterable[str],
    limit: float,
    roles: Roles = every_float_alike,
) -> Difference | None:
    """The first of `names` whose relative error exceeds `limit`, or None.

    A name that either side lacks is a difference: nothing is skipped. Of sorted slots, those are compared
    whose score is positive and further from every other score than the limit can move two: empty and tied
    ones lie in any order. Maps of classes agree by the share of equal pixels.
    """
    names = list(names)
    wanted_roles = roles(reference)
    maps = roles(values).maps if wanted_roles.maps else {}
    slots = wanted_roles.slots
    shape = reference[slots].shape if slots in names and slots in reference else None
    firm = _firm_slots(reference[slots], limit) if shape is not None and slots is not None else None
    for name in names:
        if name not in values or name not in reference:
            side = "the new graph" if name not in values else "the reference"
            return Difference(name, float("inf"), f"{side} has no tensor {name!r}")
        value, wanted = values[name], reference[name]
        if value.shape != wanted.shape:
            return Difference(name, float("inf"), f"shape {value.shape} instead of {wanted.shape}")
        if name in maps:
            equal = equal_share(wanted_roles.maps[name], maps[name])
            if equal < SAME_PIXELS:
                return Difference(name, 1.0 - equal, f"{equal:.2%} of its pixels are equal")
            continue
        if firm is not None and name != slots and value.shape[:2] == shape:
            value, wanted = value[:, firm], wanted[:, firm]
        error = difference(value, wanted).relative
        if not error <= limit:
            return Difference(name, error, f"relative error {error:.3g} exceeds {limit:.3g}")
    return None


def _firm_slots(scores: np.ndarray, limit: float) -> np.ndarray:
    """Which slots (bool [N]) of sorted scores [1, N] are the same on both sides.

    The last may tie with what was not chosen.
    """
    flat = scores.reshape(-1).astype(np.float64)
    apart = np.abs(flat[:, None] - flat)
    np.fill_diagonal(apart, np.inf)
    firm = (apart.min(axis=1) > 2 * limit * np.abs(flat).max(initial=0.0)) & (flat > 0)
    firm[-1:] = False
    return firm


class GraphRunner(HostState):
    """One ONNX graph in memory as a runner, on ONNX Runtime's CPU; runs are reproducible on one machine.

    Without `optimised` every node is computed as it stands: graphs that only say the same otherwise then give
    the same bits.

    Raises:
        ExportError: ONNX Runtime refuses the graph.
    """

    def __init__(self, model: onnx.ModelProto, *, threads: int = 0, optimised: bool = True) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if not optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Either held half as much again for a backbone of 400x672, and no run took longer without.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
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

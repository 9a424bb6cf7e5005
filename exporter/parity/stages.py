"""The stages of a bundle's way: each is a walk whose runners show outputs and, where they can, probes.

torch -> exported ONNX -> canonical ONNX -> lowered files -> engines. A stage's `before` is the artefact that
it was made from. A stage that this machine cannot run is listed with the reason and never counts as passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec
import numpy as np

from edgewise.exporter.graph.inner_tensors import InnerTensors
from edgewise.runtime.contract.manifest import Precision, TensorSpec
from edgewise.runtime.engines.base import Engine, HostState, Runner, Tensor

TORCH, EXPORTED_STAGE, CANONICAL = "torch", "exported", "canonical"

SURE_RUNS, LOOK_AGAIN = 2, 8
"""How many first runs, and every how many later ones, are made by both sessions of a lowered file."""


@dataclass(frozen=True)
class StageInfo:
    """What a stage is.

    Attributes:
        name: Key of the stage in reports, e.g. `fp16` or `int8.tensorrt`.
        title: The same for people.
        precision: Whose budget it is judged by.
        before: The stage that it was made from; None for the first.
        files: The bundle's file of each graph that it runs; empty for torch.
    """

    name: str
    title: str
    precision: Precision
    before: str | None
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Stage:
    """One artefact, opened.

    Attributes:
        info: What it is.
        runners: One a graph.
        specs: What each graph must give: its outputs, and its probes where the stage can show them.
        lowered: Whether it runs lowered files on ONNX Runtime, whose inner tensors can be walked.
        on_device: Whether it runs built engines: from the thread that opened them, and without inner tensors.
        closing: Closes it.
    """

    info: StageInfo
    runners: Mapping[str, Runner]
    specs: Mapping[str, tuple[TensorSpec, ...]]
    lowered: bool = False
    on_device: bool = False
    closing: ExitStack = field(default_factory=ExitStack)

    @property
    def engine(self) -> str:
        """What computes it, with its version."""
        return next(iter(self.runners.values())).name

    def shows(self, graph: str, name: str) -> bool:
        """Whether a graph's tensor can be seen."""
        return any(spec.name == name for spec in self.specs[graph])


class ProbedRunner(HostState):
    """A lowered file: outputs from the engine that ships, probes from a second session that exposes them.

    Exposing an inner tensor keeps ONNX Runtime from fusing across it. Where both sessions give the same
    outputs to the bit, which the first runs show and every eighth shows again, the second one alone is run
    for the
    others: it is the same arithmetic.

    Args:
        engine: As the device opens the file.
        data: The file.
        outputs: The graph's outputs.
        probes: The declared probes.
        where: Name of the file in errors.
        threads: Of one operator.

    Raises:
        ParityError: The file has no tensor of a probe's name.
    """

    def __init__(
        self,
        engine: Engine,
        data: bytes,
        outputs: Sequence[TensorSpec],
        probes: Sequence[TensorSpec],
        *,
        where: str,
        threads: int,
    ) -> None:
        self.name = engine.name
        self._engine = engine
        self._names = [spec.name for spec in outputs]
        inner = InnerTensors(data, where=where)
        self._exposing = inner.open(
            [probe.name for probe in probes], engine.inputs, beside=outputs, threads=threads
        )
        shown = {spec.name: spec.dtype for spec in self._exposing.outputs}
        # A mixed-precision file gives a probe another float width than the manifest declares.
        self.probes = tuple(msgspec.structs.replace(probe, dtype=shown[probe.name]) for probe in probes)
        self._runs = 0
        self._same = True

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Runner.run`."""
        exposed = self._exposing.run(inputs)
        looked_at = self._runs < SURE_RUNS or self._runs % LOOK_AGAIN == 0
        self._runs += 1
        if self._same and not looked_at:
            return exposed
        outputs = self._engine.run(inputs)
        self._same = self._same and all(
            np.array_equal(outputs[name], exposed[name], equal_nan=outputs[name].dtype.kind == "f")
            for name in self._names
        )
        return {**exposed, **outputs}

    def close(self) -> None:
        """Free both sessions."""
        self._engine.close()
        self._exposing.close()

"""What a graph was given on a walk, and what it gave: samples for a comparison or for calibration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgewise.exporter.graph.numerics import Tensors
from edgewise.runtime.engines.base import Held, Ran, Runner


@dataclass
class Recorder:
    """A runner that keeps inputs (state among them, as arrays) and outputs of the first runs.

    Attributes:
        runner: Does the work.
        most: How many runs to keep.
        inputs, outputs: Of the kept runs, in order.
    """

    runner: Runner
    most: int
    inputs: list[Tensors] = field(default_factory=list)
    outputs: list[Tensors] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.runner.name

    @property
    def batch(self) -> int:
        """One look a run, so that what is kept is of one."""
        return 1

    def run(self, inputs: Tensors) -> dict[str, np.ndarray]:
        """See `Runner.run`."""
        outputs = self.runner.run(inputs)
        self._keep(inputs, outputs)
        return outputs

    def hold(self, tensor: np.ndarray) -> Held:
        """See `Runner.hold`."""
        return self.runner.hold(tensor)

    def step(self, inputs: Tensors, state: Mapping[str, Held], keep: Collection[str]) -> Ran:
        """See `Runner.step`."""
        ran = self.runner.step(inputs, state, keep)
        self._keep({**inputs, **{name: np.asarray(value) for name, value in state.items()}}, ran.outputs)
        return ran

    def forget(self) -> None:
        """Keep the next runs instead."""
        self.inputs.clear()
        self.outputs.clear()

    def _keep(self, inputs: Tensors, outputs: Tensors) -> None:
        if len(self.inputs) < self.most:
            self.inputs.append(dict(inputs))
            self.outputs.append(outputs)

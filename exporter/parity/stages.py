"""The stages of a bundle's way: each gives named tensors for one network input.

torch -> exported ONNX -> canonical ONNX -> lowered files -> engines. A stage's `before` is the artefact that
it was made from. A stage that this machine cannot run is listed with the reason and never counts as passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgewise.exporter.graph.inner_tensors import InnerTensors
from edgewise.runtime.contract.manifest import Graph, Precision, TensorSpec
from edgewise.runtime.engines.base import Engine, Tensor
from edgewise.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgewise.runtime.system.errors import ParityError

if TYPE_CHECKING:
    from torch import nn

TORCH, EXPORTED_STAGE, CANONICAL = "torch", "exported", "canonical"


@dataclass(frozen=True)
class StageInfo:
    """What a stage is.

    Attributes:
        name: Key of the stage in reports, e.g. `fp16` or `int8.tensorrt`.
        title: The same for people.
        precision: Whose budget it is judged by.
        before: The stage that it was made from; None for the first.
        file: The bundle's file that it runs; empty for torch.
    """

    name: str
    title: str
    precision: Precision
    before: str | None
    file: str = ""


class Stage(Protocol):
    """One artefact, opened."""

    @property
    def info(self) -> StageInfo: ...

    @property
    def engine(self) -> str:
        """What computes it, with its version."""
        ...

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """What it must give: the graph's outputs, and its probes where the stage can show them."""
        ...

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors for one input, unchecked."""
        ...

    def close(self) -> None: ...


class TorchStage:
    """The training definition in its deploy form, in evaluation mode."""

    def __init__(self, info: StageInfo, module: nn.Module, graph: Graph, *, threads: int = 1) -> None:
        import torch

        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)
        self.info = info
        self.engine = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
        self.tensors = (*graph.outputs, *graph.probes)
        self._inputs = graph.inputs
        self._module = module.eval()

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import torch

        arguments = [torch.from_numpy(np.ascontiguousarray(feeds[spec.name])) for spec in self._inputs]
        with torch.inference_mode():
            values = self._module(*arguments)
        values = (values,) if isinstance(values, torch.Tensor) else tuple(values)
        if len(values) != len(self.tensors):
            raise ParityError(
                f"the module gives {len(values)} tensors, the manifest declares {len(self.tensors)}",
                where=self.info.title,
                hint="return the outputs and then the probes, in the manifest's order",
            )
        pairs = zip(self.tensors, values, strict=True)
        return {spec.name: value.detach().cpu().numpy() for spec, value in pairs}

    def close(self) -> None:
        import torch

        torch.set_num_threads(self._threads_before)


class OnnxStage:
    """An ONNX file of the workstation's way, whose probes are graph outputs, on ONNX Runtime."""

    def __init__(self, info: StageInfo, data: bytes, graph: Graph, *, threads: int = 1) -> None:
        self.info = info
        self.tensors = (*graph.outputs, *graph.probes)
        self._engine = OnnxRuntimeEngine(
            data, inputs=graph.inputs, outputs=self.tensors, where=info.file, threads=threads
        )
        self.engine = self._engine.name

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._engine.run(feeds)

    def close(self) -> None:
        self._engine.close()


class LoweredStage:
    """A lowered file: outputs from the engine that ships, probes from a second session that exposes them.

    Exposing an inner tensor keeps ONNX Runtime from fusing across it, so the outputs come from the file as
    it is.
    """

    def __init__(
        self, info: StageInfo, engine: Engine, data: bytes, graph: Graph, *, threads: int = 1
    ) -> None:
        self.info = info
        self.engine = engine.name
        self._engine = engine
        self._probes: OnnxRuntimeEngine | None = None
        exposed: Sequence[TensorSpec] = ()
        if graph.probes:
            inner = InnerTensors(data, where=info.file)
            self._probes = inner.open([probe.name for probe in graph.probes], graph.inputs, threads=threads)
            exposed = self._probes.outputs
        self.tensors = (*graph.outputs, *_narrowed(graph.probes, exposed))

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = self._engine.run(feeds)
        return {**outputs, **self._probes.run(feeds)} if self._probes else outputs

    def close(self) -> None:
        self._engine.close()
        if self._probes is not None:
            self._probes.close()


class EngineStage:
    """A built engine: its outputs only, because inner tensors of an engine are fused away."""

    def __init__(self, info: StageInfo, engine: Engine, graph: Graph) -> None:
        self.info = info
        self.engine = engine.name
        self.tensors = graph.outputs
        self._engine = engine

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._engine.run(feeds)

    def close(self) -> None:
        self._engine.close()


def _narrowed(declared: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The declared probes with the float width that a mixed-precision file gives them."""
    import msgspec

    return tuple(
        msgspec.structs.replace(spec, dtype=own.dtype) for spec, own in zip(declared, found, strict=True)
    )

"""The way of a frame, written once.

    source -> looks -> runner, graph by schedule, state kept by the runner -> decode (kind) -> result

Session, self test, goldens, evaluation, the INT8 search, parity and benchmarks are walks with other runners
and another reader at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.check import image_input
from edgewise.runtime.contract.manifest import Graph, Manifest
from edgewise.runtime.decoding.decode import decode_result, looks_of
from edgewise.runtime.engines.base import Held, Runner, Tensor, check_not_nan, numpy_dtype
from edgewise.runtime.frames.looks import FrameBoxes, Looks
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import SourceError
from edgewise.runtime.walk.schedule import graph_choice


@dataclass(frozen=True, eq=False)
class Prepared:
    """A preprocessed frame: the graph chosen for it, and the looks that it takes."""

    frame: Frame
    graph: str
    looks: Looks


@dataclass(frozen=True, eq=False)
class Inferred:
    """The outputs of every look at a frame, and the looks that lead them back to the source image.

    `sums`: of every look, the sums by output that the graph gave with it (see `Graph.nan_sums`).
    """

    frame: Frame
    graph: str
    runner: str
    looks: Looks
    outputs: tuple[dict[str, Tensor], ...]
    sums: tuple[dict[str, float], ...]


class Preparation:
    """A walk before its runners: which graph runs on the next frame, and the looks that it takes."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.reset()

    def __call__(self, frame: Frame, boxes: FrameBoxes | None = None) -> Prepared:
        """Choose the graph and preprocess every look. Call once per frame, in order.

        Raises:
            SourceError: The image is not uint8 [H, W, 3], or it or a box does not fit the preprocessing.
        """
        _check_image(frame.image, frame.name)
        # First the looks: a frame that is refused must not be the one that a key graph ran on.
        looks = looks_of(self._manifest, frame.image, boxes)
        return Prepared(frame, self._choose(frame.image), looks)

    def reset(self) -> None:
        """The next frame is a first frame."""
        self._choose = graph_choice(self._manifest.schedule)


class Walk:
    """Frames in order, through the graphs that the manifest's schedule runs. Use it from one thread at a
    time.

    The three stages of a frame are public, so that they can overlap with those of its neighbours and a
    benchmark times exactly what runs. What `prepare` gives may be inferred by several walks over one
    manifest.

    Args:
        manifest: Preprocessing, schedule, state and kind of result.
        runners: One for each graph that the schedule runs.
    """

    def __init__(self, manifest: Manifest, runners: Mapping[str, Runner]) -> None:
        self.manifest = manifest
        self.runners = {graph: runners[graph] for graph in manifest.schedule.graphs}
        self.prepare = Preparation(manifest)
        self._images = {graph: image_input(manifest, graph) for graph in self.runners}
        self._reads = {graph: _reads(manifest, graph) for graph in self.runners}
        self._writes = {graph: _writes(manifest, graph) for graph in self.runners}
        self._held: dict[str, Held] = {}
        self.reset()

    def __call__(self, image: NDArray[np.uint8], boxes: FrameBoxes | None = None) -> Result:
        """The result of the next frame, uint8 [H, W, 3] BGR; `boxes` say where a model of crops looks."""
        return self.finish(self.infer(self.prepare(Frame(0, "", image, 0.0), boxes)))

    def infer(self, prepared: Prepared) -> Inferred:
        """Run the graph with the state that earlier frames left. Call in frame order.

        Without state, as many looks run in one launch as the runner takes.

        Raises:
            EdgewiseError: The run failed.
        """
        (inferred,) = self.infer_together([prepared])
        return inferred

    def infer_together(self, frames: Sequence[Prepared]) -> list[Inferred]:
        """Run the graphs on several frames, in their order.

        Looks at neighbouring frames that run the same graph without state share launches.

        Raises:
            EdgewiseError: A run failed.
        """
        inferred: list[Inferred] = []
        for graph, neighbours in groupby(frames, key=lambda prepared: prepared.graph):
            looked = list(neighbours)
            looks = [look for prepared in looked for look in prepared.looks.looks]
            given = iter(self._launches(graph, [look.tensor for look in looks]))
            for prepared in looked:
                outputs = tuple(islice(given, len(prepared.looks.looks)))
                sums = tuple(_take_sums(self.manifest.graphs[graph], look) for look in outputs)
                name = self.runners[graph].name
                inferred.append(Inferred(prepared.frame, graph, name, prepared.looks, outputs, sums))
        return inferred

    @property
    def batch(self) -> int:
        """Most looks of one launch of every graph; 1 of a model with state."""
        return 1 if self.manifest.state else min(runner.batch for runner in self.runners.values())

    def _launches(self, graph: str, looks: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """The outputs for every look, in as few launches as the runner allows."""
        if self._reads[graph] or self._writes[graph]:
            return [self._step(graph, look) for look in looks]
        runner, image = self.runners[graph], self._images[graph]
        outputs: list[dict[str, Tensor]] = []
        for start in range(0, len(looks), runner.batch):
            launched = looks[start : start + runner.batch]
            if len(launched) == 1:
                outputs.append(runner.run({image: launched[0]}))
                continue
            ran = runner.run({image: np.concatenate(launched)})
            outputs += [
                {name: tensor[row : row + 1] for name, tensor in ran.items()} for row in range(len(launched))
            ]
        return outputs

    def _step(self, graph: str, look: Tensor) -> dict[str, Tensor]:
        """The outputs for one look, between the state before it and the state after it."""
        writes = self._writes[graph]
        state = {tensor: self._held[name] for tensor, name in self._reads[graph].items()}
        ran = self.runners[graph].step(
            {self._images[graph]: look}, state, tuple(dict.fromkeys(writes.values()))
        )
        self._held.update({name: ran.held[tensor] for name, tensor in writes.items()})
        return ran.outputs

    def finish(self, inferred: Inferred) -> Result:
        """Decode to source-image coordinates.

        Raises:
            BackendError: An output holds NaN. (Looked for here, beside the inference of the next frame.)
            ResultError: The outputs cannot be decoded.
        """
        for outputs, sums in zip(inferred.outputs, inferred.sums, strict=True):
            check_not_nan(outputs, where=inferred.runner, sums=sums)
        return decode_result(self.manifest, inferred.looks, inferred.outputs)

    def reset(self) -> None:
        """Forget state and schedule: the next frame is a first frame."""
        self.prepare.reset()
        for state in self.manifest.state:
            graph, _ = state.sinks[0].rsplit(".", 1) if state.sinks else state.source.rsplit(".", 1)
            initial = np.full(state.spec.shape, state.initial_value, numpy_dtype(state.spec.dtype))
            self._held[state.name] = self.runners[graph].hold(initial)


def _take_sums(graph: Graph, outputs: dict[str, Tensor]) -> dict[str, float]:
    """Take the sums of one look away from its outputs: only lowered files give them."""
    if graph.nan_sums is None or graph.nan_sums.name not in outputs:
        return {}
    return dict(zip(graph.nan_sums.of, outputs.pop(graph.nan_sums.name).ravel().tolist(), strict=True))


def _reads(manifest: Manifest, graph: str) -> dict[str, str]:
    """Input of the graph -> the state that it reads."""
    return {
        tensor: state.name
        for state in manifest.state
        for owner, tensor in (address.rsplit(".", 1) for address in state.sinks)
        if owner == graph
    }


def _writes(manifest: Manifest, graph: str) -> dict[str, str]:
    """State -> the output of the graph that writes it."""
    addresses = ((state.name, *state.source.rsplit(".", 1)) for state in manifest.state)
    return {name: tensor for name, owner, tensor in addresses if owner == graph}


def _check_image(image: Any, name: str) -> None:
    if not isinstance(image, np.ndarray):
        missing = image is None
        raise SourceError(
            "there is no image, but None" if missing else f"an image is a {type(image).__name__}, no array",
            where=name,
            hint="cv2.imread gives None for a file that is missing or no image: check the path"
            if missing
            else "pass a numpy array, uint8 [H, W, 3] in BGR order, such as cv2.imread gives",
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise SourceError(
            f"an image is {image.dtype} {list(image.shape)}, must be uint8 [H, W, 3] in BGR order",
            where=name,
            hint="cv2.imread gives such an image; convert grey or RGBA images with cv2.cvtColor",
        )

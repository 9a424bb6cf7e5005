"""A session: frames in, results in source-image coordinates out."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.check import image_input
from edgewise.runtime.contract.manifest import Manifest, Precision, Target
from edgewise.runtime.decoding.decode import postprocess
from edgewise.runtime.engines import Engine, open_engine
from edgewise.runtime.engines.base import Tensor, check_not_nan
from edgewise.runtime.frames.looks import FrameBoxes, Views, views_of, with_flip_test
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import BackendError, SourceError
from edgewise.runtime.walk.box_sources import BoxSource
from edgewise.runtime.walk.pipeline import overlapped
from edgewise.runtime.walk.schedule import StateTensors, graph_choice


@dataclass(frozen=True)
class Prepared:
    """A preprocessed frame: the graph chosen for it, and the looks that it takes."""

    frame: Frame
    graph: str
    views: Views


@dataclass(frozen=True)
class Inferred:
    """The outputs of every look at a frame, and the looks that lead them back to the source image."""

    frame: Frame
    engine: str
    views: Views
    outputs: tuple[dict[str, Tensor], ...]


class Session:
    """An opened bundle on one backend in one precision. Use it from one thread at a time.

    The three stages of a frame are public, so that a benchmark times exactly what `stream` runs:
    `prepare`, `infer`, `finish`.
    """

    def __init__(self, manifest: Manifest, engines: dict[str, Engine]) -> None:
        self.manifest = manifest
        self.engines = engines
        self._image_inputs = {name: image_input(manifest, name) for name in engines}
        self._state = StateTensors(manifest)
        self._choose = graph_choice(manifest.schedule)

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        *,
        backend: str | Target = Target.ONNXRUNTIME,
        precision: str | Precision = Precision.FP32,
        threads: int | None = None,
        provider: str = "cpu",
        flip_test: bool | None = None,
    ) -> Session:
        """Open every graph that the bundle's schedule runs.

        Args:
            bundle: Folder, or an opened bundle.
            backend: `onnxruntime`, `tensorrt` or `tensorrt-rtx`.
            precision: `fp32`, `fp16` or `int8`; the bundle must hold it for that backend.
            threads: Threads of the CPU backend; None takes the cores that this process may use.
            provider: `cpu` or `cuda`, for ONNX Runtime only.
            flip_test: Whether a model of keypoints looks at the mirrored crop too; as its manifest says where
                None.

        Raises:
            BundleError, ManifestError, BackendError: What was asked for cannot be opened exactly so.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        manifest = opened.manifest if flip_test is None else with_flip_test(opened.manifest, flip_test)
        target, width = as_target(backend), as_precision(precision)
        engines: dict[str, Engine] = {}
        try:
            for graph in manifest.schedule.graphs:
                engines[graph] = open_engine(
                    opened, graph=graph, backend=target, precision=width, threads=threads, provider=provider
                )
            return cls(manifest, engines)
        except BaseException:
            for engine in engines.values():
                engine.close()
            raise

    def __call__(self, image: NDArray[np.uint8], boxes: FrameBoxes | None = None) -> Result:
        """Run on one image, uint8 [H, W, 3] BGR as OpenCV reads it; state goes on from the last call.

        Args:
            boxes: Where to look, for a model of crops; the whole image where None.
        """
        return self.finish(self.infer(self.prepare(Frame(0, "", image, 0.0), boxes)))

    def stream(
        self,
        frames: Iterable[Frame | NDArray[np.uint8]],
        boxes: BoxSource | None = None,
        *,
        depth: int = 2,
    ) -> Generator[tuple[Frame, Result]]:
        """Run on consecutive frames; decoding, inference and postprocessing of neighbours overlap.

        Every frame gives one result, in order, an empty one where there is no box. At most `depth` frames
        wait before each stage. The first error is raised after the results of the frames before it; closing
        the generator stops its threads. State starts at its initial values.

        Three threads share the work: one reads the source, asks `boxes` and preprocesses, so that is where a
        detector runs; one runs this session's engine on every look; one decodes.

        Args:
            frames: uint8 [H, W, 3] BGR, or the frames of a source.
            boxes: Says where a model of crops looks in each frame; the whole of it where None.
            depth: See above.
        """
        self.reset()
        numbered = (
            frame if isinstance(frame, Frame) else Frame(index, f"frame {index}", frame, 0.0)
            for index, frame in enumerate(frames)
        )
        prepared = (self.prepare(frame, None if boxes is None else boxes.boxes(frame)) for frame in numbered)
        return overlapped(prepared, (self.infer, self._finish_with_frame), depth=depth)

    def prepare(self, frame: Frame, boxes: FrameBoxes | None = None) -> Prepared:
        """Choose the graph and preprocess every look. Call once per frame, in order."""
        _check_image(frame.image, frame.name)
        graph = self._choose(frame.image)
        return Prepared(frame, graph, views_of(self.manifest, frame.image, boxes))

    def infer(self, prepared: Prepared) -> Inferred:
        """Run the engine with the state left by earlier frames. Call in frame order.

        Raises:
            BackendError: The engine failed.
        """
        graph, outputs = prepared.graph, list[dict[str, Tensor]]()
        engine = self.engines[graph]
        for look in prepared.views.looks:
            inputs = {self._image_inputs[graph]: look.tensor, **self._state.inputs_of(graph)}
            outputs.append(engine.run(inputs))
            self._state.keep(graph, outputs[-1])
        return Inferred(prepared.frame, engine.name, prepared.views, tuple(outputs))

    def finish(self, inferred: Inferred) -> Result:
        """Decode to source-image coordinates.

        Raises:
            BackendError: An output holds NaN. (Looked for here, beside the inference of the next frame.)
            ResultError: The outputs cannot be decoded.
        """
        for outputs in inferred.outputs:
            check_not_nan(outputs, where=inferred.engine)
        return postprocess(self.manifest, inferred.views, inferred.outputs)

    def _finish_with_frame(self, inferred: Inferred) -> tuple[Frame, Result]:
        return inferred.frame, self.finish(inferred)

    def reset(self) -> None:
        """Forget state and schedule: the next frame is a first frame."""
        self._state.reset()
        self._choose = graph_choice(self.manifest.schedule)

    def close(self) -> None:
        """Free the engines."""
        for engine in self.engines.values():
            engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def as_target(backend: str | Target) -> Target:
    """The target of a backend's name; BackendError lists the known ones."""
    try:
        return Target(backend)
    except ValueError:
        names = ", ".join(target.value for target in Target)
        raise BackendError(f"no backend is called {backend!r}", hint=f"choose one of {names}") from None


def as_precision(precision: str | Precision) -> Precision:
    """The precision of a name; BackendError lists the known ones."""
    try:
        return Precision(precision)
    except ValueError:
        names = ", ".join(known.value for known in Precision)
        raise BackendError(f"no precision is called {precision!r}", hint=f"choose one of {names}") from None


def _check_image(image: NDArray[np.uint8], name: str) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise SourceError(
            f"an image is {image.dtype} {list(image.shape)}, must be uint8 [H, W, 3] in BGR order",
            where=name,
            hint="cv2.imread gives such an image; convert grey or RGBA images with cv2.cvtColor",
        )

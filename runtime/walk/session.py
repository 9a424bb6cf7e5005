"""A session: frames in, results in source-image coordinates out."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import Manifest, Precision
from edgewise.runtime.contract.settings import with_settings
from edgewise.runtime.engines.base import Engine
from edgewise.runtime.engines.opening import open_engine
from edgewise.runtime.engines.options import (
    ONNXRUNTIME,
    Backend,
    as_options,
    as_precision,
)
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import SourceError
from edgewise.runtime.walk.box_sources import BoxSource
from edgewise.runtime.walk.pipeline import Spread, gathered, overlapped
from edgewise.runtime.walk.walk import Inferred, Prepared, Walk


class Session:
    """An opened bundle on one backend in one precision: its `walk` with engines, and their lifetime.

    Use it from one thread at a time.
    """

    def __init__(self, manifest: Manifest, engines: dict[str, Engine]) -> None:
        self.manifest = manifest
        self.engines = engines
        self.walk = Walk(manifest, engines)

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        *,
        backend: Backend = ONNXRUNTIME,
        precision: str | Precision = Precision.FP32,
        settings: Mapping[str, str] | None = None,
    ) -> Session:
        """Open every graph that the bundle's schedule runs.

        Args:
            bundle: Folder, or an opened bundle.
            backend: `onnxruntime`, `tensorrt` or `tensorrt-rtx`, or one's options.
            precision: `fp32`, `fp16` or `int8`; the bundle must hold it for that backend.
            settings: Fields of the manifest's postprocessing to set, e.g. {"postprocess.flip_test": "true"}.

        Raises:
            BundleError, ManifestError, BackendError: What was asked for cannot be opened exactly so.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        manifest = with_settings(opened.manifest, settings or {})
        options, asked = as_options(backend), as_precision(precision)
        engines: dict[str, Engine] = {}
        try:
            for graph in manifest.schedule.graphs:
                engines[graph] = open_engine(opened, graph=graph, precision=asked, backend=options)
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
        return self.walk(image, boxes)

    def together(
        self,
        images: Sequence[NDArray[np.uint8]],
        boxes: Sequence[FrameBoxes | None] | None = None,
    ) -> list[Result]:
        """Run on images that do not follow one another, such as those of several cameras at one moment.

        Looks at all of them share launches, as many in one as the graphs take.

        Args:
            images: Each as in a call; their sizes may differ.
            boxes: Where to look in each, for a model of crops; the whole of every image where None.

        Raises:
            SourceError: The model keeps state from frame to frame, or an image or box does not fit.
        """
        if self.manifest.state:
            raise SourceError(
                "this model keeps state from frame to frame, so each camera needs a session of its own",
                where=self.manifest.name,
                hint="open one session a camera and call it with that camera's frames",
            )
        where = boxes if boxes is not None else [None] * len(images)
        if len(where) != len(images):
            raise SourceError(
                f"{len(where)} sets of boxes for {len(images)} images", where=self.manifest.name
            )
        walk = self.walk
        prepared = [
            walk.prepare(Frame(number, f"image {number}", image, 0.0), looked_at)
            for number, (image, looked_at) in enumerate(zip(images, where, strict=True))
        ]
        return [walk.finish(inferred) for inferred in walk.infer_together(prepared)]

    def stream(
        self,
        frames: Iterable[Frame | NDArray[np.uint8]],
        boxes: BoxSource | None = None,
        *,
        depth: int = 2,
        gather: bool = False,
        unfit: Callable[[Frame, SourceError], None] | None = None,
    ) -> Generator[tuple[Frame, Result]]:
        """Run on consecutive frames; decoding, inference and postprocessing of neighbours overlap.

        Every frame gives one result, in order, an empty one where there is no box. At most `depth` frames
        (or groups of them, with `gather`) wait before each stage. The first error is raised after the results
        of the frames before it; closing the generator stops its threads. State starts at its initial values.

        Three threads share the work: one reads the source, asks `boxes` and preprocesses, so that is where a
        detector runs; one runs this session's engine on every look; one decodes.

        Args:
            frames: uint8 [H, W, 3] BGR, or the frames of a source.
            boxes: Says where a model of crops looks in each frame; the whole of it where None.
            depth: See above.
            gather: Wait for so many frames as one launch takes looks of. A model with state, or of one look a
                launch, takes each frame as it comes; a live source should too.
            unfit: Told of a frame that the model cannot look at, which is then left out; an error where None.
                Called in the thread that reads the source.
        """
        self.reset()
        walk = self.walk
        numbered = (
            frame if isinstance(frame, Frame) else Frame(index, f"frame {index}", frame, 0.0)
            for index, frame in enumerate(frames)
        )

        def prepared() -> Generator[Prepared]:
            for frame in numbered:
                looked_at = None if boxes is None else boxes.boxes(frame)
                try:
                    ready = walk.prepare(frame, looked_at)
                except SourceError as error:
                    if unfit is None:
                        raise
                    unfit(frame, error)
                else:
                    yield ready

        batch = walk.batch if gather else 1
        if batch == 1:
            return overlapped(prepared(), (walk.infer, self._finish), depth=depth)
        groups = gathered(prepared(), batch, size=lambda ready: len(ready.looks.looks))
        return overlapped(groups, (Spread(walk.infer_together), self._finish), depth=depth)

    def _finish(self, inferred: Inferred) -> tuple[Frame, Result]:
        return inferred.frame, self.walk.finish(inferred)

    def reset(self) -> None:
        """Forget state and schedule: the next frame is a first frame."""
        self.walk.reset()

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

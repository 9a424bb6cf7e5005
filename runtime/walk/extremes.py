"""Frames at the ends of what a camera gives: black, white, noise.

A constant that a narrow precision loses, or a division that training never met, shows on these alone. Their
results mean nothing, so that nothing is compared: a walk over them must end in results.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgewise.runtime.compare.checks import Check, Level
from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.frames.looks import FrameBoxes
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.system.errors import BackendError, ResultError
from edgewise.runtime.walk.walk import Walk


def extreme_frames(manifest: Manifest) -> Iterator[tuple[Frame, FrameBoxes | None]]:
    """The frames, of the network's size, with one box around each for a model of crops.

    For several graphs, or state, each comes twice: so every schedule runs all of its graphs.
    """
    height, width = manifest.preprocess.size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    images = {
        "a black frame": np.zeros_like(noise),
        "a white frame": np.full_like(noise, 255),
        "a frame of noise": noise,
    }
    boxes = None
    if manifest.preprocess.needs_boxes:
        boxes = FrameBoxes(np.array([[0.0, 0.0, width, height]]), np.ones(1, np.float32))
    times = 2 if manifest.state or len(manifest.schedule.graphs) > 1 else 1
    for name, image in images.items():
        for _ in range(times):
            yield Frame(0, name, image, 0.0), boxes


def extreme_checks(walk: Walk) -> Iterator[Check]:
    """Whether each of the frames gives a result, without NaN and decodable."""
    walk.reset()
    for frame, boxes in extreme_frames(walk.manifest):
        problem = ""
        try:
            walk.finish(walk.infer(walk.prepare(frame, boxes)))
        except (BackendError, ResultError) as error:
            problem = error.what
        yield Check(
            level=Level.RUN,
            figure="gives a result",
            value=float(not problem),
            limit=1.0,
            at_least=True,
            subject="result",
            sample=frame.name,
            note=problem,
        )

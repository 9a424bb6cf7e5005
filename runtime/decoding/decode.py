"""The looks that a model takes at a frame, and the way from the outputs for them back to its result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.decoding.kinds import kind_of
from edgewise.runtime.frames.looks import FrameBoxes, Looks, take_looks
from edgewise.runtime.results.outputs import Outputs
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import ResultError


def looks_of(manifest: Manifest, frame: NDArray[np.uint8], boxes: FrameBoxes | None = None) -> Looks:
    """Preprocess one frame, uint8 [H, W, 3] BGR, for every look that a model takes at it (`take_looks`)."""
    mirrored = kind_of(manifest).mirrored(manifest.postprocess)
    return take_looks(manifest.preprocess, frame, boxes, mirrored=mirrored, where=manifest.name)


def decode_result(manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]) -> Result:
    """Decode what a graph gave for the looks at one frame, as the manifest says.

    Args:
        manifest: Its `postprocess` names the outputs and thresholds, its `classes` the labels.
        looks: The looks at the frame.
        outputs: One mapping a look: arrays by the graph's output names, with a batch dimension of 1.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite, or the looks are
            not those of the kind.
    """
    if len(outputs) != len(looks.looks):
        raise ResultError(
            f"{len(outputs)} outputs for {len(looks.looks)} looks at the frame", where=manifest.name
        )
    return kind_of(manifest).decode(manifest.postprocess, manifest, looks, outputs)

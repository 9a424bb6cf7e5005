"""Boxes with the points that the graph gives with them, as RetinaFace does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import BoxedPoints
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.results.outputs import Outputs, only_look, read_output, require
from edgewise.runtime.results.slots import read_boxed_things
from edgewise.runtime.system.errors import ResultError


def decode_boxed_points(
    spec: BoxedPoints, manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]
) -> Keypoints:
    """The faces of the one look at a whole frame; see `read_boxed_things` for boxes and scores.

    Points go to the frame with their boxes and are not held inside it; every point scores 1.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite, or there are several looks.
    """
    if manifest.keypoints is None:
        raise ResultError("the manifest names no keypoints", where=manifest.name, hint="export it again")
    geometry, only = only_look(looks, outputs)
    found = read_boxed_things(spec, len(manifest.classes), only, geometry)
    slots, count = only[spec.scores].shape[-1], len(manifest.keypoints.names)
    points = read_output(only, spec.points, (1, slots, count, 2), np.float32)[0][found.slots]
    require(np.isfinite(points).all(), spec.points, "holds a coordinate that is not finite")
    return Keypoints(
        points=geometry.to_source(points).astype(np.float32),
        point_scores=np.ones(points.shape[:2], np.float32),
        boxes=found.boxes,
        scores=np.minimum(found.scores, np.float32(1)),
        classes=found.classes,
        labels=manifest.classes,
        layout=manifest.keypoints,
        frame_size=geometry.source_size,
        display_threshold=spec.display_threshold,
        point_threshold=0.0,
        settled=found.settled,
    )

"""Boxes that a centre in their middle confirms (Duan et al., 2019, "CenterNet: Keypoint Triplets")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import CentredBoxes
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.kinds.boxes.decode import boxes_of
from edgewise.runtime.kinds.boxes.result import Boxes
from edgewise.runtime.results.outputs import Outputs, only_look, read_output, read_scores, require
from edgewise.runtime.results.slots import read_boxed_things


def decode_centred_boxes(
    spec: CentredBoxes, manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]
) -> Boxes:
    """The boxes of the one look at a whole frame that have a centre; `CentredBoxes` says the rule.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite, or there are several looks.
    """
    geometry, only = only_look(looks, outputs)
    found = read_boxed_things(spec, len(manifest.classes), only, geometry)
    scores = read_scores(only, spec.centre_scores)
    places = read_output(only, spec.centres, (1, len(scores), 2), np.float32)[0]
    classes = read_output(only, spec.centre_classes, (1, len(scores)), np.int32, np.int64)[0]
    taken = scores > 0
    require(np.isfinite(places[taken]).all(), spec.centres, "holds a place that is not finite")
    height, width = geometry.source_size
    centres = np.clip(geometry.to_source(places[taken]), 0, [width, height])
    over = spec.reach / float(np.abs(geometry.matrix[0, 0]))
    low, high = found.reaching[:, :2], found.reaching[:, 2:]
    near = ((low > -over) & (high < np.array([width, height]) + over)).all(axis=1)
    first = first_centres(
        found.boxes.astype(np.float64), found.classes, centres, classes[taken], spec.large_area
    )
    kept = np.flatnonzero(near & (first >= 0))
    joint = (2 * found.scores[kept].astype(np.float64) + scores[taken][first[kept]]) / 3
    order = np.argsort(-joint, kind="stable")
    kept = kept[order]
    return boxes_of(
        spec, manifest, geometry.source_size, found.boxes[kept], joint[order], found.classes[kept]
    )


def first_centres(
    boxes: NDArray[np.float64],
    classes: NDArray[np.int32],
    centres: NDArray[np.float64],
    centre_classes: NDArray[np.integer],
    large_area: float,
) -> NDArray[np.intp]:
    """The first centre in the middle of each box.

    Args:
        boxes: float64 [n, 4], corner form, frame pixels.
        classes: int32 [n].
        centres: float64 [m, 2], x, y, in the order in which they are asked.
        centre_classes: [m].
        large_area: Boxes of more frame pixels have a smaller middle.

    Returns:
        intp [n]; -1 where there is none.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    # Thirds for small boxes, fifths for large ones; a centre on the middle's edge is outside.
    margin = np.where(np.prod(high - low, axis=1) > large_area, 2 / 5, 1 / 3)[:, None] * (high - low)
    inside = (centres > (low + margin)[:, None]) & (centres < (high - margin)[:, None])
    fits = inside.all(axis=2) & (classes[:, None] == centre_classes)
    if not fits.size:
        return np.full(len(boxes), -1, np.intp)
    return np.where(fits.any(axis=1), fits.argmax(axis=1), -1).astype(np.intp)

"""Points that a network gives as shares of its input become keypoints of people, for all of a frame at once.

As published (DeepPose in mmpose, PFLD, the MobileNetV2 of pytorch_face_landmark): a share times the crop's
size, then the crop's way back; no threshold and no rounding. mmpose's flip test takes the mirrored look's
share x as 1 - x, exchanges left and right, and averages the places; with its `shift_coords` the mirrored x
lose one pixel of the input first, because pixel i of W goes to W - 1 - i.

Where this leaves the published code on purpose: networks that were trained on the numbers of pixels answer
with the middle of the pixel they name (`PointOrigin`), so that points lie in continuous coordinates as
everywhere here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import CellPlace, PointOrigin, RegressedKeypoints
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.kinds.keypoints.cells import cells_to_source
from edgewise.runtime.kinds.keypoints.decode import (
    mirror_order,
    people_looked_at,
    people_of_crops,
)
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.results.outputs import Outputs, read_output
from edgewise.runtime.system.errors import ResultError

Shares = NDArray[np.float64]

HALF = 0.5
"""From the number of a pixel to its middle."""


def decode_regressed(
    spec: RegressedKeypoints, manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]
) -> Keypoints:
    """Decode the points of all looks at one frame: one person a box, in the order of the boxes.

    A person's score is as in `decode_keypoints`; where the network gives no scores it is the box's.

    Args:
        spec: Output names, what the numbers count, flip test and thresholds.
        manifest: Its classes (people are of the first) and keypoints.
        looks: The looks, each person's straight one followed by its mirrored one where `spec.flip_test`.
        outputs: One mapping a look; points float32 [1, k, 2], scores float32 [1, k].

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite, or the looks are not those of
            `spec`.
    """
    layout, people, straight = people_looked_at(spec, manifest, looks)
    count = len(layout.names)
    if not len(people):
        return people_of_crops(
            spec, manifest, looks, np.zeros((0, count, 2)), np.zeros((0, count), np.float32)
        )
    shares = _read(outputs, spec.points, (1, count, 2)).astype(np.float64)
    scores = np.ones(shares.shape[:2], np.float32)
    if spec.scores is not None:
        scores = _read(outputs, spec.scores, (1, count)).clip(0, 1)
    if spec.flip_test:
        order = mirror_order(count, layout.flip_pairs)
        shift = 1 / straight[0].network_size[1] if spec.flip_shift else 0.0
        shares = 0.5 * (shares[::2] + turned_back(shares[1::2], order, shift))
        scores = np.float32(0.5) * (scores[::2] + scores[1::2, order])
    if spec.origin is PointOrigin.INPUT_PIXEL:
        shares = shares + HALF / np.array(straight[0].network_size[::-1])
    points = cells_to_source(CellPlace.CENTRE, shares, (1, 1), straight)
    if spec.origin is PointOrigin.FRAME_PIXEL:
        points = points + HALF
    return people_of_crops(spec, manifest, looks, points, scores)


def turned_back(mirrored: Shares, order: NDArray[np.intp], shift: float) -> Shares:
    """Shares [n, k, 2] that a mirrored look gave, as shares of the straight one."""
    turned = mirrored[:, order]
    turned[..., 0] = 1 - turned[..., 0] - shift
    return turned


def _read(outputs: Sequence[Outputs], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = np.concatenate([read_output(output, name, shape, np.float32) for output in outputs])
    if not np.isfinite(values).all():
        raise ResultError(
            "holds a value that is not finite",
            where=f"output {name!r}",
            hint="run `edgewise selftest` on the bundle",
        )
    return values

"""The rows of keypoints: from heatmaps or points of crops, and from heatmaps over boxes that were found."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.parts import Coordinate
from edgewise.runtime.contract.postprocessing import (
    BoxedKeypoints,
    BoxedPoints,
    HeatmapKeypoints,
    RegressedKeypoints,
)
from edgewise.runtime.kinds.keypoints.boxed import decode_boxed
from edgewise.runtime.kinds.keypoints.boxed_points import decode_boxed_points
from edgewise.runtime.kinds.keypoints.decode import decode_keypoints
from edgewise.runtime.kinds.keypoints.regressed import decode_regressed
from edgewise.runtime.kinds.keypoints.result import Keypoints
from edgewise.runtime.kinds.keypoints.smoothing import PointSmoother
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.results.kind import Kind, Likeness, Nouns, OutputRoles
from edgewise.runtime.results.outputs import Outputs
from edgewise.runtime.results.overlap import box_areas
from edgewise.runtime.results.records import as_records, read_records
from edgewise.runtime.results.result import Record
from edgewise.runtime.system.errors import ResultError

DEFAULT_SIGMA = 0.05
"""Of every keypoint, where the layout states none."""
AREA_OF_BOX = 0.53
"""A person's area as a share of the box, where no mask tells it: the mean over COCO's people."""


class _Person(msgspec.Struct):
    keypoints: list[Coordinate]


def read_keypoints(
    spec: HeatmapKeypoints | RegressedKeypoints,
    manifest: Manifest,
    records: Sequence[Record],
    frame_size: Size,
) -> Keypoints:
    """`read_people` of crops."""
    return read_people(spec, spec.score_threshold, manifest, records, frame_size)


def read_boxed(
    spec: BoxedKeypoints, manifest: Manifest, records: Sequence[Record], frame_size: Size
) -> Keypoints:
    """`read_people` that the network found."""
    return read_people(spec, spec.point_threshold, manifest, records, frame_size)


def read_boxed_points(
    spec: BoxedPoints, manifest: Manifest, records: Sequence[Record], frame_size: Size
) -> Keypoints:
    """`read_people` whose points have no score of their own."""
    return read_people(spec, 0.0, manifest, records, frame_size)


def read_people(
    spec: HeatmapKeypoints | RegressedKeypoints | BoxedKeypoints | BoxedPoints,
    point_threshold: float,
    manifest: Manifest,
    records: Sequence[Record],
    frame_size: Size,
) -> Keypoints:
    """The people of one image's COCO records.

    Raises:
        ResultError: A record does not fit, or its keypoints are not those of the manifest.
    """
    if manifest.keypoints is None:
        raise ResultError("the manifest names no keypoints", where=manifest.name, hint="export it again")
    layout, found = manifest.keypoints, read_records(records, manifest.classes)
    people = [one.keypoints for one in as_records(records, _Person, "keypoints")]
    if odd := [len(one) for one in people if len(one) != 3 * len(layout.names)]:
        raise ResultError(f"a record has {odd[0]} numbers for {len(layout.names)} keypoints")
    triples = np.array(people, np.float64).reshape(len(records), len(layout.names), 3)
    return Keypoints(
        points=(triples[..., :2] + 0.5).astype(np.float32),  # COCO counts from the middle of a pixel
        point_scores=triples[..., 2].astype(np.float32),
        boxes=found.boxes,
        scores=found.scores,
        classes=found.classes,
        labels=manifest.classes,
        layout=layout,
        frame_size=frame_size,
        display_threshold=spec.display_threshold,
        point_threshold=point_threshold,
    )


def alike(reference: Keypoints, candidate: Keypoints) -> Likeness:
    """COCO's object keypoint similarity of every pair of people.

    Mean of exp(-d^2 / (2 area (2 sigma)^2)) over the keypoints that the reference vouches for (that score at
    least its point threshold); of a person without any, all count. A person's area is AREA_OF_BOX of the box.

    Raises:
        ResultError: People of another number of keypoints.
    """
    counts = len(reference.layout.names), len(candidate.layout.names)
    if counts[0] != counts[1]:
        raise ResultError(f"people of {counts[0]} and of {counts[1]} keypoints cannot be compared")
    sigmas = np.array(reference.layout.sigmas or (DEFAULT_SIGMA,) * counts[0], np.float64)
    judged = reference.point_scores >= reference.point_threshold
    first, second = reference.points.astype(np.float64), candidate.points.astype(np.float64)
    squares = ((first[:, None] - second[None]) ** 2).sum(axis=3)
    areas = AREA_OF_BOX * box_areas(reference.boxes.astype(np.float64))
    spread = 2.0 * np.maximum(areas, 1.0)[:, None] * (2.0 * np.maximum(sigmas, 1e-6)) ** 2
    similar = np.exp(-squares / spread[:, None])
    unsure = ~judged.any(axis=1, keepdims=True)
    counted = (judged | unsure)[:, None]
    similarity = (similar * counted).sum(axis=2) / np.maximum(counted.sum(axis=2), 1)
    return Likeness(similarity, similarity)


def mirrored(spec: HeatmapKeypoints | RegressedKeypoints) -> bool:
    """The flip test looks at the mirrored crop too."""
    return spec.flip_test


def compared(spec: BoxedKeypoints | BoxedPoints, manifest: Manifest, outputs: Outputs) -> OutputRoles:
    """Boxes lie in sorted slots."""
    del manifest, outputs
    return OutputRoles(slots=spec.scores)


def extent(found: Keypoints) -> tuple[str, list[str]]:
    """How many points of each person are sure."""
    sure = (found.point_scores >= found.point_threshold).sum(axis=1).tolist()
    title = f"points of score {found.point_threshold:g} and more"
    return title, [f"{count} of {len(found.layout.names)}" for count in sure]


HEATMAP_KEYPOINTS: Kind[HeatmapKeypoints, Keypoints] = Kind(
    spec=HeatmapKeypoints,
    nouns=Nouns("person", "people", "OKS"),
    decode=decode_keypoints,
    read=read_keypoints,
    alike=alike,
    mirrored=mirrored,
    extent=extent,
    smoothing=PointSmoother,
)

REGRESSED_KEYPOINTS: Kind[RegressedKeypoints, Keypoints] = Kind(
    spec=RegressedKeypoints,
    nouns=Nouns("person", "people", "OKS"),
    decode=decode_regressed,
    read=read_keypoints,
    alike=alike,
    mirrored=mirrored,
    extent=extent,
    smoothing=PointSmoother,
)

BOXED_KEYPOINTS: Kind[BoxedKeypoints, Keypoints] = Kind(
    spec=BoxedKeypoints,
    nouns=Nouns("person", "people", "OKS"),
    decode=decode_boxed,
    read=read_boxed,
    alike=alike,
    compared=compared,
    extent=extent,
    smoothing=PointSmoother,
)

BOXED_POINTS: Kind[BoxedPoints, Keypoints] = Kind(
    spec=BoxedPoints,
    nouns=Nouns("face", "faces", "OKS"),
    decode=decode_boxed_points,
    read=read_boxed_points,
    alike=alike,
    compared=compared,
    extent=extent,
)

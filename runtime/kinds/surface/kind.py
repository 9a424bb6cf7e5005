"""The row of surfaces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import ChartSurface
from edgewise.runtime.kinds.surface.agreement import surface_likeness
from edgewise.runtime.kinds.surface.decode import decode_surface
from edgewise.runtime.kinds.surface.records import read_crops
from edgewise.runtime.kinds.surface.result import Surface
from edgewise.runtime.pixels.geometry import Size
from edgewise.runtime.results.kind import Kind, Likeness, Nouns, OutputRoles
from edgewise.runtime.results.outputs import Outputs
from edgewise.runtime.results.records import read_records
from edgewise.runtime.results.result import Record


def read_surface(
    spec: ChartSurface, manifest: Manifest, records: Sequence[Record], frame_size: Size
) -> Surface:
    """The surfaces of one image's COCO DensePose records."""
    found = read_records(records, manifest.classes)
    return Surface(
        boxes=found.boxes,
        scores=found.scores,
        classes=found.classes,
        crops=read_crops(records, spec.parts, frame_size),
        parts=spec.parts,
        labels=manifest.classes,
        frame_size=frame_size,
        display_threshold=spec.display_threshold,
    )


def alike(first: Surface, second: Surface) -> Likeness:
    """Agreement of the pixels: `surface_likeness`."""
    boxes, others = (each.boxes.astype(np.float64) for each in (first, second))
    return surface_likeness(first.crops, boxes, second.crops, others)


def compared(spec: ChartSurface, manifest: Manifest, outputs: Outputs) -> OutputRoles:
    """Surfaces lie in sorted slots."""
    del manifest, outputs
    return OutputRoles(slots=spec.scores)


def extent(found: Surface) -> tuple[str, list[str]]:
    """Parts that each person shows, and on how many pixels."""
    counts = [np.bincount(labels.ravel(), minlength=found.parts + 1)[1:] for labels, _ in found.crops]
    return "parts on pixels", [f"{np.count_nonzero(each)} on {each.sum()}" for each in counts]


CHART_SURFACE: Kind[ChartSurface, Surface] = Kind(
    spec=ChartSurface,
    nouns=Nouns("surface", "surfaces", "surface agreement"),
    decode=decode_surface,
    read=read_surface,
    alike=alike,
    compared=compared,
    extent=extent,
)

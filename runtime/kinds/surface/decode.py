"""Slots become surfaces (DensePose)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import ChartSurface
from edgewise.runtime.frames.looks import Looks
from edgewise.runtime.kinds.surface.charts import read_charts
from edgewise.runtime.kinds.surface.crops import SurfaceCrops, whole_places
from edgewise.runtime.kinds.surface.result import Surface
from edgewise.runtime.results.outputs import Outputs, only_look, read_output, require
from edgewise.runtime.results.slots import read_boxed_things


def decode_surface(
    spec: ChartSurface, manifest: Manifest, looks: Looks, outputs: Sequence[Outputs]
) -> Surface:
    """The surfaces of the one look at a whole frame.

    Boxes are those of `read_boxed_things`. Each box's maps are resized to its whole pixels, and every pixel
    gets the part of the largest fine map where a coarse map other than the background's is the largest, and
    that part's U and V, not held in 0..1 (`charts.py`).

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed or not finite, or there are several looks.
    """
    geometry, only = only_look(looks, outputs)
    found = read_boxed_things(spec, len(manifest.classes), only, geometry)
    shape = (1, only[spec.scores].shape[-1], spec.parts + 1)
    fine = read_output(only, spec.fine, (*shape, None, None), np.float32)
    square = fine.shape[-1] == fine.shape[-2]
    require(square, spec.fine, f"holds maps of {list(fine.shape[-2:])}, which are no squares")
    u, v = (read_output(only, name, fine.shape, np.float32) for name in (spec.u, spec.v))
    coarse = read_output(only, spec.coarse, (*shape[:2], None, *fine.shape[-2:]), np.float32)
    require(coarse.shape[2] > 1, spec.coarse, "has a background and nothing else")
    for name, maps in ((spec.coarse, coarse), (spec.fine, fine), (spec.u, u), (spec.v, v)):
        require(np.isfinite(maps[0, found.slots]).all(), name, "holds a value that is not finite")
    places = whole_places(found.boxes)
    crops = [
        read_charts(coarse[0, slot], fine[0, slot], u[0, slot], v[0, slot], (h, w), spec.upsampling)
        for slot, (_, _, w, h) in zip(found.slots.tolist(), places.tolist(), strict=True)
    ]
    return Surface(
        boxes=found.boxes,
        scores=found.scores,
        classes=found.classes,
        crops=SurfaceCrops.of(crops, places, geometry.source_size),
        parts=spec.parts,
        labels=manifest.classes,
        frame_size=geometry.source_size,
        display_threshold=spec.display_threshold,
        settled=found.settled,
    )

"""From graph outputs to results in source-image coordinates, one file a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import (
    HeatmapKeypoints,
    PanopticFusion,
    PanopticSegments,
    PastedInstances,
    PrototypeInstances,
)
from edgewise.runtime.frames.looks import Views
from edgewise.runtime.kinds.instances.decode import pasted_instances, prototype_instances
from edgewise.runtime.kinds.keypoints.decode import heatmap_keypoints
from edgewise.runtime.kinds.panoptic.fusion import panoptic_fusion
from edgewise.runtime.kinds.panoptic.segments import panoptic_segments
from edgewise.runtime.results.result import Result
from edgewise.runtime.system.errors import ResultError

Outputs = Mapping[str, NDArray[Any]]


def postprocess(manifest: Manifest, views: Views, outputs: Sequence[Outputs]) -> Result:
    """Decode what the graph gave for the looks at one frame, as the manifest says.

    Args:
        manifest: Its `postprocess` names the outputs and thresholds, its `classes` the labels.
        views: The looks at the frame.
        outputs: One mapping a look: arrays by the graph's output names, with a batch dimension of 1.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed, not finite or unsettled, the looks are not
            those of the kind, or nothing here implements the manifest's kind of postprocessing.
    """
    spec = manifest.postprocess
    if len(outputs) != len(views.looks):
        raise ResultError(
            f"{len(outputs)} outputs for {len(views.looks)} looks at the frame", where=manifest.name
        )
    if isinstance(spec, HeatmapKeypoints):
        if manifest.keypoints is None:
            raise ResultError("the manifest names no keypoints", where=manifest.name, hint="export it again")
        return heatmap_keypoints(spec, manifest.classes, manifest.keypoints, outputs, views)
    if len(views.looks) != 1:
        raise ResultError(
            f"a result of one look was wanted, {len(views.looks)} were taken",
            where=manifest.name,
            hint="this kind of result needs a preprocessing of the whole frame",
        )
    (only,), geometry = outputs, views.looks[0].geometry
    if isinstance(spec, PrototypeInstances):
        return prototype_instances(spec, manifest.classes, only, geometry)
    if isinstance(spec, PastedInstances):
        return pasted_instances(spec, manifest.classes, only, geometry)
    if isinstance(spec, PanopticSegments):
        return panoptic_segments(spec, manifest.classes, only, geometry)
    if isinstance(spec, PanopticFusion):
        return panoptic_fusion(spec, manifest.classes, only, geometry)
    raise ResultError(f"nothing here decodes {type(spec).__name__} results", where=manifest.name)

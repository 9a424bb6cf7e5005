"""All kinds of result, by the struct that a manifest names them by."""

from __future__ import annotations

from typing import Any

from edgewise.runtime.contract.manifest import Manifest
from edgewise.runtime.contract.postprocessing import Postprocess, declare
from edgewise.runtime.kinds.boxes.kind import CENTRED_BOXES, DETECTED_BOXES
from edgewise.runtime.kinds.instances.kind import PASTED_INSTANCES, PROTOTYPE_INSTANCES
from edgewise.runtime.kinds.keypoints.kind import (
    BOXED_KEYPOINTS,
    BOXED_POINTS,
    HEATMAP_KEYPOINTS,
    REGRESSED_KEYPOINTS,
)
from edgewise.runtime.kinds.panoptic.kind import PANOPTIC_FUSION, PANOPTIC_SEGMENTS
from edgewise.runtime.kinds.surface.kind import CHART_SURFACE
from edgewise.runtime.results.kind import Kind
from edgewise.runtime.system.errors import ManifestError

KINDS: dict[type[Postprocess], Kind[Any, Any]] = {
    kind.spec: kind
    for kind in (
        DETECTED_BOXES,
        CENTRED_BOXES,
        PROTOTYPE_INSTANCES,
        PASTED_INSTANCES,
        PANOPTIC_SEGMENTS,
        PANOPTIC_FUSION,
        HEATMAP_KEYPOINTS,
        REGRESSED_KEYPOINTS,
        BOXED_KEYPOINTS,
        BOXED_POINTS,
        CHART_SURFACE,
    )
}


def register(kind: Kind[Any, Any]) -> None:
    """Make a kind from elsewhere known, so that manifests may name it and everything here can decode it.

    Raises:
        ManifestError: Its struct has a row already.
    """
    if kind.spec in KINDS:
        raise ManifestError(f"{kind.spec.__name__} has a kind already", hint="register each kind once")
    declare(kind.spec)
    KINDS[kind.spec] = kind


def kind_of(manifest: Manifest) -> Kind[Any, Any]:
    """The row of a manifest's kind of result; ManifestError where nothing here implements it."""
    spec = type(manifest.postprocess)
    if spec not in KINDS:
        raise ManifestError(
            f"nothing here decodes results of the kind {spec.__name__}",
            where=manifest.name,
            hint="register the kind (edgewise.runtime.decoding.kinds.register) before it is used",
        )
    return KINDS[spec]

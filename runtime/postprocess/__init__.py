"""From graph outputs to results in source-image coordinates, one file a kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from edgewise.runtime.errors import ResultError
from edgewise.runtime.geometry import Geometry
from edgewise.runtime.manifest import Manifest
from edgewise.runtime.manifest_kinds import PastedInstances, PrototypeInstances
from edgewise.runtime.postprocess.instances import pasted_instances, prototype_instances
from edgewise.runtime.results import Instances


def postprocess(manifest: Manifest, outputs: Mapping[str, NDArray[Any]], geometry: Geometry) -> Instances:
    """Decode the outputs of one frame as the manifest says.

    Args:
        manifest: Its `postprocess` names the outputs and thresholds, its `classes` the labels.
        outputs: Arrays by the graph's output names, with a leading batch dimension of 1.
        geometry: What preprocessing did to the frame.

    Raises:
        ResultError: An output is missing, mis-shaped, ill-typed, not finite or unsettled, or nothing here
            implements the manifest's kind of postprocessing.
    """
    spec = manifest.postprocess
    if isinstance(spec, PrototypeInstances):
        return prototype_instances(spec, manifest.classes, outputs, geometry)
    if isinstance(spec, PastedInstances):
        return pasted_instances(spec, manifest.classes, outputs, geometry)
    kind = spec.__struct_config__.tag
    raise ResultError(
        f"this edgewise cannot decode results of the kind {kind!r}",
        where=manifest.name,
        hint="update edgewise; it decodes prototype-instances and pasted-instances",
    )

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from edgewise.runtime.geometry import Geometry
from edgewise.runtime.manifest import ClassLabel
from edgewise.runtime.manifest_kinds import PanopticSegments
from edgewise.runtime.results import Panoptic


def panoptic_segments(
    spec: PanopticSegments,
    labels: tuple[ClassLabel, ...],
    outputs: Mapping[str, NDArray[Any]],
    geometry: Geometry,
) -> Panoptic:
    raise NotImplementedError

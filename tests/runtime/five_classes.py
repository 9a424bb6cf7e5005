"""Two things and three kinds of stuff, for the tests of panoptic decoding."""

from __future__ import annotations

import msgspec
import numpy as np

from edgewise.runtime.contract.manifest import ClassKind, ClassLabel
from edgewise.runtime.contract.postprocessing import PanopticFusion, PanopticSegments
from edgewise.runtime.decoding.decode import decode_result
from edgewise.runtime.frames.looks import Look, Looks
from edgewise.runtime.kinds.panoptic.result import Panoptic
from edgewise.runtime.pixels.geometry import Geometry
from edgewise.runtime.results.outputs import Outputs

from .conftest import detector_manifest

LABELS = (
    ClassLabel(id=1, name="cat"),
    ClassLabel(id=2, name="dog"),
    ClassLabel(id=11, name="sky", kind=ClassKind.STUFF),
    ClassLabel(id=12, name="grass", kind=ClassKind.STUFF),
    ClassLabel(id=13, name="road", kind=ClassKind.STUFF),
)
CAT, DOG, SKY, GRASS, ROAD = range(5)


def decode(spec: PanopticSegments | PanopticFusion, outputs: Outputs, geometry: Geometry) -> Panoptic:
    """What a model of these classes says with `outputs` about a frame that it saw through `geometry`."""
    manifest = msgspec.structs.replace(detector_manifest({}), classes=LABELS, postprocess=spec)
    look = Look(np.zeros((1, *geometry.network_size, 3), np.uint8), geometry)
    found = decode_result(manifest, Looks(geometry.source_size, (look,)), [outputs])
    assert isinstance(found, Panoptic)
    return found

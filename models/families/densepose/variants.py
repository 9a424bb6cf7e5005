"""The configs that entries begin from: the published ones, a tiny one and the smallest."""

from __future__ import annotations

import msgspec

from edgewise.models.families.densepose.config import DensePoseConfig, SurfaceConfig
from edgewise.models.families.rcnn import variants as rcnn
from edgewise.models.families.rcnn.config import RcnnConfig

_SLOTS = 20


def _densepose(detector: RcnnConfig, surface: SurfaceConfig, slots: int = _SLOTS) -> DensePoseConfig:
    decoding = msgspec.structs.replace(detector.decoding, slots=slots)
    return DensePoseConfig.of(msgspec.structs.replace(detector, decoding=decoding), surface)


S1X = _densepose(
    # RoIAlign of its first version, and two samples along each axis of a bin.
    msgspec.structs.replace(
        rcnn.DETECTRON2,
        conventions=msgspec.structs.replace(rcnn.DETECTRON2.conventions, half_pixel=False),
    ),
    SurfaceConfig(),
)

LEGACY = msgspec.structs.replace(
    S1X,
    surface=SurfaceConfig(
        decoder=False, bins=14, coarse=15, part_weight=0.3, coarse_weight=2.0, chart_weight=0.1
    ),
)

TINY = _densepose(
    rcnn.TINY, SurfaceConfig(bins=24, convolutions=3, channels=64, parts=10, positives_limit=12)
)

MICRO = _densepose(
    rcnn.MICRO, SurfaceConfig(bins=4, convolutions=1, channels=8, coarse=11, parts=10), slots=4
)
"""The smallest that has every part: for tests."""

"""The configs that entries begin from: the published ones, a tiny one and the smallest."""

from __future__ import annotations

import msgspec

from edgewise.models.families.densepose.config import DensePoseConfig, SurfaceConfig
from edgewise.models.families.rcnn import variants as rcnn

_SLOTS = 20

S1X = DensePoseConfig(
    detector=msgspec.structs.replace(
        rcnn.DETECTRON2,
        class_count=1,
        mask=None,
        # RoIAlign of its first version, and two samples along each axis of a bin.
        conventions=msgspec.structs.replace(rcnn.DETECTRON2.conventions, half_pixel=False),
        decoding=msgspec.structs.replace(rcnn.DETECTRON2.decoding, slots=_SLOTS),
    )
)

LEGACY = msgspec.structs.replace(
    S1X,
    surface=SurfaceConfig(
        decoder=False, bins=14, coarse=15, part_weight=0.3, coarse_weight=2.0, chart_weight=0.1
    ),
)

TINY = DensePoseConfig(
    detector=msgspec.structs.replace(
        rcnn.TINY,
        class_count=1,
        mask=None,
        decoding=msgspec.structs.replace(rcnn.TINY.decoding, slots=_SLOTS),
    ),
    surface=SurfaceConfig(bins=14, convolutions=3, channels=64, parts=10, positives_limit=12),
)

MICRO = DensePoseConfig(
    detector=msgspec.structs.replace(
        rcnn.MICRO, class_count=1, mask=None, decoding=msgspec.structs.replace(rcnn.MICRO.decoding, slots=4)
    ),
    surface=SurfaceConfig(bins=4, convolutions=1, channels=8, coarse=11, parts=10),
)
"""The smallest that has every part: for tests."""

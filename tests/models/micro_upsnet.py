"""The smallest UPSNet that has every part."""

from __future__ import annotations

import msgspec

from edgewise.models.families.upsnet.config import TINY, SemanticConfig
from edgewise.models.layers.resnet import ResNetConfig
from edgewise.models.layers.two_stage.proposal_stage import ProposalConfig

MICRO = msgspec.structs.replace(
    TINY,
    input_size=(64, 96),
    thing_count=3,
    stuff_count=2,
    backbone=ResNetConfig(depths=(1, 1, 1, 1), widths=(4, 4, 8, 8), expansion=2, stem_width=4),
    pyramid_channels=8,
    pyramid_global=True,
    pyramid_extra=True,
    box_channels=16,
    mask_channels=8,
    canonical_size=64.0,
    semantic=SemanticConfig(channels=(8, 6)),
    decoding=msgspec.structs.replace(
        TINY.decoding, proposals=ProposalConfig(candidates=40, kept=60, rounds=40), slots=24, rounds=60
    ),
)

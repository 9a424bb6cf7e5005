"""The micro UPSNet, with rounds enough for its suppressions and its pruning to be the sequential ones."""

from __future__ import annotations

import msgspec

from edgewise.models.families.upsnet import config
from edgewise.models.layers.two_stage.proposal_stage import ProposalConfig

MICRO = msgspec.structs.replace(
    config.MICRO,
    decoding=msgspec.structs.replace(
        config.TINY.decoding, proposals=ProposalConfig(candidates=40, kept=60, rounds=40), slots=24, rounds=60
    ),
)

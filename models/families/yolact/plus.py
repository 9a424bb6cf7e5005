"""YOLACT++ (Bolya et al., TPAMI 2020) as the registry sees it: YOLACT by another config."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.families.family import ModelEntry
from edgewise.models.families.yolact import family, recipes
from edgewise.models.families.yolact.config import PLUS_MICRO, PLUS_R50, PLUS_R101, PLUS_TINY

FAMILY = replace(family.FAMILY, name="yolact-plus", micro=PLUS_MICRO)

ENTRIES = (
    family.published("yolact-plus-r50", PLUS_R50, 0.341, of=FAMILY),
    family.published("yolact-plus-r101", PLUS_R101, 0.346, of=FAMILY),
    ModelEntry("yolact-plus-tiny", FAMILY, PLUS_TINY, recipes.PLUS_TINY),
)

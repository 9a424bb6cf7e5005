"""CenterNet of keypoint triplets (Duan et al., 2019) as the registry sees it: CornerNet with centres."""

from __future__ import annotations

from dataclasses import replace

from edgewise.models.families.cornernet import family, recipes
from edgewise.models.families.cornernet.config import (
    TRIPLETS52,
    TRIPLETS104,
    TRIPLETS_MICRO,
    TRIPLETS_TINY,
    CornernetConfig,
)
from edgewise.models.families.cornernet.layouts import TRIPLETS
from edgewise.models.families.family import ModelEntry, Named, PublishedFigure

FAMILY = replace(
    family.FAMILY,
    name="centernet-triplets",
    micro=TRIPLETS_MICRO,
    named=Named("CenterNet finds things", things="class_count"),
    layouts=(TRIPLETS,),
)


def _published(name: str, config: CornernetConfig, average_precision: float) -> ModelEntry:
    figure = PublishedFigure(
        "box AP",
        average_precision,
        "COCO test-dev",
        "one scale, flip test; from memory of the paper",
    )
    return ModelEntry(name, FAMILY, config, recipes.TRIPLETS, "MIT", (figure,))


ENTRIES = (
    _published("centernet-triplets-52", TRIPLETS52, 0.416),
    _published("centernet-triplets-104", TRIPLETS104, 0.449),
    ModelEntry("centernet-triplets-tiny", FAMILY, TRIPLETS_TINY, recipes.TINY),
)

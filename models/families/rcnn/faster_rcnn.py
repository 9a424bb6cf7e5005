"""Faster R-CNN as the registry sees it: Mask R-CNN without the mask branch."""

from __future__ import annotations

import msgspec

from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.draft import draft_manifest
from edgewise.models.families.family import Family, ModelEntry, Named
from edgewise.models.families.rcnn import recipes
from edgewise.models.families.rcnn.config import RcnnConfig
from edgewise.models.families.rcnn.deploy import RcnnDeploy
from edgewise.models.families.rcnn.layouts import LAYOUTS
from edgewise.models.families.rcnn.losses import losses
from edgewise.models.families.rcnn.manifest import graph, preprocessing, raw_heads
from edgewise.models.families.rcnn.network import Rcnn
from edgewise.models.families.rcnn.published import published_figure
from edgewise.models.families.rcnn.variants import DETECTRON2, MICRO, TORCHVISION_V1, TORCHVISION_V2
from edgewise.models.families.recipe import Recipe
from edgewise.runtime.contract.manifest import Manifest, Provenance
from edgewise.runtime.contract.postprocessing import DetectedBoxes


def manifest(name: str, config: RcnnConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest; export adds files, precisions, calibration, goldens and budgets."""
    return draft_manifest(
        name,
        vocabulary,
        provenance,
        graph(config),
        preprocessing(config),
        DetectedBoxes(settled="settled"),
    )


FAMILY = Family(
    name="faster-rcnn",
    task="boxes",
    micro=msgspec.structs.replace(MICRO, mask=None),
    named=Named("Faster R-CNN finds things", things="class_count"),
    build=Rcnn,
    loss=losses,
    deploy=RcnnDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=LAYOUTS,
    more_rounds=RcnnConfig.with_more_rounds,
)


def _published(name: str, config: RcnnConfig, recipe: Recipe, licence: str, figure: float) -> ModelEntry:
    return ModelEntry(
        name,
        FAMILY,
        msgspec.structs.replace(config, mask=None),
        recipe,
        licence,
        (published_figure("box AP", figure, recipe),),
    )


ENTRIES = (
    _published("faster-rcnn-r50-v1", TORCHVISION_V1, recipes.TORCHVISION, "BSD-3-Clause", 0.370),
    _published("faster-rcnn-r50-v2", TORCHVISION_V2, recipes.TORCHVISION, "BSD-3-Clause", 0.467),
    _published("faster-rcnn-r50-detectron2", DETECTRON2, recipes.DETECTRON2_3X, "CC BY-SA 3.0", 0.402),
)

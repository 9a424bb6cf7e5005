"""Keypoint R-CNN as the registry sees it: Faster R-CNN of one class, with a map for each of its points."""

from __future__ import annotations

import msgspec

from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.draft import draft_manifest
from edgewise.models.families.family import Family, ModelEntry, Named
from edgewise.models.families.rcnn import recipes
from edgewise.models.families.rcnn.config import RcnnConfig
from edgewise.models.families.rcnn.deploy import RcnnDeploy
from edgewise.models.families.rcnn.keypoint_variants import DETECTRON2, MICRO, TINY, TORCHVISION_V1
from edgewise.models.families.rcnn.layouts import KEYPOINT_LAYOUTS
from edgewise.models.families.rcnn.losses import losses
from edgewise.models.families.rcnn.manifest import graph, preprocessing, raw_heads
from edgewise.models.families.rcnn.network import Rcnn
from edgewise.models.families.rcnn.published import published_figure
from edgewise.models.families.recipe import Recipe
from edgewise.runtime.contract.manifest import Manifest, Provenance
from edgewise.runtime.contract.postprocessing import BoxedKeypoints


def manifest(name: str, config: RcnnConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest; export adds files, precisions, calibration, goldens and budgets."""
    keypoints = config.keypoints
    return draft_manifest(
        name,
        vocabulary,
        provenance,
        graph(config),
        preprocessing(config),
        BoxedKeypoints(
            settled="settled",
            point_score=keypoints.point_score,
            point_threshold=keypoints.point_threshold,
            pixel_numbers=keypoints.pixel_numbers,
        ),
    )


def as_trained(config: RcnnConfig) -> RcnnConfig:
    """Training data says where a point lies, not which pixel holds it."""
    keypoints = msgspec.structs.replace(config.keypoints, pixel_numbers=False)
    return msgspec.structs.replace(config, keypoints=keypoints)


FAMILY = Family(
    name="keypoint-rcnn",
    task="people",
    micro=MICRO,
    named=Named("Keypoint R-CNN finds the keypoints of one class", things=1, keypoints="keypoint_count"),
    build=Rcnn,
    loss=losses,
    deploy=RcnnDeploy,
    preprocessing=preprocessing,
    manifest=manifest,
    raw_heads=raw_heads,
    layouts=KEYPOINT_LAYOUTS,
    more_rounds=RcnnConfig.with_more_rounds,
    as_trained=as_trained,
)


def _published(name: str, config: RcnnConfig, recipe: Recipe, licence: str, figure: float) -> ModelEntry:
    return ModelEntry(name, FAMILY, config, recipe, licence, (published_figure("OKS AP", figure, recipe),))


ENTRIES = (
    _published("keypoint-rcnn-r50-v1", TORCHVISION_V1, recipes.TORCHVISION_KEYPOINTS, "BSD-3-Clause", 0.650),
    _published("keypoint-rcnn-r50-detectron2", DETECTRON2, recipes.DETECTRON2_3X, "CC BY-SA 3.0", 0.655),
    ModelEntry("keypoint-rcnn-tiny", FAMILY, TINY, recipes.TINY_KEYPOINTS),
)

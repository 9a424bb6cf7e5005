"""DensePose as the registry sees it."""

from __future__ import annotations

import msgspec

from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.densepose import recipes
from edgewise.models.families.densepose.config import DensePoseConfig
from edgewise.models.families.densepose.deploy import DensePoseDeploy
from edgewise.models.families.densepose.layouts import DETECTRON2
from edgewise.models.families.densepose.losses import losses
from edgewise.models.families.densepose.network import DensePose
from edgewise.models.families.densepose.variants import LEGACY, MICRO, S1X, TINY
from edgewise.models.families.draft import draft_manifest
from edgewise.models.families.family import Family, ModelEntry, Named, PublishedFigure
from edgewise.models.families.rcnn import manifest as rcnn
from edgewise.models.families.recipe import Recipe
from edgewise.models.families.tensors import float_tensor
from edgewise.runtime.contract.manifest import Graph, Manifest, Provenance
from edgewise.runtime.contract.postprocessing import ChartSurface

_LICENCE = "CC BY-SA 3.0"


def graph(config: DensePoseConfig) -> Graph:
    """Of the deploy module: the detector's, and four maps of every slot before its last output."""
    detector, side, parts = rcnn.graph(config), config.side, config.surface.parts + 1
    maps = tuple(
        float_tensor(name, (1, config.decoding.slots, channels, side, side), meaning)
        for name, channels, meaning in (
            ("coarse", config.surface.coarse, "logits over the box; channel 0 is the background"),
            ("fine", parts, "logits of the parts over the box; channel 0 is the background"),
            ("u", parts, "U on the chart of each part, over the box"),
            ("v", parts, "V on the chart of each part, over the box"),
        )
    )
    *things, settled = detector.outputs
    return msgspec.structs.replace(detector, outputs=(*things, *maps, settled))


def manifest(name: str, config: DensePoseConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest; export adds files, precisions, calibration, goldens and budgets."""
    surface = config.surface
    return draft_manifest(
        name,
        vocabulary,
        provenance,
        graph(config),
        rcnn.preprocessing(config),
        ChartSurface(settled="settled", parts=surface.parts, upsampling=surface.upsampling),
    )


FAMILY = Family(
    name="densepose",
    task="surface",
    micro=MICRO,
    named=Named("DensePose reads the surface of one class", things=1),
    build=DensePose,
    loss=losses,
    deploy=DensePoseDeploy,
    preprocessing=rcnn.preprocessing,
    manifest=manifest,
    raw_heads=rcnn.raw_heads,
    layouts=(DETECTRON2,),
    more_rounds=DensePoseConfig.with_more_rounds,
)


def _published(name: str, config: DensePoseConfig, recipe: Recipe, box_ap: float, gps: float) -> ModelEntry:
    source = "MODEL_ZOO of detectron2's DensePose, inputs of 800 to 1333 pixels"
    dataset = "DensePose-COCO minival 2014"
    figures = (
        PublishedFigure("box AP", box_ap, dataset, source),
        PublishedFigure("GPS AP", gps, dataset, f"{source}; with geodesic distances on the SMPL body"),
    )
    return ModelEntry(name, FAMILY, config, recipe, _LICENCE, figures)


ENTRIES = (
    _published("densepose-r50-s1x", S1X, recipes.S1X, 0.612, 0.637),
    _published("densepose-r50-s1x-legacy", LEGACY, recipes.LEGACY, 0.581, 0.521),
    ModelEntry("densepose-tiny", FAMILY, TINY, recipes.TINY),
)
